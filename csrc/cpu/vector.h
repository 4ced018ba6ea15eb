// Vectors of the width that the instruction set has, for kernels that cannot be left to the compiler's own
// vectorization (GCC 12 gives up on byte masks, and compiles `c[i] ? a[i] : b[i]` wrongly at -O3 with AVX: it swaps
// elements where it makes both reads conditional). GCC and Clang make them from plain operators on any CPU.
// Included inside a kernel file, once per instruction set; no include guard, therefore.

constexpr int kVectorBytes = PF_VECTOR_BYTES;

// kCount bfloat16 as floats and back; spelled out, since GCC refuses to convert vectors of a template's own types.
template <int kCount>
struct BFloat16Vector;

#define PF_BFLOAT16_VECTOR(COUNT)                                                                          \
  template <>                                                                                              \
  struct BFloat16Vector<COUNT> {                                                                           \
    typedef uint16_t Bits __attribute__((vector_size(COUNT * 2)));                                         \
    typedef uint32_t Whole __attribute__((vector_size(COUNT * 4)));                                        \
    typedef float Values __attribute__((vector_size(COUNT * 4)));                                          \
    static PF_INLINE Values read(const void* from) {                                                       \
      Bits bits;                                                                                           \
      std::memcpy(&bits, from, sizeof(bits));                                                              \
      const Whole whole = __builtin_convertvector(bits, Whole);                                            \
      return reinterpret_cast<Values>(whole << 16);                                                        \
    }                                                                                                      \
    static PF_INLINE void write(void* to, const Values& v) {                                               \
      const Whole whole = reinterpret_cast<Whole>(v);                                                      \
      const Whole rounded = (whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16; /* to nearest, ties to even */ \
      const Whole nan = Whole{} + 0x7fc0u;                                                                 \
      const Whole kept = v != v ? nan : rounded;                                                           \
      const Bits bits = __builtin_convertvector(kept, Bits);                                               \
      std::memcpy(to, &bits, sizeof(bits));                                                                \
    }                                                                                                      \
  };
PF_BFLOAT16_VECTOR(4)
#if PF_VECTOR_BYTES >= 32
PF_BFLOAT16_VECTOR(8)
#endif
#if PF_VECTOR_BYTES >= 64
PF_BFLOAT16_VECTOR(16)
#endif
#undef PF_BFLOAT16_VECTOR

// As many elements of float or double as fit, at most `kMost`, and integers and masks of the same size.
template <typename W, int kMost = 64>
struct Vector {
  static constexpr int kCount = kMost * int(sizeof(W)) < kVectorBytes ? kMost : kVectorBytes / int(sizeof(W));
  using Element = integer_t<W>;
  typedef W Values __attribute__((vector_size(kCount * sizeof(W))));
  typedef Element Integers __attribute__((vector_size(kCount * sizeof(W))));

  static PF_INLINE Values read(const W* from) {
    Values v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static PF_INLINE Integers read_integers(const Element* from) {
    Integers v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static PF_INLINE void write(W* to, const Values& v) { std::memcpy(to, &v, sizeof(v)); }
  static PF_INLINE void write_integers(Element* to, const Integers& v) { std::memcpy(to, &v, sizeof(v)); }

  // kCount elements of another type, widened, and rounded.
  template <typename T>
  static PF_INLINE Values load_from(const T* from) {
    if constexpr (std::is_same_v<T, W>) {
      return read(from);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      return BFloat16Vector<kCount>::read(from);
    } else {
      Values v;
      for (int k = 0; k < kCount; ++k) v[k] = load(from[k]);
      return v;
    }
  }
  template <typename T>
  static PF_INLINE void store_to(T* to, const Values& v) {
    if constexpr (std::is_same_v<T, W>) {
      write(to, v);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      BFloat16Vector<kCount>::write(to, v);
    } else {
      for (int k = 0; k < kCount; ++k) to[k] = store<T>(W(v[k]));
    }
  }
};

// n elements, widened or rounded. The last vector overlaps the one before where n is no multiple of its length.
template <typename T>
void widen(const T* from, int64_t n, wide_t<T>* to) {
  using V = Vector<wide_t<T>, 16>;
  constexpr int kCount = V::kCount;
  for (int64_t i = 0; i + kCount <= n; i += kCount) V::write(to + i, V::load_from(from + i));
  if (n >= kCount) {
    if (n % kCount != 0) V::write(to + n - kCount, V::load_from(from + n - kCount));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = load(from[i]);
  }
}

template <typename T>
void narrow(const wide_t<T>* from, int64_t n, T* to) {
  using V = Vector<wide_t<T>, 16>;
  constexpr int kCount = V::kCount;
  for (int64_t i = 0; i + kCount <= n; i += kCount) V::store_to(to + i, V::read(from + i));
  if (n >= kCount) {
    if (n % kCount != 0) V::store_to(to + n - kCount, V::read(from + n - kCount));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = store<T>(from[i]);
  }
}

// Whole vectors read and written through references (returned by value they would draw warnings about their ABI).
template <typename T>
PF_INLINE void load_vector(const T* from, typename Vector<wide_t<T>>::Values& to) {
  to = Vector<wide_t<T>>::load_from(from);
}
PF_INLINE void load_vector(const int32_t* from, Vector<float>::Integers& to) {
  to = Vector<float>::read_integers(from);
}
template <typename T>
PF_INLINE void store_vector(const typename Vector<wide_t<T>>::Values& from, T* to) {
  Vector<wide_t<T>>::store_to(to, from);
}

// The first n lanes alone.
template <typename T>
PF_INLINE void store_part(const typename Vector<wide_t<T>>::Values& from, T* to, int64_t n) {
  if (n >= Vector<wide_t<T>>::kCount) return store_vector(from, to);
  T narrow[Vector<wide_t<T>>::kCount];
  store_vector(from, narrow);
  for (int64_t k = 0; k < n; ++k) to[k] = narrow[k];
}
