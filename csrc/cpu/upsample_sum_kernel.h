// Included once per instruction set by multiversion.h; see there. A "row" is a run of pixels of one image row with
// their channels: with one channel it is a row of a contiguous map, else one of a channels_last map.

#include "cpu/vector.h"

template <typename W>
int64_t lanes() {
  return Vector<W>::kCount;
}

// to[i] = sum over r of weights[r] * rows[r][i] (+ base[i]).
template <typename In, typename Out>
PF_NOINLINE void blend_rows(const In* const* rows, const wide_t<Out>* weights, int64_t count, const Out* base, Out* to,
                            int64_t length) {
  using W = wide_t<Out>;
  using V = typename Vector<W>::Values;
  constexpr int L = Vector<W>::kCount;
  int64_t i = 0;
  for (; i + 4 * L <= length; i += 4 * L) {
    V s0 = {}, s1 = {}, s2 = {}, s3 = {}, v0, v1, v2, v3;
    for (int64_t r = 0; r < count; ++r) {
      const W w = weights[r];
      const In* row = rows[r] + i;
      load_vector(row, v0), load_vector(row + L, v1), load_vector(row + 2 * L, v2), load_vector(row + 3 * L, v3);
      s0 += v0 * w, s1 += v1 * w, s2 += v2 * w, s3 += v3 * w;
    }
    if (base != nullptr) {
      const Out* row = base + i;
      load_vector(row, v0), load_vector(row + L, v1), load_vector(row + 2 * L, v2), load_vector(row + 3 * L, v3);
      s0 += v0, s1 += v1, s2 += v2, s3 += v3;
    }
    store_vector(s0, to + i), store_vector(s1, to + i + L);
    store_vector(s2, to + i + 2 * L), store_vector(s3, to + i + 3 * L);
  }
  each_vector<L>(length - i, [&](auto whole, int64_t k, int64_t some) {
    V sum = {}, v;
    for (int64_t r = 0; r < count; ++r) {
      const W w = weights[r];
      load_some(whole, rows[r] + i + k, some, v);
      sum += v * w;
    }
    if (base != nullptr) {
      load_some(whole, base + i + k, some, v);
      sum += v;
    }
    store_some(whole, sum, some, to + i + k);
  });
}

// U vectors of channels of one pixel: to = a * first + b * second.
template <int U, typename W>
PF_INLINE void mix_channels(const W* first, const W* second, W a, W b, W* to) {
  constexpr int L = Vector<W>::kCount;
  for (int u = 0; u < U; ++u) {
    typename Vector<W>::Values v, next;
    load_vector(first + u * L, v), load_vector(second + u * L, next);
    store_vector(v * a + next * b, to + u * L);
  }
}

// Columns [x0, x1) of one source row, whose first pixel that they read is `row`, for a number of channels whose last
// vectors (after whole groups of four) are U. Writes whole vectors, so past the pixel's channels: pixels are written
// in ascending order, the next one overwrites that, and the buffer has room after the last.
template <int U, typename W>
void upsample_channels(const W* row, const Taps<W>& taps, int64_t channels, int64_t x0, int64_t x1, W* to) {
  constexpr int64_t group = 4 * Vector<W>::kCount;
  const int32_t* firsts = taps.first.data();
  const int32_t* seconds = taps.second.data();
  const W* as = taps.a.data();
  const W* bs = taps.b.data();
  const int64_t s0 = firsts[x0];
  for (int64_t x = x0; x < x1; ++x, to += channels) {
    const W* first = row + (firsts[x] - s0) * channels;
    const W* second = row + (seconds[x] - s0) * channels;
    const W a = as[x], b = bs[x];
    int64_t c = 0;
    for (; c + group < channels; c += group) mix_channels<4>(first + c, second + c, a, b, to + c);
    mix_channels<U>(first + c, second + c, a, b, to + c);
  }
}

// Lanes of two vectors by their numbers, which GCC alone makes of any vector.
#ifndef __clang__
#define PF_SHUFFLES 1
#endif

// The same for one channel: vectors of columns, their sources shuffled out of one or two vectors.
template <bool Two, typename T>
void upsample_columns([[maybe_unused]] const T* row, [[maybe_unused]] const Taps<float>& taps, int64_t x0, int64_t x1,
                      [[maybe_unused]] float* to) {
  constexpr int L = Vector<float>::kCount;
  for (int64_t x = x0; x < x1; x += L) {
#ifdef PF_SHUFFLES
    Vector<float>::Values low, high, a, b;
    Vector<float>::Integers first, second;
    const T* from = row + taps.first[x] - taps.first[x0];
    load_vector(from, low);
    load_vector(taps.local_first.data() + x, first), load_vector(taps.local_second.data() + x, second);
    load_vector(taps.a.data() + x, a), load_vector(taps.b.data() + x, b);
    if constexpr (Two) {
      load_vector(from + L, high);
      store_vector(__builtin_shuffle(low, high, first) * a + __builtin_shuffle(low, high, second) * b, to + x - x0);
    } else {
      store_vector(__builtin_shuffle(low, first) * a + __builtin_shuffle(low, second) * b, to + x - x0);
    }
#endif
  }
}

// A row of a channels_last map.
template <typename W>
PF_NOINLINE void upsample_pixels(const W* row, const Taps<W>& taps, int64_t channels, int64_t x0, int64_t x1, W* to) {
  constexpr int64_t L = Vector<W>::kCount;
  switch ((channels + L - 1) / L % 4) {
    case 1:
      return upsample_channels<1>(row, taps, channels, x0, x1, to);
    case 2:
      return upsample_channels<2>(row, taps, channels, x0, x1, to);
    case 3:
      return upsample_channels<3>(row, taps, channels, x0, x1, to);
    default:
      return upsample_channels<4>(row, taps, channels, x0, x1, to);
  }
}

// A row of one channel.
template <typename T>
void upsample_row(const T* row, const Taps<wide_t<T>>& taps, int64_t x0, int64_t x1, wide_t<T>* to) {
#ifdef PF_SHUFFLES
  constexpr int64_t L = Vector<wide_t<T>>::kCount;
  if constexpr (std::is_same_v<wide_t<T>, float> && L > 4) {
    if (taps.reach < L) return upsample_columns<false>(row, taps, x0, x1, to);
    if (taps.reach < 2 * L) return upsample_columns<true>(row, taps, x0, x1, to);
  }
#endif
  const int64_t s0 = taps.first[x0];
  for (int64_t x = x0; x < x1; ++x) {
    to[x - x0] = load(row[taps.first[x] - s0]) * taps.a[x] + load(row[taps.second[x] - s0]) * taps.b[x];
  }
}

// Rows [y0, y1) of one block of columns of one plane.
template <typename T>
void upsample_strip(const UpsampleJob<wide_t<T>>& job, int64_t plane, int64_t block, int64_t y0, int64_t y1,
                    UpsampleScratch<T>& scratch) {
  using W = wide_t<T>;
  const int64_t channels = job.channels, x0 = block * job.block(), x1 = std::min(x0 + job.block(), job.width);
  const int64_t stride = job.row_stride();
  W* rows = scratch.rows.get(stride * 2 * job.levels.size());
  std::fill(scratch.held.begin(), scratch.held.end(), -1);
  for (int64_t y = y0; y < y1; ++y) {
    int64_t count = 0;
    for (size_t l = 0; l < job.levels.size(); ++l) {
      const auto& level = job.levels[l];
      const auto& columns = level.columns;
      const T* map = static_cast<const T*>(level.data);
      const int64_t first = level.rows.first[y], second = level.rows.second[y];
      for (int64_t r = first; r <= second; ++r) {  // one row or two neighbors
        const int64_t slot = 2 * l + (r & 1);
        const T* from = map + ((plane * level.rows.in + r) * columns.in + columns.first[x0]) * channels;
        const W* resized = rows + slot * stride;
        if (columns.identity() && std::is_same_v<T, W>) {
          resized = reinterpret_cast<const W*>(from);
        } else if (scratch.held[slot] != r) {
          W* to = rows + slot * stride;
          const int64_t length = (columns.second[x1 - 1] - columns.first[x0] + 1) * channels;
          // Whole vectors would be read past the end of the map.
          const bool at_end = map + level.elements - from < length + 2 * Vector<W>::kCount;
          if (columns.identity()) {
            widen(from, length, to);
          } else if (channels > 1) {
            const W* wide = reinterpret_cast<const W*>(from);
            if (!std::is_same_v<T, W> || at_end) {
              W* copy = scratch.row.get(length + 2 * Vector<W>::kCount);
              widen(from, length, copy);
              wide = copy;
            }
            upsample_pixels<W>(wide, columns, channels, x0, x1, to);
          } else {
            if (at_end) {
              T* copy = scratch.tail.get(length + 2 * Vector<W>::kCount);
              std::copy(from, from + length, copy);
              from = copy;
            }
            upsample_row<T>(from, columns, x0, x1, to);
          }
          scratch.held[slot] = r;
        }
        scratch.pointers[count] = resized;
        scratch.weights[count++] = first == second ? W(1) : r == first ? level.rows.a[y] : level.rows.b[y];
      }
    }
    const int64_t at = ((plane * job.height + y) * job.width + x0) * channels;
    const T* base = static_cast<const T*>(job.base);
    blend_rows<W, T>(scratch.pointers.data(), scratch.weights.data(), count, base == nullptr ? nullptr : base + at,
                     static_cast<T*>(job.out) + at, (x1 - x0) * channels);
  }
}

// U vectors of channels of one source pixel: the weighted sum of its receivers. Writes whole vectors, as
// upsample_channels does.
template <int U, typename W>
PF_INLINE void gather_channels(const W* from, const W* weights, int64_t count, int64_t channels, W* to) {
  constexpr int L = Vector<W>::kCount;
  typename Vector<W>::Values sums[U], v;
  for (int u = 0; u < U; ++u) sums[u] = typename Vector<W>::Values{};
  for (int64_t t = 0; t < count; ++t) {
    const W w = weights[t];
    for (int u = 0; u < U; ++u) {
      load_vector(from + t * channels + u * L, v);
      sums[u] += v * w;
    }
  }
  for (int u = 0; u < U; ++u) store_vector(sums[u], to + u * L);
}

template <int U, typename W>
void gather_pixels(const W* blended, const Sources<W>& sources, int64_t channels, int64_t j0, int64_t j1, W* to) {
  constexpr int64_t group = 4 * Vector<W>::kCount;
  const int64_t x0 = sources.begin[j0];
  for (int64_t j = j0; j < j1; ++j, to += channels) {
    const W* from = blended + (sources.begin[j] - x0) * channels;
    const W* weights = sources.weight.data() + j * sources.most;
    const int64_t count = sources.count[j];
    int64_t c = 0;
    for (; c + group < channels; c += group) gather_channels<4>(from + c, weights, count, channels, to + c);
    gather_channels<U>(from + c, weights, count, channels, to + c);
  }
}

// Source pixels [j0, j1) of one row's gradient from the blended gradient row, whose first pixel is sources.begin[j0]:
// of a channels_last map, where `to` has room for four vectors more, and of one channel.
template <typename W>
PF_NOINLINE void gather_row(const W* blended, const Sources<W>& sources, int64_t channels, int64_t j0, int64_t j1,
                            W* to) {
  constexpr int64_t L = Vector<W>::kCount;
  switch ((channels + L - 1) / L % 4) {
    case 1:
      return gather_pixels<1>(blended, sources, channels, j0, j1, to);
    case 2:
      return gather_pixels<2>(blended, sources, channels, j0, j1, to);
    case 3:
      return gather_pixels<3>(blended, sources, channels, j0, j1, to);
    default:
      return gather_pixels<4>(blended, sources, channels, j0, j1, to);
  }
}

template <typename T>
void gather_columns(const wide_t<T>* blended, const Sources<wide_t<T>>& sources, int64_t j0, int64_t j1, T* to) {
  using W = wide_t<T>;
  const int64_t x0 = sources.begin[j0];
#ifdef PF_SHUFFLES
  constexpr int64_t L = Vector<W>::kCount;
  if constexpr (std::is_same_v<W, float> && L > 4) {
    if (sources.reach < 2 * L) {
      for (int64_t j = j0; j < j1; j += L) {
        Vector<float>::Values sum = {}, low, high, weight;
        Vector<float>::Integers local;
        load_vector(sources.local.data() + j, local);
        const W* from = blended + sources.begin[j] - x0;
        const W* weights = sources.by_lane.data() + j * sources.most;
        for (int64_t t = 0; t < sources.most; ++t) {
          load_vector(from + t, low), load_vector(from + t + L, high), load_vector(weights + t * L, weight);
          const Vector<float>::Values product = __builtin_shuffle(low, high, local) * weight;
          sum = weight != 0 ? sum + product : sum;  // a pixel with fewer receivers must not see its neighbors' NaN
        }
        store_part<T>(sum, to + j - j0, j1 - j);
      }
      return;
    }
  }
#endif
  for (int64_t j = j0; j < j1; ++j) {
    W sum = 0;
    for (int64_t t = 0; t < sources.count[j]; ++t) {
      sum += blended[sources.begin[j] - x0 + t] * sources.weight[j * sources.most + t];
    }
    to[j - j0] = store<T>(sum);
  }
}

// Rows [begin, end) of job.order, of one plane.
template <typename T>
void upsample_backward(const UpsampleBackwardJob<wide_t<T>>& job, int64_t plane, int64_t begin, int64_t end,
                       LineAligned<wide_t<T>>& scratch, std::vector<const T*>& pointers) {
  using W = wide_t<T>;
  constexpr int64_t L = Vector<W>::kCount;
  const int64_t channels = job.channels;
  for (int64_t index = begin; index < end; ++index) {
    const auto& level = job.levels[job.order[index].level];
    const int64_t i = job.order[index].row, count = level.rows.count[i];
    const auto& columns = level.columns;
    for (int64_t j0 = 0, j1 = 0; j0 < columns.in; j0 = j1) {
      j1 = job.block_end(columns, j0, L);
      const int64_t x0 = columns.begin[j0], length = job.receivers(columns, j0, j1) * channels;
      for (int64_t t = 0; t < count; ++t) {
        pointers[t] = static_cast<const T*>(job.grad) +
                      ((plane * job.height + level.rows.begin[i] + t) * job.width + x0) * channels;
      }
      const W* weights = level.rows.weight.data() + i * level.rows.most;
      T* to = static_cast<T*>(level.data) + ((plane * level.rows.in + i) * columns.in + j0) * channels;
      if (columns.identity()) {
        blend_rows<T, T>(pointers.data(), weights, count, nullptr, to, length);
      } else {
        const int64_t gathered = (j1 - j0) * channels, room = (length + 3 * L + columns.most + 63) / 64 * 64;
        W* blended = scratch.get(room + gathered + 4 * L);
        blend_rows<T, W>(pointers.data(), weights, count, nullptr, blended, length);
        if (channels == 1) {
          gather_columns<T>(blended, columns, j0, j1, to);
        } else {
          gather_row<W>(blended, columns, channels, j0, j1, blended + room);
          narrow(blended + room, gathered, to);
        }
      }
    }
  }
}
