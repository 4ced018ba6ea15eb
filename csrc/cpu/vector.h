// Vectors of the width that the instruction set has, for kernels that cannot be left to the compiler's own
// vectorization (GCC 12 gives up on byte masks, and compiles `c[i] ? a[i] : b[i]` wrongly at -O3 with AVX: it swaps
// elements where it makes both reads conditional). GCC and Clang make them from plain operators on any CPU.
// Included inside a kernel file, once per instruction set; no include guard, therefore.

constexpr int kVectorBytes = PF_VECTOR_BYTES;

// Narrow integers of a vector, widened and back; spelled out, since GCC refuses to convert vectors of a template's own
// types.
template <int kCount>
struct Bits;

#define PF_BITS(COUNT)                                                                                          \
  template <>                                                                                                   \
  struct Bits<COUNT> {                                                                                          \
    typedef uint16_t Narrow __attribute__((vector_size(COUNT * 2)));                                            \
    typedef uint32_t Whole __attribute__((vector_size(COUNT * 4)));                                             \
    typedef float Values __attribute__((vector_size(COUNT * 4)));                                               \
    static PF_INLINE void widen(const Narrow& from, Whole& to) { to = __builtin_convertvector(from, Whole); }   \
    static PF_INLINE void narrow(const Whole& from, Narrow& to) { to = __builtin_convertvector(from, Narrow); } \
  };
PF_BITS(4)
#if PF_VECTOR_BYTES >= 32
PF_BITS(8)
#endif
#if PF_VECTOR_BYTES >= 64
PF_BITS(16)
#endif
#undef PF_BITS

// kCount bfloat16 as floats and back.
template <int kCount>
struct BFloat16Vector : Bits<kCount> {
  using typename Bits<kCount>::Narrow, typename Bits<kCount>::Whole, typename Bits<kCount>::Values;
  static PF_INLINE Values read(const void* from) {
    Narrow narrow;
    Whole whole;
    std::memcpy(&narrow, from, sizeof(narrow));
    Bits<kCount>::widen(narrow, whole);
    return reinterpret_cast<Values>(whole << 16);
  }
  static PF_INLINE void write(void* to, const Values& v) {
#ifdef PF_BF16_PRODUCTS
    if constexpr (kCount == 16) {  // to nearest, ties to even; what is below the normal numbers becomes 0
      const __m256bh narrow = _mm512_cvtneps_pbh((__m512)v);
      std::memcpy(to, &narrow, sizeof(narrow));
      return;
    }
#endif
    const Whole whole = reinterpret_cast<Whole>(v);
    const Whole rounded = (whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16;  // to nearest, ties to even
    const Whole nan = Whole{} + 0x7fc0u;
    Narrow narrow;
    Bits<kCount>::narrow(v != v ? nan : rounded, narrow);
    std::memcpy(to, &narrow, sizeof(narrow));
  }
};

// Conversions of half by instructions: F16C with AVX2 and above, AVX-512, NEON.
template <int kCount>
struct HalfInstructions {
  static constexpr bool kThere = false;
};

#define PF_HALF_INSTRUCTIONS(COUNT, WIDEN, NARROW)                                                          \
  template <>                                                                                               \
  struct HalfInstructions<COUNT> {                                                                          \
    using Narrow = Bits<COUNT>::Narrow;                                                                     \
    using Values = Bits<COUNT>::Values;                                                                     \
    static constexpr bool kThere = true;                                                                    \
    static PF_INLINE void widen(const Narrow& from, Values& to) { to = reinterpret_cast<Values>(WIDEN); }   \
    static PF_INLINE void narrow(const Values& from, Narrow& to) { to = reinterpret_cast<Narrow>(NARROW); } \
  };
#if defined(__aarch64__)
PF_HALF_INSTRUCTIONS(4, vcvt_f32_f16(reinterpret_cast<float16x4_t>(from)),
                     vcvt_f16_f32(reinterpret_cast<float32x4_t>(from)))
#elif defined(__clang__) && PF_VECTOR_BYTES >= 32  // which knows them as conversions of vectors
typedef _Float16 Half8 __attribute__((vector_size(16)));
PF_HALF_INSTRUCTIONS(8, __builtin_convertvector(reinterpret_cast<Half8>(from), Values),
                     __builtin_convertvector(from, Half8))
#if PF_VECTOR_BYTES >= 64
typedef _Float16 Half16 __attribute__((vector_size(32)));
PF_HALF_INSTRUCTIONS(16, __builtin_convertvector(reinterpret_cast<Half16>(from), Values),
                     __builtin_convertvector(from, Half16))
#endif
#elif PF_VECTOR_BYTES >= 32
typedef short Shorts8 __attribute__((vector_size(16)));
PF_HALF_INSTRUCTIONS(8, __builtin_ia32_vcvtph2ps256(reinterpret_cast<Shorts8>(from)),
                     __builtin_ia32_vcvtps2ph256(from, 4))  // 4: rounds as the thread does, to nearest
#if PF_VECTOR_BYTES >= 64
typedef short Shorts16 __attribute__((vector_size(32)));
PF_HALF_INSTRUCTIONS(16, __builtin_ia32_vcvtph2ps512_mask(reinterpret_cast<Shorts16>(from), Values{}, -1, 4),
                     __builtin_ia32_vcvtps2ph512_mask(from, 4, Shorts16{}, -1))
#endif
#endif
#undef PF_HALF_INSTRUCTIONS

// kCount half as floats and back: by instructions where there are some, else as load and store do it (elements.h).
template <int kCount>
struct HalfVector : Bits<kCount> {
  using typename Bits<kCount>::Narrow, typename Bits<kCount>::Whole, typename Bits<kCount>::Values;
  static PF_INLINE Values read(const void* from) {
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    if constexpr (HalfInstructions<kCount>::kThere) {
      Values values;
      HalfInstructions<kCount>::widen(narrow, values);
      return values;
    } else {
      Whole half;
      Bits<kCount>::widen(narrow, half);
      const Whole shifted = half << 17;
      const Values normal = reinterpret_cast<Values>((shifted >> 4) + (0xe0u << 23)) * 0x1p-112f;
      const Values subnormal = reinterpret_cast<Values>((shifted >> 17) | (126u << 23)) - 0.5f;
      const Whole magnitude =
          shifted < (1u << 27) ? reinterpret_cast<Whole>(subnormal) : reinterpret_cast<Whole>(normal);
      return reinterpret_cast<Values>(((half & 0x8000u) << 16) | magnitude);
    }
  }
  static PF_INLINE void write(void* to, const Values& v) {
    Narrow narrow;
    if constexpr (HalfInstructions<kCount>::kThere) {
      HalfInstructions<kCount>::narrow(v, narrow);
    } else {
      const Whole bits = reinterpret_cast<Whole>(v), shifted = bits << 1;
      const Values magnitude = reinterpret_cast<Values>(bits & 0x7fffffffu) * 0x1p+112f * 0x1p-110f;
      const Whole exponent = shifted & 0xff000000u, least = Whole{} + 0x71000000u;
      const Whole larger = exponent < least ? least : exponent;
      const Whole rounded = reinterpret_cast<Whole>(reinterpret_cast<Values>((larger >> 1) + 0x07800000u) + magnitude);
      const Whole number = ((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu), nan = Whole{} + 0x7e00u;
      Bits<kCount>::narrow((bits >> 31 << 15) | (shifted > 0xff000000u ? nan : number), narrow);
    }
    std::memcpy(to, &narrow, sizeof(narrow));
  }
};

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
      return HalfVector<kCount>::read(from);
    }
  }
  template <typename T>
  static PF_INLINE void store_to(T* to, const Values& v) {
    if constexpr (std::is_same_v<T, W>) {
      write(to, v);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      BFloat16Vector<kCount>::write(to, v);
    } else {
      HalfVector<kCount>::write(to, v);
    }
  }
};

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

// The first n lanes alone, n below a vector's length; the others are loaded as zeros.
template <typename T>
PF_NOINLINE void load_few(const T* from, int64_t n, typename Vector<wide_t<T>>::Values& to) {
  T copy[Vector<wide_t<T>>::kCount] = {};
  std::memcpy(copy, from, n * sizeof(T));
  load_vector(copy, to);
}
template <typename T>
PF_NOINLINE void store_few(const typename Vector<wide_t<T>>::Values& from, int64_t n, T* to) {
  T copy[Vector<wide_t<T>>::kCount];
  store_vector(from, copy);
  std::memcpy(to, copy, n * sizeof(T));
}

// The first n lanes, all of them where n is larger. Copies keep vectors of the common case in registers.
template <typename T>
PF_INLINE void load_part(const T* from, int64_t n, typename Vector<wide_t<T>>::Values& to) {
  if (__builtin_expect(n >= Vector<wide_t<T>>::kCount, 1)) return load_vector(from, to);
  typename Vector<wide_t<T>>::Values few;
  load_few(from, n, few);
  to = few;
}
template <typename T>
PF_INLINE void store_part(const typename Vector<wide_t<T>>::Values& from, T* to, int64_t n) {
  if (__builtin_expect(n >= Vector<wide_t<T>>::kCount, 1)) return store_vector(from, to);
  const typename Vector<wide_t<T>>::Values few = from;
  store_few(few, n, to);
}

// n elements from T or W to the other. The last vector overlaps the one before where n is no multiple of its length.
template <typename From, typename To>
PF_NOINLINE void convert(const From* from, int64_t n, To* to) {
  constexpr int L = Vector<wide_t<To>>::kCount;
  typename Vector<wide_t<To>>::Values v;
  if (n < L) {
    load_few(from, n, v), store_few(v, n, to);
    return;
  }
  for (int64_t i = 0; i + L <= n; i += L) load_vector(from + i, v), store_vector(v, to + i);
  if (n % L != 0) load_vector(from + n - L, v), store_vector(v, to + n - L);
}
template <typename T>
PF_INLINE void widen(const T* from, int64_t n, wide_t<T>* to) {
  convert<T, wide_t<T>>(from, n, to);
}
template <typename T>
PF_INLINE void narrow(const wide_t<T>* from, int64_t n, T* to) {
  convert<wide_t<T>, T>(from, n, to);
}

// Calls body(whole, i, L) for every whole vector of n elements, and for those after the last one with how many they
// are; `whole` is a type that tells load_some, store_some and keep which of the two it is.
template <int L, typename Body>
PF_INLINE void each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + L <= n; i += L) body(std::true_type{}, i, int64_t{L});
  if (i < n) body(std::false_type{}, i, n - i);
}
template <typename T>
PF_INLINE void load_some(std::true_type, const T* from, int64_t, typename Vector<wide_t<T>>::Values& to) {
  load_vector(from, to);
}
template <typename T>
PF_INLINE void load_some(std::false_type, const T* from, int64_t n, typename Vector<wide_t<T>>::Values& to) {
  load_few(from, n, to);
}
template <typename T>
PF_INLINE void store_some(std::true_type, const typename Vector<wide_t<T>>::Values& from, int64_t, T* to) {
  store_vector(from, to);
}
template <typename T>
PF_INLINE void store_some(std::false_type, const typename Vector<wide_t<T>>::Values& from, int64_t n, T* to) {
  store_few(from, n, to);
}

// Zeros in all lanes but the first n.
template <typename Values>
PF_INLINE void keep(std::true_type, int64_t, Values&) {}
template <typename Values>
PF_INLINE void keep(std::false_type, int64_t n, Values& v) {
  Values kept = {};
  std::memcpy(&kept, &v, n * sizeof(v[0]));
  v = kept;
}
