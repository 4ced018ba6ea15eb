// Included once per instruction set by multiversion.h; see there. Maxima are found by blocks first, with vectors,
// and the position then in the one block that holds the first maximum.

#include "cpu/vector.h"

// Position of the first NaN, else of the first maximum, of n values `stride` apart.
template <typename T>
int64_t first_of(const T* x, int64_t n, int64_t stride, wide_t<T> best, bool nan) {
  for (int64_t i = 0; i < n; ++i) {
    const wide_t<T> v = load(x[i * stride]);
    if (nan ? v != v : v == best) return i;
  }
  return 0;
}

// Argmax of one contiguous map.
template <typename T>
int64_t argmax_plane(const T* x, int64_t n) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  using M = typename Vector<W>::Integers;
  constexpr int L = Vector<W>::kCount;
  constexpr int64_t kBlock = 512;
  constexpr W lowest = -std::numeric_limits<W>::infinity();
  W best = lowest;
  int64_t best_block = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    int64_t i = begin;
    V m0 = V{} + lowest, m1 = m0, v0, v1;
    M nan0 = {}, nan1 = {};
    for (; i + 2 * L <= end; i += 2 * L) {
      load_vector(x + i, v0), load_vector(x + i + L, v1);
      m0 = v0 > m0 ? v0 : m0, m1 = v1 > m1 ? v1 : m1;
      nan0 |= v0 != v0, nan1 |= v1 != v1;
    }
    m0 = m1 > m0 ? m1 : m0, nan0 |= nan1;
    W most = lowest;
    bool nan = false;
    for (int k = 0; k < L; ++k) most = m0[k] > most ? m0[k] : most, nan |= nan0[k] != 0;
    for (; i < end; ++i) {
      const W v = load(x[i]);
      most = v > most ? v : most, nan |= v != v;
    }
    if (nan) return begin + first_of(x + begin, end - begin, 1, best, true);
    if (most > best) best = most, best_block = begin;
  }
  // The block's first vector that holds it, then the value.
  int64_t i = best_block;
  const int64_t end = std::min(best_block + kBlock, n);
  for (; i + L <= end; i += L) {
    V v;
    load_vector(x + i, v);
    const M equal = v == best;
    bool any = false;
    for (int k = 0; k < L; ++k) any |= equal[k] != 0;
    if (any) break;
  }
  return i + first_of(x + i, end - i, 1, best, false);
}

// Argmax of every map of channels [c0, c0 + lanes) of one channels_last image: `available` elements may be read from
// `image` on. Lanes past the last channel see the next pixel's; they are not stored.
template <typename T>
void argmax_channels(const T* image, int64_t available, int64_t pixels, int64_t channels, int64_t c0,
                     int64_t* indices) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  using M = typename Vector<W>::Integers;
  using I = std::remove_cv_t<std::remove_reference_t<decltype(M{}[0])>>;
  constexpr int L = Vector<W>::kCount;
  constexpr int64_t kBlock = 32;
  constexpr W lowest = -std::numeric_limits<W>::infinity();
  const int64_t whole = available < c0 + L ? 0 : std::min(pixels, (available - c0 - L) / channels + 1);
  V best = V{} + lowest, v;
  M best_block = {}, nan_block = M{} - 1;
  for (int64_t block = 0; block * kBlock < pixels; ++block) {
    V most = V{} + lowest;
    M nan = {};
    const int64_t end = std::min((block + 1) * kBlock, pixels), end_whole = std::min(end, whole);
    int64_t p = block * kBlock;
    for (; p < end_whole; ++p) {
      load_vector(image + p * channels + c0, v);
      most = v > most ? v : most;
      nan |= v != v;
    }
    for (; p < end; ++p) {
      T last[L] = {};
      for (int64_t k = 0; k < std::min<int64_t>(L, channels - c0); ++k) last[k] = image[p * channels + c0 + k];
      load_vector(last, v);
      most = v > most ? v : most;
      nan |= v != v;
    }
    const M higher = most > best;
    best = higher ? most : best;
    best_block = higher ? M{} + static_cast<I>(block) : best_block;
    nan_block = (nan & (nan_block < 0)) ? M{} + static_cast<I>(block) : nan_block;
  }
  for (int64_t k = 0; k < std::min<int64_t>(L, channels - c0); ++k) {
    const bool nan = nan_block[k] >= 0;
    const int64_t begin = (nan ? nan_block[k] : best_block[k]) * kBlock;
    indices[c0 + k] =
        begin + first_of(image + begin * channels + c0 + k, std::min(kBlock, pixels - begin), channels, best[k], nan);
  }
}

template <typename T>
int64_t argmax_lanes() {
  return Vector<wide_t<T>>::kCount;
}
