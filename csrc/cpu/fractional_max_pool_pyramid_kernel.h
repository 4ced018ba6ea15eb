// Included once per instruction set by multiversion.h; see there.
//
// The idea: a level's windows are a choice among the (H-1) x (W-1) windows of stride 1, and what such a window
// holds does not depend on the level. So every map is pooled once with stride 1, in vectors and without branches,
// and all levels only copy from that. In the backward, gradients of all levels are first added up by window;
// then each window gives its sum to the pixel that won it, one byte a window for all levels together.

#include "cpu/vector.h"

// Maximum and winner (2 * row + column) of n windows; `step` is the distance of horizontal neighbors. ATen's rule,
// in reading order: a later element wins if it is greater or NaN. The rule is associative, so rows go first.
// Buffers have room for a whole vector at the end; `above` and `below` need none.
template <bool kPosition, typename W>
PF_NOINLINE void stride_one_windows(const W* above, const W* below, int64_t n, int64_t step, W* best,
                                    integer_t<W>* winner) {
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
// of horizontal neighbors. Reads from step elements before to a vector behind.
template <typename W>
PF_NOINLINE void spread_to_pixels(const W* windows, const W* above, const integer_t<W>* winner,
                                  const integer_t<W>* winner_above, int64_t n, int64_t step, W* g) {
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
PF_NOINLINE void shared_starts(int32_t in, int32_t out, W u, int32_t* start) {
  const W alpha = window_alpha<W>(in, out), clamped = window_sample(u);
  for (int32_t i = 0; i < out - 1; ++i) start[i] = window_start(i, in, clamped, alpha);
  start[out - 1] = in - 2;
}

// The mask of PoolStarts; returns whether it tells all starts.
PF_NOINLINE inline bool mask_starts(const int32_t* start, int64_t n, int64_t in, uint16_t* mask) {
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
PF_NOINLINE void starts_by_lane(int32_t in, int32_t out, const W* u, int64_t lanes, int32_t* low, int32_t* high,
                                integer_t<W>* distance) {
  using Distance = integer_t<W>;
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
PF_NOINLINE void apply_affine(W* v, int64_t pixels, int64_t lanes, const PoolAffine<W>& affine) {
  using V = Vector<W, L>;
  for (int64_t p = 0; p < pixels; ++p, v += lanes) {
    for (int64_t k = 0; k < lanes; k += V::kCount) V::write(v + k, affine_of<V>(V::read(v + k), affine, k));
  }
}

// From the gradient of y to that of x, in place; adds the sums for shift and scale (of g and of g * x), lane by
// lane. `x` are the values before the affine map.
template <int L, typename W>
PF_NOINLINE void affine_backward(const W* x, W* g, int64_t pixels, int64_t lanes, const PoolAffine<W>& affine,
                                 W* sum_shift, W* sum_scale) {
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
PF_NOINLINE const T* copied_row(const PoolMap<const T>& map, const T* row, int64_t channels, T* buffer) {
  for (int64_t x = 0; x < map.w; ++x) {
    for (int64_t c = 0; c < channels; ++c) buffer[x * channels + c] = row[x * map.column + c * map.channel];
  }
  return buffer;
}
template <typename T>
PF_INLINE const T* dense_row(const PoolMap<const T>& map, int64_t y, int64_t channels, T* buffer) {
  const T* row = map.data + y * map.row;
  if ((map.column == channels || map.w == 1) && (map.channel == 1 || channels == 1)) return row;
  return copied_row(map, row, channels, buffer);
}

// --- planes ----------------------------------------------------------------------------------------------------------

// Maps whose planes are processed one by one (any strides but channels_last). Several rows make one block, and a block
// one loop: small planes would waste vectors otherwise.

// Rows [begin, end) as W, dense, after the affine map: the map itself where it is that already.
template <typename T>
const wide_t<T>* block_of_plane(const PoolMap<const T>& x, int64_t begin, int64_t end,
                                const PoolAffine<wide_t<T>>& affine, const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const bool dense = x.column == 1 && x.row == x.w;
  W* block = buffers.values;
  if constexpr (std::is_same_v<T, W>) {
    if (dense && !affine.any()) return x.data + begin * x.w;
  }
  if (dense) {
    widen(x.data + begin * x.w, (end - begin) * x.w, block);
  } else {
    for (int64_t y = begin; y < end; ++y) widen(dense_row(x, y, 1, buffers.row), x.w, block + (y - begin) * x.w);
  }
  if (affine.any()) apply_affine<16>(block, ((end - begin) * x.w + 15) / 16, 16, affine);
  return block;
}

// Bytes of winners as integers, and back.
template <typename Integer>
PF_NOINLINE void widen_winners(const uint8_t* from, int64_t n, Integer* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
template <typename Integer>
PF_NOINLINE void narrow_winners(const Integer* __restrict from, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint8_t>(from[i]);
}

// Columns of a row of windows, in order.
template <typename T>
PF_NOINLINE void pick_columns(const wide_t<T>* row, const PoolStarts<wide_t<T>>& starts, [[maybe_unused]] int64_t in,
                              int64_t n, T* out, wide_t<T>* buffer) {
#if PF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, BFloat16>) {
    if (starts.increasing) {
      using V = Vector<float, 16>;
      for (int64_t c = 0, j = 0; c < in; c += 16) {
        const __mmask16 mask = starts.column_mask[c / 16];
        const int count = __builtin_popcount(mask);
        const __m512 picked = _mm512_maskz_compress_ps(mask, _mm512_loadu_ps(row + c));
        const __mmask16 some = static_cast<__mmask16>((1u << count) - 1);
        if (j + 16 <= n) {
          V::store_to(out + j, picked);  // what is beyond `count`, the next turn overwrites
        } else if constexpr (std::is_same_v<T, float>) {
          _mm512_mask_storeu_ps(out + j, some, picked);
        } else {
          __m256i bits;
          BFloat16Vector<16>::write(&bits, picked);
          _mm256_mask_storeu_epi16(out + j, some, bits);
        }
        j += count;
      }
      return;
    }
  }
#endif
  const int32_t* start = starts.column_low;
  if constexpr (std::is_same_v<T, wide_t<T>>) {
    for (int64_t j = 0; j < n; ++j) out[j] = row[start[j]];
  } else {
    for (int64_t j = 0; j < n; ++j) buffer[j] = row[start[j]];
    narrow(buffer, n, out);
  }
}

// Adds a gradient row to the windows that it came from.
template <typename W>
PF_INLINE void add_columns(W* row, const PoolStarts<W>& starts, [[maybe_unused]] int64_t in, int64_t n, const W* g) {
#if PF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<W, float>) {
    if (starts.increasing) {
      for (int64_t c = 0, j = 0; c < in; c += 16) {
        const __mmask16 mask = starts.column_mask[c / 16];
        const int count = __builtin_popcount(mask);
        const __m512 some = j + 16 <= n ? _mm512_loadu_ps(g + j)
                                        : _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), g + j);
        _mm512_storeu_ps(row + c, _mm512_add_ps(_mm512_loadu_ps(row + c), _mm512_maskz_expand_ps(mask, some)));
        j += count;
      }
      return;
    }
  }
#endif
  for (int64_t j = 0; j < n; ++j) row[starts.column_low[j]] += g[j];
}

// Windows whose row is in [y0, y1) of one plane, all levels.
template <typename T>
void pool_plane(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>& x,
                const PoolMap<T>* out, const PoolAffine<wide_t<T>>& affine, uint8_t* position, int64_t y0, int64_t y1,
                const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const int64_t w = s.w;
  W* best = buffers.windows;
  for (int64_t l = 0; l < s.levels; ++l) {
    buffers.next[l] = 0;
    while (buffers.next[l] < out[l].h && starts[l].row_low[buffers.next[l]] < y0) ++buffers.next[l];
  }
  for (int64_t begin = y0; begin < y1; begin += s.rows) {
    const int64_t end = begin + s.rows < y1 ? begin + s.rows : y1;
    const int64_t n = (end - begin) * w - 1;
    const W* from = block_of_plane(x, begin, end + 1, affine, buffers);
    if (position != nullptr) {
      stride_one_windows<true>(from, from + w, n, 1, best, buffers.winner);
      uint8_t* to = position + begin * w;
      narrow_winners(buffers.winner, n, to);
      for (int64_t y = 1; y <= end - begin; ++y) to[y * w - 1] = 0;  // no window starts in the last column
    } else {
      stride_one_windows<false>(from, from + w, n, 1, best, buffers.winner);
    }
    for (int64_t l = 0; l < s.levels; ++l) {
      int64_t& i = buffers.next[l];
      for (; i < out[l].h && starts[l].row_low[i] < end; ++i) {
        pick_columns(best + (starts[l].row_low[i] - begin) * w, starts[l], w, out[l].w, out[l].data + i * out[l].row,
                     buffers.picked);
      }
    }
  }
  if (position != nullptr && y1 == s.h - 1) {
    std::memset(position + y1 * w, 0, w);
  }
}

// affine_backward for rows of a plane; sums: (rows, 2), or null.
template <typename W>
PF_NOINLINE void affine_backward_rows(const W* v, W* g, int64_t rows, int64_t w, const PoolAffine<W>& affine, W* sums) {
  for (int64_t y = 0; y < rows; ++y, v += w, g += w) {
    W shift[16] = {}, scale[16] = {};
    const int64_t whole = w / 16 * 16, rest = w - whole;
    affine_backward<16>(v, g, whole / 16, 16, affine, shift, scale);
    if (rest > 0) {  // through copies: zeros add nothing to the sums
      W last_v[16] = {}, last_g[16] = {};
      std::memcpy(last_v, v + whole, rest * sizeof(W));
      std::memcpy(last_g, g + whole, rest * sizeof(W));
      affine_backward<16>(last_v, last_g, 1, 16, affine, shift, scale);
      std::memcpy(g + whole, last_g, rest * sizeof(W));
    }
    if (sums == nullptr) continue;
    sums[2 * y] = sums[2 * y + 1] = 0;
    for (int k = 0; k < 16; ++k) sums[2 * y] += shift[k], sums[2 * y + 1] += scale[k];
  }
}

// Gradient of rows [y0, y1) of one plane; a window's sum is formed in the order levels, rows, columns whatever the
// bounds. sums: (h, 2) of this plane, for shift and scale, or null.
template <typename T>
void pool_plane_backward(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>* grads,
                         const PoolMap<const T>& x, const PoolAffine<wide_t<T>>& affine, const uint8_t* position,
                         const PoolMap<T>& grad_x, int64_t y0, int64_t y1, wide_t<T>* sums,
                         const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const int64_t w = s.w;
  // Windows and winners of a block: one element, the row before the block, the block.
  W* const windows = buffers.windows + 1 + w;
  auto* const winner = buffers.winner + 1 + w;
  W* const g = buffers.picked;
  const int64_t first = y0 > 0 ? y0 - 1 : 0;
  for (int64_t l = 0; l < s.levels; ++l) {
    buffers.next[l] = 0;
    while (buffers.next[l] < grads[l].h && starts[l].row_low[buffers.next[l]] < first) ++buffers.next[l];
  }
  for (int64_t begin = y0; begin < y1; begin += s.rows) {
    const int64_t end = begin + s.rows < y1 ? begin + s.rows : y1;
    const int64_t pixels = (end - begin) * w;
    // The row before: of the block before, or of the band before (added up again), or none.
    if (begin > y0) {
      std::memcpy(windows - w, windows + (s.rows - 1) * w, w * sizeof(W));
      std::memcpy(winner - w, winner + (s.rows - 1) * w, w * sizeof(winner[0]));
    } else {
      std::memset(windows - w, 0, w * sizeof(W));
      if (begin > 0) {
        widen_winners(position + (begin - 1) * w, w, winner - w);
      } else {
        std::fill_n(winner - w, w, 255);
      }
    }
    windows[-w - 1] = 0;
    winner[-w - 1] = 255;
    std::memset(windows, 0, pixels * sizeof(W));
    widen_winners(position + begin * w, pixels, winner);
    for (int64_t l = 0; l < s.levels; ++l) {
      int64_t& i = buffers.next[l];
      for (; i < grads[l].h && starts[l].row_low[i] < end; ++i) {
        const T* from = dense_row(grads[l], i, 1, buffers.row);
        const W* wide;
        if constexpr (std::is_same_v<T, W>) {
          wide = from;
        } else {
          widen(from, grads[l].w, g);
          wide = g;
        }
        add_columns(windows + (starts[l].row_low[i] - begin) * w, starts[l], w, grads[l].w, wide);
      }
    }
    spread_to_pixels(windows, windows - w, winner, winner - w, pixels, 1, g);
    if (affine.any()) {
      const W* v = block_of_plane(x, begin, end, PoolAffine<W>{nullptr, nullptr, false}, buffers);
      affine_backward_rows(v, g, end - begin, w, affine, sums == nullptr ? nullptr : sums + 2 * begin);
    }
    narrow(g, pixels, grad_x.data + begin * w);
  }
}

// --- channels_last ---------------------------------------------------------------------------------------------------

// channels_last maps: vectors along the channels. Windows of the
// channels of one sample differ by about one start at most, hence a choice among neighbors instead of a gather:
// first among rows, then among columns. `lanes` is a multiple of L, the elements of the vectors that are used: all that
// the instruction set has, or eight where lanes are (so that most instruction sets have one L).

// Pixels whose `lanes` elements, beyond the channels, still lie inside a dense row: the others use a copy.
inline int64_t pixels_with_room(int64_t pixels, int64_t channels, int64_t lanes) {
  const int64_t elements = pixels * channels;
  return elements < lanes ? 0 : (elements - lanes) / channels + 1;
}

// Calls read(element of the row, pixel) for every pixel; what lies beyond the channels is the next pixel's.
template <typename T, typename Read>
PF_INLINE void read_row(const T* row, int64_t pixels, int64_t channels, int64_t lanes, T* tail, const Read& read) {
  const int64_t room = pixels_with_room(pixels, channels, lanes);
  for (int64_t x = 0; x < room; ++x) read(row + x * channels, x);
  if (room == pixels) return;
  for (int64_t k = channels; k < lanes; ++k) tail[k] = row[0];
  for (int64_t x = room; x < pixels; ++x) {
    for (int64_t k = 0; k < channels; ++k) tail[k] = row[x * channels + k];
    read(tail, x);
  }
}

// Calls write(element of the row, pixel); what it writes beyond the channels, the next pixel overwrites.
template <typename T, typename Write>
PF_INLINE void write_row(T* row, int64_t pixels, int64_t channels, int64_t lanes, T* tail, const Write& write) {
  const int64_t room = pixels_with_room(pixels, channels, lanes);
  for (int64_t x = 0; x < room; ++x) write(row + x * channels, x);
  for (int64_t x = room; x < pixels; ++x) {
    write(tail, x);
    for (int64_t k = 0; k < channels; ++k) row[x * channels + k] = tail[k];
  }
}

// A dense row as `lanes` wide elements a pixel: the row itself where it is that already.
template <int L, typename T>
PF_NOINLINE const wide_t<T>* widen_row(const T* row, int64_t pixels, const PoolShape& s, T* tail, wide_t<T>* out) {
  using V = Vector<wide_t<T>, L>;
  if (s.lanes == s.channels) {
    if constexpr (std::is_same_v<T, wide_t<T>>) return row;
    widen(row, pixels * s.lanes, out);
    return out;
  }
  read_row(row, pixels, s.channels, s.lanes, tail, [&](const T* from, int64_t x) {
    for (int64_t k = 0; k < s.lanes; k += V::kCount) V::write(out + x * s.lanes + k, V::load_from(from + k));
  });
  return out;
}

template <int L, typename T>
PF_NOINLINE void narrow_row(const wide_t<T>* from, int64_t pixels, const PoolShape& s, T* tail, T* row) {
  using V = Vector<wide_t<T>, L>;
  write_row(row, pixels, s.channels, s.lanes, tail, [&](T* to, int64_t x) {
    for (int64_t k = 0; k < s.lanes; k += V::kCount) V::store_to(to + k, V::read(from + x * s.lanes + k));
  });
}

// The same for a row of winners, which takes one byte an element in memory.
template <typename Integer>
PF_NOINLINE void load_winners(const uint8_t* row, const PoolShape& s, uint8_t* buffer, Integer* __restrict winner) {
  if (s.lanes != s.channels) {
    uint8_t* tail = buffer + s.w * s.lanes;
    read_row(row, s.w, s.channels, s.lanes, tail, [&](const uint8_t* from, int64_t x) {
      for (int64_t k = 0; k < s.lanes; k += 8) std::memcpy(buffer + x * s.lanes + k, from + k, 8);
    });
    row = buffer;
  }
  widen_winners(row, s.w * s.lanes, winner);
}

template <typename Integer>
PF_NOINLINE void store_winners(const Integer* __restrict winner, const PoolShape& s, uint8_t* buffer, uint8_t* row) {
  uint8_t* narrow_winner = s.lanes == s.channels ? row : buffer;
  const int64_t n = (s.w - 1) * s.lanes;
  narrow_winners(winner, n, narrow_winner);
  std::memset(narrow_winner + n, 0, s.lanes);  // no window starts in the last column
  if (s.lanes == s.channels) return;
  write_row(row, s.w, s.channels, s.lanes, buffer + s.w * s.lanes, [&](uint8_t* to, int64_t x) {
    for (int64_t k = 0; k < s.lanes; k += 8) std::memcpy(to + k, buffer + x * s.lanes + k, 8);
  });
}

// Every lane from its own row of windows: rows[d] where the lane's distance is d.
template <int L, typename W>
PF_NOINLINE void pick_rows(const W* const* rows, int64_t most, const integer_t<W>* distance, int64_t pixels,
                           int64_t lanes, W* out) {
  using V = Vector<W, L>;
  using Integer = integer_t<W>;
  for (int64_t k = 0; k < lanes; k += V::kCount) {
    const typename V::Integers from = V::read_integers(distance + k);
    const typename V::Integers in_first = from == 0;
    const W *first = rows[0] + k, *second = rows[1] + k;
    for (int64_t i = 0; i < pixels * lanes; i += lanes) {
      const typename V::Values a = V::read(first + i), b = V::read(second + i);
      V::write(out + k + i, in_first ? a : b);
    }
    for (int64_t d = 2; d <= most; ++d) {  // rounding only
      const typename V::Integers here = from == Integer(d);
      for (int64_t i = 0; i < pixels * lanes; i += lanes) {
        const typename V::Values a = V::read(rows[d] + k + i), b = V::read(out + k + i);
        V::write(out + k + i, here ? a : b);
      }
    }
  }
}

template <int L, typename T>
PF_NOINLINE void pick_columns_by_lane(const wide_t<T>* row, const PoolStarts<wide_t<T>>& starts, int64_t n,
                                      const PoolShape& s, T* out, T* tail) {
  using V = Vector<wide_t<T>, L>;
  using Integer = integer_t<wide_t<T>>;
  const int64_t lanes = s.lanes;
  write_row(out, n, s.channels, lanes, tail, [&](T* to, int64_t j) {
    const int64_t low = starts.column_low[j], most = starts.column_high[j] - low;
    const wide_t<T>* from = row + low * lanes;
    if (most == 0) {
      for (int64_t k = 0; k < lanes; k += V::kCount) V::store_to(to + k, V::read(from + k));
      return;
    }
    const auto* distance = starts.column_distance + j * lanes;
    for (int64_t k = 0; k < lanes; k += V::kCount) {
      const typename V::Integers d = V::read_integers(distance + k);
      const typename V::Values a = V::read(from + k), b = V::read(from + lanes + k);
      typename V::Values picked = d == 0 ? a : b;
      for (int64_t more = 2; more <= most; ++more) {  // rounding only
        const typename V::Values c = V::read(from + more * lanes + k);
        picked = d == Integer(more) ? c : picked;
      }
      V::store_to(to + k, picked);
    }
  });
}

// Windows whose row is in [y0, y1) of one sample: outputs whose last window row is in it.
template <int L, typename T>
void pool_sample_by(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>& x,
                    const PoolMap<T>* out, const PoolAffine<wide_t<T>>& affine, uint8_t* position, int64_t y0,
                    int64_t y1, const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const int64_t row = s.w * s.lanes, ring = s.rows, n = row - s.lanes;
  const auto load_row = [&](int64_t y) -> const W* {
    W* buffer = buffers.values + (y & 1) * row;
    const W* values = widen_row<L>(dense_row(x, y, s.channels, buffers.row), s.w, s, buffers.tail, buffer);
    if (!affine.any()) return values;
    if (values != buffer) std::memcpy(buffer, values, row * sizeof(W));
    apply_affine<L>(buffer, s.w, s.lanes, affine);
    return buffer;
  };
  for (int64_t l = 0; l < s.levels; ++l) {
    buffers.next[l] = 0;
    while (buffers.next[l] < out[l].h && starts[l].row_high[buffers.next[l]] < y0) ++buffers.next[l];
  }
  const int64_t first = y0 > ring - 1 ? y0 - (ring - 1) : 0;
  const W* below = load_row(first);
  for (int64_t y = first; y < y1; ++y) {
    const W* above = below;
    below = load_row(y + 1);
    W* best = buffers.windows + (y % ring) * row;
    if (position == nullptr || y < y0) {
      stride_one_windows<false>(above, below, n, s.lanes, best, buffers.winner);
    } else {
      stride_one_windows<true>(above, below, n, s.lanes, best, buffers.winner);
      store_winners(buffers.winner, s, buffers.narrow_winner, position + y * s.w * s.channels);
    }
    for (int64_t l = 0; l < s.levels; ++l) {
      const PoolStarts<W>& start = starts[l];
      int64_t& i = buffers.next[l];
      for (; i < out[l].h && start.row_high[i] <= y; ++i) {
        const int64_t low = start.row_low[i], most = start.row_high[i] - low;
        const W* from = buffers.windows + (low % ring) * row;
        if (most > 0) {
          const W* rows[kPoolMostRows];
          for (int64_t d = 0; d <= most; ++d) rows[d] = buffers.windows + ((low + d) % ring) * row;
          pick_rows<L>(rows, most, start.row_distance + i * s.lanes, s.w - 1, s.lanes, buffers.picked);
          from = buffers.picked;
        }
        pick_columns_by_lane<L>(from, start, out[l].w, s, out[l].data + i * out[l].row, buffers.tail);
      }
    }
  }
  if (position != nullptr && y1 == s.h - 1) {
    std::memset(position + y1 * s.w * s.channels, 0, s.w * s.channels);
  }
}

template <typename T>
void pool_sample(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>& x,
                 const PoolMap<T>* out, const PoolAffine<wide_t<T>>& affine, uint8_t* position, int64_t y0, int64_t y1,
                 const PoolBuffers<T, wide_t<T>>& buffers) {
  constexpr int few = Vector<wide_t<T>, 8>::kCount, many = Vector<wide_t<T>, 16>::kCount;
  if (s.lanes == 8) return pool_sample_by<few, T>(s, starts, x, out, affine, position, y0, y1, buffers);
  pool_sample_by<many, T>(s, starts, x, out, affine, position, y0, y1, buffers);
}

// Adds one pixel of a gradient to the windows that it may have come from: most_rows + 1 rows by most_columns + 1
// columns from the lowest start on. Lanes choose theirs by distance; where there is one row, or column, it is all's.
template <typename V, typename W, typename T>
PF_INLINE void add_pixel(W* const* rows, int64_t most_rows, const integer_t<W>* row_distance, int64_t low,
                         int64_t most_columns, const integer_t<W>* column_distance, int64_t lanes, const T* from) {
  using Values = typename V::Values;
  using Integer = integer_t<W>;
  for (int64_t k = 0; k < lanes; k += V::kCount) {
    const Values value = V::load_from(from + k);
    for (int64_t r = 0; r <= most_rows; ++r) {
      Values of_row = value;
      if (most_rows > 0) of_row = V::read_integers(row_distance + k) == Integer(r) ? value : Values{};
      for (int64_t c = 0; c <= most_columns; ++c) {
        Values of_window = of_row;
        if (most_columns > 0) of_window = V::read_integers(column_distance + k) == Integer(c) ? of_row : Values{};
        W* to = rows[r] + low + c * lanes + k;
        V::write(to, V::read(to) + of_window);
      }
    }
  }
}

// Adds a gradient row to the windows it came from; rows[d] is d rows below the level's lowest row.
template <int L, typename T>
PF_NOINLINE void add_by_lane(wide_t<T>* const* rows, int64_t most_rows, const integer_t<wide_t<T>>* row_distance,
                             const PoolStarts<wide_t<T>>& starts, int64_t n, const PoolShape& s, const T* g, T* tail) {
  using V = Vector<wide_t<T>, L>;
  const int64_t lanes = s.lanes;
  read_row(g, n, s.channels, lanes, tail, [&](const T* from, int64_t j) {
    const int64_t low = starts.column_low[j] * lanes, most = starts.column_high[j] - starts.column_low[j];
    const auto* column_distance = starts.column_distance + j * lanes;
    // Constants unroll the loops in the two common cases.
    if (most_rows == 1 && most == 1) {
      add_pixel<V>(rows, 1, row_distance, low, 1, column_distance, lanes, from);
    } else if (most_rows == 0 && most == 0) {
      add_pixel<V>(rows, 0, row_distance, low, 0, column_distance, lanes, from);
    } else {
      add_pixel<V>(rows, most_rows, row_distance, low, most, column_distance, lanes, from);
    }
  });
}

// Gradient of rows [y0, y1) of one sample. A window's sum is formed in the order rows (lowest first), levels,
// columns, whatever the bounds. sums: (h, 2, channels) of this sample, for shift and scale, or null.
template <int L, typename T>
void pool_sample_backward_by(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>* grads,
                             const PoolMap<const T>& x, const PoolAffine<wide_t<T>>& affine, const uint8_t* position,
                             const PoolMap<T>& grad_x, int64_t y0, int64_t y1, wide_t<T>* sums,
                             const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const int64_t lanes = s.lanes, row = s.w * lanes, ring = s.rows;
  const int64_t first = y0 > ring - 1 ? y0 - (ring - 1) : 0;
  W* const g = buffers.picked;
  W* const ring_rows = buffers.windows + lanes;  // what is before the first row is the column before it: zero
  auto* const winners = buffers.winner + lanes;
  std::memset(buffers.windows, 0, (lanes + ring * row) * sizeof(W));
  std::fill_n(buffers.winner, lanes + 2 * row, 255);  // nothing wins above the first row
  for (int64_t l = 0; l < s.levels; ++l) {
    buffers.next[l] = 0;
    while (buffers.next[l] < grads[l].h && starts[l].row_low[buffers.next[l]] < first) ++buffers.next[l];
  }
  for (int64_t y = first; y < y1; ++y) {
    for (int64_t l = 0; l < s.levels; ++l) {
      const PoolStarts<W>& start = starts[l];
      int64_t& i = buffers.next[l];
      for (; i < grads[l].h && start.row_low[i] == y; ++i) {
        const int64_t most = start.row_high[i] - y;
        W* rows[kPoolMostRows];
        for (int64_t d = 0; d <= most; ++d) rows[d] = ring_rows + ((y + d) % ring) * row;
        add_by_lane<L>(rows, most, start.row_distance + i * lanes, start, grads[l].w, s,
                       dense_row(grads[l], i, s.channels, buffers.row), buffers.tail);
      }
    }
    auto* winner = winners + (y & 1) * row;
    const auto* winner_above = winners + ((y & 1) ^ 1) * row;
    load_winners(position + y * s.w * s.channels, s, buffers.narrow_winner, winner);
    W* windows = ring_rows + (y % ring) * row;
    W* windows_above = ring_rows + ((y + ring - 1) % ring) * row;
    if (y >= y0) {
      spread_to_pixels(windows, windows_above, winner, winner_above, row, lanes, g);
      if (affine.any()) {
        const W* values = widen_row<L>(dense_row(x, y, s.channels, buffers.row), s.w, s, buffers.tail, buffers.values);
        W* sum_shift = buffers.values + row;
        W* sum_scale = sum_shift + lanes;
        std::memset(sum_shift, 0, 2 * lanes * sizeof(W));
        affine_backward<L>(values, g, s.w, lanes, affine, sum_shift, sum_scale);
        if (sums != nullptr) {
          std::memcpy(sums + y * 2 * s.channels, sum_shift, s.channels * sizeof(W));
          std::memcpy(sums + (y * 2 + 1) * s.channels, sum_scale, s.channels * sizeof(W));
        }
      }
      narrow_row<L>(g, s.w, s, buffers.tail, grad_x.data + y * grad_x.row);
    }
    std::memset(windows_above, 0, row * sizeof(W));  // becomes the row that comes into the ring next
  }
}

template <typename T>
void pool_sample_backward(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>* grads,
                          const PoolMap<const T>& x, const PoolAffine<wide_t<T>>& affine, const uint8_t* position,
                          const PoolMap<T>& grad_x, int64_t y0, int64_t y1, wide_t<T>* sums,
                          const PoolBuffers<T, wide_t<T>>& buffers) {
  constexpr int few = Vector<wide_t<T>, 8>::kCount, many = Vector<wide_t<T>, 16>::kCount;
  if (s.lanes == 8) {
    pool_sample_backward_by<few, T>(s, starts, grads, x, affine, position, grad_x, y0, y1, sums, buffers);
  } else {
    pool_sample_backward_by<many, T>(s, starts, grads, x, affine, position, grad_x, y0, y1, sums, buffers);
  }
}
