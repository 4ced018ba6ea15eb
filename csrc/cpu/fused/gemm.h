// The inner product of the Winograd and pointwise kernels, float32. Included inside a kernel file, once per
// instruction set, after cpu/vector.h; no include guard, therefore.

// Columns of a packed panel, and rows that are computed at once: what fills the registers.
constexpr int64_t kPanel = 2 * Vector<float>::kCount;
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 12 : kVectorBytes == 32 ? 6 : 4;

// Rows x panel of a product: a is (Rows, depth), b a packed panel (depth, kPanel). end(row, left, right) gets the sums.
template <int Rows, typename End>
PF_INLINE void gemm_block(const float* a, const float* b, int64_t depth, const End& end) {
  using F = Vector<float>;
  typename F::Values left[Rows], right[Rows];
  for (int r = 0; r < Rows; ++r) left[r] = typename F::Values{}, right[r] = typename F::Values{};
  for (int64_t k = 0; k < depth; ++k) {
    const typename F::Values b0 = F::read(b + k * kPanel), b1 = F::read(b + k * kPanel + F::kCount);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float value = a[r * depth + k];
      left[r] += b0 * value;
      right[r] += b1 * value;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) end(r, left[r], right[r]);
}

// All rows of one panel; end(row, left, right).
template <typename End>
PF_INLINE void gemm_panel(const float* a, const float* b, int64_t rows, int64_t depth, const End& end) {
  int64_t t = 0;
  const auto shifted = [&](int64_t first) {
    return [&end, first](int r, const auto& left, const auto& right) { end(first + r, left, right); };
  };
  for (; t + kRowsAtOnce <= rows; t += kRowsAtOnce) gemm_block<kRowsAtOnce>(a + t * depth, b, depth, shifted(t));
  for (; t + 4 <= rows; t += 4) gemm_block<4>(a + t * depth, b, depth, shifted(t));
  for (; t < rows; ++t) gemm_block<1>(a + t * depth, b, depth, shifted(t));
}
