// Vectors of float or double as wide as the instruction set this is compiled for. Included inside kernel files, so
// once per instruction set (multiversion.h). Built on the compilers' vector extensions, no intrinsics.

constexpr int kVectorBytes = PF_VECTOR_BYTES;

template <typename W>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / 4;
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / 8;
};
typedef uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

#define PF_INLINE inline __attribute__((always_inline))

// Results come back through references: vectors returned by value would draw warnings about their ABI.
PF_INLINE void load_vector(const float* from, Vector<float>::type& to) { __builtin_memcpy(&to, from, sizeof(to)); }
PF_INLINE void load_vector(const double* from, Vector<double>::type& to) { __builtin_memcpy(&to, from, sizeof(to)); }
PF_INLINE void load_vector(const int32_t* from, Vector<float>::mask& to) { __builtin_memcpy(&to, from, sizeof(to)); }

PF_INLINE void load_vector(const BFloat16* from, Vector<float>::type& to) {
  HalfBits narrow;
  __builtin_memcpy(&narrow, from, sizeof(narrow));
  const FloatBits bits = __builtin_convertvector(narrow, FloatBits) << 16;
  __builtin_memcpy(&to, &bits, sizeof(to));
}

PF_INLINE void load_vector(const Half* from, Vector<float>::type& to) {
  float wide[Vector<float>::lanes];
  for (int k = 0; k < Vector<float>::lanes; ++k) wide[k] = load(from[k]);
  __builtin_memcpy(&to, wide, sizeof(to));
}

// Stores with one rounding.
PF_INLINE void store_vector(const Vector<float>::type& from, float* to) { __builtin_memcpy(to, &from, sizeof(from)); }
PF_INLINE void store_vector(const Vector<double>::type& from, double* to) { __builtin_memcpy(to, &from, sizeof(from)); }

PF_INLINE void store_vector(const Vector<float>::type& from, BFloat16* to) {
  FloatBits bits;
  __builtin_memcpy(&bits, &from, sizeof(bits));
  const FloatBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const FloatBits kept = from == from ? rounded : FloatBits{} + 0x7fc0u;
  const HalfBits narrow = __builtin_convertvector(kept, HalfBits);
  __builtin_memcpy(to, &narrow, sizeof(narrow));
}

PF_INLINE void store_vector(const Vector<float>::type& from, Half* to) {
  float wide[Vector<float>::lanes];
  __builtin_memcpy(wide, &from, sizeof(from));
  for (int k = 0; k < Vector<float>::lanes; ++k) to[k] = store<Half>(wide[k]);
}

// The first n lanes alone.
template <typename T>
PF_INLINE void store_part(const typename Vector<wide_t<T>>::type& from, T* to, int64_t n) {
  if (n >= Vector<wide_t<T>>::lanes) return store_vector(from, to);
  T narrow[Vector<wide_t<T>>::lanes];
  store_vector(from, narrow);
  for (int64_t k = 0; k < n; ++k) to[k] = narrow[k];
}
