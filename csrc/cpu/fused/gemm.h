// The inner product of the Winograd, pointwise and pyramid kernels: float32, or bfloat16 with sums in float32. Included
// inside a kernel file, once per instruction set, after cpu/vector.h; no include guard, therefore.

// Columns of a packed panel, and rows that are computed at once: what fills the registers.
constexpr int64_t kPanel = 2 * Vector<float>::kCount;
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 12 : kVectorBytes == 32 ? 6 : 4;

// One step of products with a vector of columns. In float32 it takes one element of the depth; in bfloat16 a pair of
// them, which lie side by side: b is packed as (depth / 2, columns, 2), and the depth is even.
template <typename T>
struct Products {
  static constexpr int kStep = 1;
  using Sums = Vector<float>::Values;
  using Columns = Sums;
  using Value = float;
  static PF_INLINE Columns columns(const float* b) { return Vector<float>::read(b); }
  static PF_INLINE Value value(const float* a) { return *a; }
  static PF_INLINE void add(Sums& sum, const Columns& b, const Value& a) { sum += b * a; }
};

template <>
struct Products<BFloat16> {
  static constexpr int kStep = 2;
  using Sums = Vector<float>::Values;
#ifdef PF_BF16_PRODUCTS
  typedef uint32_t Columns __attribute__((vector_size(kVectorBytes)));
  using Value = Columns;
  static PF_INLINE Columns columns(const BFloat16* b) {
    Columns pairs;
    std::memcpy(&pairs, b, sizeof(pairs));
    return pairs;
  }
  static PF_INLINE Value value(const BFloat16* a) {
    uint32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    return Columns{} + pair;
  }
  static PF_INLINE void add(Sums& sum, const Columns& b, const Value& a) {
    sum = (Sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)b, (__m512bh)a);
  }
#else
  struct Columns {
    Sums first, second;
  };
  struct Value {
    float first, second;
  };
  static PF_INLINE Columns columns(const BFloat16* b) {
    typedef uint32_t Whole __attribute__((vector_size(kVectorBytes)));
    Whole pairs;
    std::memcpy(&pairs, b, sizeof(pairs));
    return {reinterpret_cast<Sums>(pairs << 16), reinterpret_cast<Sums>(pairs & 0xffff0000u)};
  }
  static PF_INLINE Value value(const BFloat16* a) { return {load(a[0]), load(a[1])}; }
  static PF_INLINE void add(Sums& sum, const Columns& b, const Value& a) {
    sum += b.first * a.first;
    sum += b.second * a.second;
  }
#endif
};

// Rows x (kVectors vectors of columns): sum[r] += a's row r, which begins `stride` after the row before, times b, a
// packed panel (depth, columns).
template <int Rows, int kVectors, typename T>
PF_INLINE void gemm_step(const T* a, int64_t stride, const T* b, int64_t depth,
                         typename Products<T>::Sums (&sum)[Rows][kVectors]) {
  using P = Products<T>;
  constexpr int64_t kWidth = kVectors * Vector<float>::kCount * P::kStep;
  for (int64_t k = 0; k < depth; k += P::kStep, b += kWidth) {
    typename P::Columns columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) columns[v] = P::columns(b + v * Vector<float>::kCount * P::kStep);
#pragma GCC unroll 24
    for (int r = 0; r < Rows; ++r) {
      const typename P::Value value = P::value(a + r * stride + k);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) P::add(sum[r][v], columns[v], value);
    }
  }
}

// Rows x panel of a product to `to`, (Rows, kPanel): a is (Rows, depth), b a packed panel. A function of its own, since
// compilers that see what becomes of the sums spill them within the loop.
template <int Rows, typename T>
PF_NOINLINE void gemm_block(const T* a, const T* b, int64_t depth, float* to) {
  using F = Vector<float>;
  typename F::Values sum[Rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = typename F::Values{};
  gemm_step(a, depth, b, depth, sum);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) F::write(to + r * kPanel, sum[r][0]), F::write(to + r * kPanel + F::kCount, sum[r][1]);
}

// All rows of one panel; end(row, left, right) gets the sums.
template <typename T, typename End>
PF_INLINE void gemm_panel(const T* a, const T* b, int64_t rows, int64_t depth, const End& end) {
  using F = Vector<float>;
  alignas(64) float sums[kRowsAtOnce * kPanel];
  const auto finish = [&](int64_t first, int count) {
    for (int r = 0; r < count; ++r) {
      const typename F::Values left = F::read(sums + r * kPanel), right = F::read(sums + r * kPanel + F::kCount);
      end(first + r, left, right);
    }
  };
  int64_t t = 0;
  for (; t + kRowsAtOnce <= rows; t += kRowsAtOnce) {
    gemm_block<kRowsAtOnce>(a + t * depth, b, depth, sums), finish(t, kRowsAtOnce);
  }
  for (; t + 4 <= rows; t += 4) gemm_block<4>(a + t * depth, b, depth, sums), finish(t, 4);
  for (; t < rows; ++t) gemm_block<1>(a + t * depth, b, depth, sums), finish(t, 1);
}
