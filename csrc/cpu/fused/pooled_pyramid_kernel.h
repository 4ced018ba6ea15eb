// Included once per instruction set by multiversion.h; see there.

#include "cpu/vector.h"
#include "cpu/fused/gemm.h"

// Columns of a panel of packed filters: one vector where the filters fit it, else two.
inline int64_t pyramid_columns(int64_t filters) {
  return filters <= Vector<float>::kCount ? Vector<float>::kCount : kPanel;
}
inline int64_t pointwise_panel() { return kPanel; }

// The maximum of a 2x2 window of channels; NaN wins.
template <int L, typename T>
PF_INLINE void window_maximum(const T* above, const T* below, int64_t channels, T* to) {
  if constexpr (L == 1) {
    for (int64_t k = 0; k < channels; ++k) {
      const T rest[3] = {above[channels + k], below[k], below[channels + k]};
      to[k] = above[k];
      for (const T& next : rest) to[k] = load(next) > load(to[k]) || load(next) != load(next) ? next : to[k];
    }
  } else {
    using F = Vector<float, L>;
    const auto take_larger = [](typename F::Values& a, const typename F::Values& b) {
      a = b > a ? b : a;
      a = b != b ? b : a;
    };
    for (int64_t k = 0; k < channels; k += F::kCount) {
      const int64_t at = std::min(k, channels - F::kCount);  // the last vector overlaps the one before
      typename F::Values most = F::load_from(above + at);
      take_larger(most, F::load_from(above + channels + at));
      take_larger(most, F::load_from(below + at));
      take_larger(most, F::load_from(below + channels + at));
      F::store_to(to + at, most);
    }
  }
}

// Row i of a level's pooled map with a pixel of zeros on either side; zeros outside the level.
template <int L, typename T>
PF_INLINE void pooled_row_of(const PyramidJob<T>& job, const PyramidLevel<T>& level, int64_t n, int64_t i, T* to) {
  const int64_t c = job.channels;
  const auto clear = [&](T* from, int64_t pixels) { std::fill(from, from + pixels * c, T{}); };
  if (i < 0 || i >= level.h) return clear(to, level.w + 2);
  clear(to, 1), clear(to + (level.w + 1) * c, 1);
  const T* above = job.x + (n * job.height + level.row_start[i]) * job.width * c;
  const T* below = above + job.width * c;
  for (int64_t j = 0; j < level.w; ++j) {
    const int64_t at = level.column_start[j] * c;
    window_maximum<L>(above + at, below + at, c, to + (j + 1) * c);
  }
}

template <typename T>
void pooled_row(const PyramidJob<T>& job, const PyramidLevel<T>& level, int64_t n, int64_t i, T* to) {
  if (job.channels >= 16) return pooled_row_of<16>(job, level, n, i, to);
  if (job.channels >= 8) return pooled_row_of<8>(job, level, n, i, to);
  if (job.channels >= 4) return pooled_row_of<4>(job, level, n, i, to);
  pooled_row_of<1>(job, level, n, i, to);
}

// Rows pixels of a 3x3 convolution: three products of depth 3 * channels, whose rows are one pixel apart.
template <int Rows, int Vectors, typename T>
PF_NOINLINE void pyramid_block(const T* const* rows, int64_t first, int64_t channels, const T* filter,
                               const float* bias, float* to, int64_t padded) {
  using F = Vector<float>;
  typename F::Values sum[Rows][Vectors];
#pragma GCC unroll 24
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) sum[r][v] = F::read(bias + v * F::kCount);
  }
  const int64_t depth = 3 * channels;
#pragma GCC unroll 1
  for (int d = 0; d < 3; ++d, filter += depth * Vectors * F::kCount) {
    gemm_step(rows[d] + first * channels, channels, filter, depth, sum);
  }
#pragma GCC unroll 24
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) F::write(to + (first + r) * padded + v * F::kCount, sum[r][v]);
  }
}

template <int Vectors, typename T>
PF_INLINE void pyramid_row(const T* const* rows, int64_t width, int64_t channels, const T* filter, const float* bias,
                           float* to, int64_t padded) {
  constexpr int kMost = Vectors == 1 ? 2 * kRowsAtOnce : kRowsAtOnce;
  int64_t j = 0;
  for (; j + kMost <= width; j += kMost) {
    pyramid_block<kMost, Vectors>(rows, j, channels, filter, bias, to, padded);
  }
  for (; j + 4 <= width; j += 4) pyramid_block<4, Vectors>(rows, j, channels, filter, bias, to, padded);
  for (; j + 2 <= width; j += 2) pyramid_block<2, Vectors>(rows, j, channels, filter, bias, to, padded);
  for (; j < width; ++j) pyramid_block<1, Vectors>(rows, j, channels, filter, bias, to, padded);
}

// Rows [i0, i1) of a level: pooled, then convolved. scratch: kPyramidRows + 2 rows of (level.w + 2) * channels.
template <typename T>
void pyramid_filter(const PyramidJob<T>& job, const PyramidLevel<T>& level, int64_t n, int64_t i0, int64_t i1,
                    T* scratch) {
  const int64_t c = job.channels, row = (level.w + 2) * c, columns = pyramid_columns(job.filters);
  for (int64_t i = i0 - 1; i <= i1; ++i) pooled_row(job, level, n, i, scratch + (i - i0 + 1) * row);
  for (int64_t panel = 0; panel < job.padded; panel += columns) {
    const T* filter = level.filter + panel * 9 * c;
    for (int64_t i = i0; i < i1; ++i) {
      const T* above = scratch + (i - i0) * row;
      const T* rows[3] = {above, above + row, above + 2 * row};
      float* to = job.maps + ((n * job.pixels + level.place) + i * level.w) * job.padded + panel;
      if (columns == Vector<float>::kCount) {
        pyramid_row<1>(rows, level.w, c, filter, level.bias + panel, to, job.padded);
      } else {
        pyramid_row<2>(rows, level.w, c, filter, level.bias + panel, to, job.padded);
      }
    }
  }
}

// Row y of the output: all levels upsampled and added, ReLU, a 1x1 convolution, the addition, ReLU.
// blended: levels rows of width * padded; joined: one of (width + 1) * padded.
template <typename T>
void pyramid_join(const PyramidJob<T>& job, int64_t n, int64_t y, float* blended, T* joined) {
  using F = Vector<float>;
  const int64_t padded = job.padded, depth = job.filters;
  const typename F::Values zero = {};
  for (size_t l = 0; l < job.levels.size(); ++l) {
    const PyramidLevel<T>& level = job.levels[l];
    const float* maps = job.maps + (n * job.pixels + level.place) * padded;
    const float* first = maps + level.rows->first[y] * level.w * padded;
    const float* second = maps + level.rows->second[y] * level.w * padded;
    const float a = level.rows->a[y], b = level.rows->b[y];
    float* to = blended + l * job.width * padded;
    for (int64_t i = 0; i < level.w * padded; ++i) to[i] = first[i] * a + second[i] * b;
  }
  for (int64_t x = 0; x < job.width; ++x) {
    for (int64_t k = 0; k < padded; k += F::kCount) {
      typename F::Values sum = {};
      for (size_t l = 0; l < job.levels.size(); ++l) {
        const Taps<float>& taps = *job.levels[l].columns;
        const float* from = blended + l * job.width * padded + k;
        sum += F::read(from + taps.first[x] * padded) * taps.a[x] + F::read(from + taps.second[x] * padded) * taps.b[x];
      }
      // Dense rows for the product: what lies beyond the filters is the next pixel's.
      F::store_to(joined + x * depth + k, sum < zero ? zero : sum);
    }
  }
  T* out = job.y + (n * job.height + y) * job.width * job.outputs;
  for (int64_t panel = 0; panel < job.outputs; panel += kPanel) {
    const int64_t left_lanes = std::min<int64_t>(F::kCount, job.outputs - panel);
    const int64_t right_lanes = std::min<int64_t>(kPanel, job.outputs - panel) - left_lanes;
    const auto end = [&](int64_t x, int64_t lanes, const typename F::Values& value, int64_t at) {
      T* to = out + x * job.outputs + panel + at;
      if (lanes <= 0) return;
      typename F::Values bias, before;
      load_part(job.bias + panel + at, lanes, bias), load_part(to, lanes, before);
      const typename F::Values sum = value + bias + before;
      store_part(sum < zero ? zero : sum, to, lanes);
    };
    gemm_panel(joined, job.expand + panel * depth, job.width, depth,
               [&](int64_t x, const auto& left, const auto& right) {
                 end(x, left_lanes, left, 0);
                 end(x, right_lanes, right, F::kCount);
               });
  }
}
