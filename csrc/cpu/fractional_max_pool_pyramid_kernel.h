// Included once per instruction set by multiversion.h; see there.
//
// The idea: a level's windows are a choice among the (H-1) x (W-1) windows of stride 1, and what such a window
// holds does not depend on the level. So every map is pooled once with stride 1, in vectors and without branches,
// and all levels only copy from that. In the backward, gradients of all levels are first added up by window;
// then each window gives its sum to the pixel that won it, one byte a window for all levels together.

#include "cpu/vector.h"

// Maximum and winner (2 * row + column) of n windows; `step` is the distance of horizontal neighbours. ATen's rule,
// in reading order: a later element wins if it is greater or NaN. The rule is associative, so rows go first.
// Buffers have room for a whole vector at the end; `above` and `below` need none.
template <bool kPosition, typename W>
void stride_one_windows(const W* above, const W* below, int64_t n, int64_t step, W* best, pool_integer_t<W>* winner) {
  using V = Vector<W, 16>;
  using Values = typename V::Values;
  using Integers = typename V::Integers;
  const auto windows = [&](const Values& a, const Values& b, const Values& c, const Values& d, int64_t i) {
    const Integers b_wins = (b > a) | (b != b), d_wins = (d > c) | (d != d);
    const Values top = b_wins ? b : a, bottom = d_wins ? d : c;
    const Integers bottom_wins = (bottom > top) | (bottom != bottom);
    V::write(best + i, bottom_wins ? bottom : top);
    if constexpr (kPosition) V::write_integers(winner + i, bottom_wins ? 2 - d_wins : -b_wins);  // true is -1
  };
  int64_t i = 0;
  for (; i + V::kCount <= n; i += V::kCount) {
    windows(V::read(above + i), V::read(above + i + step), V::read(below + i), V::read(below + i + step), i);
  }
  if (i < n) {
    Values a{}, b{}, c{}, d{};
    const size_t bytes = (n - i) * sizeof(W);
    std::memcpy(&a, above + i, bytes);
    std::memcpy(&b, above + i + step, bytes);
    std::memcpy(&c, below + i, bytes);
    std::memcpy(&d, below + i + step, bytes);
    windows(a, b, c, d, i);
  }
}

// n pixels gather from the four windows that they are in; `above` is the row of windows above, `step` the distance
// of horizontal neighbours. Reads from step elements before to a vector behind.
template <typename W>
void spread_to_pixels(const W* windows, const W* above, const pool_integer_t<W>* winner,
                      const pool_integer_t<W>* winner_above, int64_t n, int64_t step, W* g) {
  using V = Vector<W, 16>;
  using Values = typename V::Values;
  for (int64_t i = 0; i < n; i += V::kCount) {
    const Values a = V::read(windows + i), b = V::read(windows + i - step);
    const Values c = V::read(above + i), d = V::read(above + i - step);
    const Values zero{};
    const Values here =
        (V::read_integers(winner + i) == 0 ? a : zero) + (V::read_integers(winner + i - step) == 1 ? b : zero);
    V::write(g + i, here + ((V::read_integers(winner_above + i) == 2 ? c : zero) +
                            (V::read_integers(winner_above + i - step) == 3 ? d : zero)));
  }
}

// Starts of one axis, the same for all channels.
template <typename W>
void shared_starts(int32_t in, int32_t out, W u, int32_t* start) {
  const W alpha = window_alpha<W>(in, out), clamped = window_sample(u);
  for (int32_t i = 0; i < out - 1; ++i) start[i] = window_start(i, in, clamped, alpha);
  start[out - 1] = in - 2;
}

// The mask of PoolStarts; returns whether it tells all starts.
inline bool mask_starts(const int32_t* start, int64_t n, int64_t in, uint16_t* mask) {
  for (int64_t i = 0; i < (in + 15) / 16; ++i) mask[i] = 0;
  bool increasing = true;
  for (int64_t i = 0; i < n; ++i) {
    mask[start[i] / 16] |= static_cast<uint16_t>(1u << start[i] % 16);
    increasing &= i == 0 || start[i] > start[i - 1];
  }
  return increasing;
}

// Starts of one axis with a sample a lane: lowest, highest, and every lane's distance from the lowest. Lanes
// without a channel repeat the first channel's sample.
template <typename W>
void starts_by_lane(int32_t in, int32_t out, const W* u, int64_t lanes, int32_t* low, int32_t* high,
                    pool_integer_t<W>* distance) {
  using Distance = pool_integer_t<W>;
  const W alpha = window_alpha<W>(in, out);
  for (int32_t i = 0; i < out; ++i) {
    Distance* row = distance + i * lanes;
    if (i == out - 1) {
      for (int64_t k = 0; k < lanes; ++k) row[k] = in - 2;
    } else {
      for (int64_t k = 0; k < lanes; ++k) row[k] = window_start(i, in, u[k], alpha);
    }
    Distance least = row[0], most = row[0];
    for (int64_t k = 0; k < lanes; ++k) {
      const Distance start = row[k];
      least = start < least ? start : least;
      most = start > most ? start : most;
    }
    most = most - least < kPoolMostRows ? most : least + kPoolMostRows - 1;  // never more, but memory hangs on it
    for (int64_t k = 0; k < lanes; ++k) row[k] = (row[k] < most ? row[k] : most) - least;
    low[i] = static_cast<int32_t>(least);
    high[i] = static_cast<int32_t>(most);
  }
}

// The affine map and the ReLU of a vector; constants start at `k`.
template <typename V, typename W>
PF_INLINE typename V::Values affine_of(typename V::Values y, const PoolAffine<W>& affine, int64_t k) {
  if (affine.scale != nullptr) y = y * V::read(affine.scale + k);
  if (affine.shift != nullptr) y = y + V::read(affine.shift + k);
  if (affine.relu) y = y < 0 ? typename V::Values{} : y;  // NaN stays
  return y;
}

// y = max(v * scale + shift, 0) in place, for pixels of `lanes` elements.
template <int L, typename W>
void apply_affine(W* v, int64_t pixels, int64_t lanes, const PoolAffine<W>& affine) {
  using V = Vector<W, L>;
  for (int64_t p = 0; p < pixels; ++p, v += lanes) {
    for (int64_t k = 0; k < lanes; k += V::kCount) V::write(v + k, affine_of<V>(V::read(v + k), affine, k));
  }
}

// From the gradient of y to that of x, in place; adds the sums for shift and scale (of g and of g * x), lane by
// lane. `x` are the values before the affine map.
template <int L, typename W>
void affine_backward(const W* x, W* g, int64_t pixels, int64_t lanes, const PoolAffine<W>& affine, W* sum_shift,
                     W* sum_scale) {
  using V = Vector<W, L>;
  using Values = typename V::Values;
  const PoolAffine<W> without_relu{affine.scale, affine.shift, false};
  for (int64_t p = 0; p < pixels; ++p, x += lanes, g += lanes) {
    for (int64_t k = 0; k < lanes; k += V::kCount) {
      const Values value = V::read(x + k);
      Values passed = V::read(g + k);
      // NaN lets the gradient pass, as in PyTorch.
      if (affine.relu) passed = affine_of<V>(value, without_relu, k) <= 0 ? Values{} : passed;
      V::write(sum_shift + k, V::read(sum_shift + k) + passed);
      V::write(sum_scale + k, V::read(sum_scale + k) + passed * value);
      if (affine.scale != nullptr)
        V::write(g + k, passed * V::read(affine.scale + k));
      else
        V::write(g + k, passed);
    }
  }
}

// A row of a map as dense elements: the row itself, or a copy in `buffer` where its strides are others.
template <typename T>
const T* dense_row(const PoolMap<const T>& map, int64_t y, int64_t channels, T* buffer) {
  const T* row = map.data + y * map.row;
  if ((map.column == channels || map.w == 1) && (map.channel == 1 || channels == 1)) return row;
  for (int64_t x = 0; x < map.w; ++x) {
    for (int64_t c = 0; c < channels; ++c) buffer[x * channels + c] = row[x * map.column + c * map.channel];
  }
  return buffer;
}

#include "cpu/fractional_max_pool_pyramid_planes.h"
#include "cpu/fractional_max_pool_pyramid_channels_last.h"
