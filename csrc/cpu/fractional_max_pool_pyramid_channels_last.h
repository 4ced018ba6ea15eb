// Part of fractional_max_pool_pyramid_kernel.h: channels_last maps, vectors along the channels. Windows of the
// channels of one sample differ by about one start at most, hence a choice among neighbours instead of a gather:
// first among rows, then among columns. `lanes` is a multiple of L.

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
const wide_t<T>* widen_row(const T* row, int64_t pixels, const PoolShape& s, T* tail, wide_t<T>* out) {
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
void narrow_row(const wide_t<T>* from, int64_t pixels, const PoolShape& s, T* tail, T* row) {
  using V = Vector<wide_t<T>, L>;
  write_row(row, pixels, s.channels, s.lanes, tail, [&](T* to, int64_t x) {
    for (int64_t k = 0; k < s.lanes; k += V::kCount) V::store_to(to + k, V::read(from + x * s.lanes + k));
  });
}

// The same for a row of winners, which takes one byte an element in memory.
template <int L, typename Integer>
void load_winners(const uint8_t* row, const PoolShape& s, uint8_t* buffer, Integer* __restrict winner) {
  if (s.lanes != s.channels) {
    uint8_t* tail = buffer + s.w * s.lanes;
    read_row(row, s.w, s.channels, s.lanes, tail, [&](const uint8_t* from, int64_t x) {
      for (int64_t k = 0; k < s.lanes; k += L) std::memcpy(buffer + x * s.lanes + k, from + k, L);
    });
    row = buffer;
  }
  const int64_t n = s.w * s.lanes;
  for (int64_t i = 0; i < n; ++i) winner[i] = row[i];
}

template <int L, typename Integer>
void store_winners(const Integer* __restrict winner, const PoolShape& s, uint8_t* buffer, uint8_t* row) {
  uint8_t* narrow_winner = s.lanes == s.channels ? row : buffer;
  const int64_t n = (s.w - 1) * s.lanes;
  for (int64_t i = 0; i < n; ++i) narrow_winner[i] = static_cast<uint8_t>(winner[i]);
  for (int64_t i = n; i < n + s.lanes; ++i) narrow_winner[i] = 0;  // no window starts in the last column
  if (s.lanes == s.channels) return;
  write_row(row, s.w, s.channels, s.lanes, buffer + s.w * s.lanes, [&](uint8_t* to, int64_t x) {
    for (int64_t k = 0; k < s.lanes; k += L) std::memcpy(to + k, buffer + x * s.lanes + k, L);
  });
}

// Every lane from its own row of windows: rows[d] where the lane's distance is d.
template <int L, typename W>
void pick_rows(const W* const* rows, int64_t most, const pool_integer_t<W>* distance, int64_t pixels, int64_t lanes,
               W* out) {
  using V = Vector<W, L>;
  using Integer = pool_integer_t<W>;
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
void pick_columns_by_lane(const wide_t<T>* row, const PoolStarts<wide_t<T>>& starts, int64_t n, const PoolShape& s,
                          T* out, T* tail) {
  using V = Vector<wide_t<T>, L>;
  using Integer = pool_integer_t<wide_t<T>>;
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
void pool_sample(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>& x,
                 const PoolMap<T>* out, const PoolAffine<wide_t<T>>& affine, uint8_t* position, int64_t y0, int64_t y1,
                 const PoolBuffers<T, wide_t<T>>& buffers) {
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
      store_winners<L>(buffers.winner, s, buffers.narrow_winner, position + y * s.w * s.channels);
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
    for (int64_t k = 0; k < s.w * s.channels; ++k) position[y1 * s.w * s.channels + k] = 0;
  }
}

// Adds one pixel of a gradient to the windows that it may have come from: most_rows + 1 rows by most_columns + 1
// columns from the lowest start on. Lanes choose theirs by distance; where there is one row, or column, it is all's.
template <typename V, typename W, typename T>
PF_INLINE void add_pixel(W* const* rows, int64_t most_rows, const pool_integer_t<W>* row_distance, int64_t low,
                         int64_t most_columns, const pool_integer_t<W>* column_distance, int64_t lanes, const T* from) {
  using Values = typename V::Values;
  using Integer = pool_integer_t<W>;
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
void add_by_lane(wide_t<T>* const* rows, int64_t most_rows, const pool_integer_t<wide_t<T>>* row_distance,
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
void pool_sample_backward(const PoolShape& s, const PoolStarts<wide_t<T>>* starts, const PoolMap<const T>* grads,
                          const PoolMap<const T>& x, const PoolAffine<wide_t<T>>& affine, const uint8_t* position,
                          const PoolMap<T>& grad_x, int64_t y0, int64_t y1, wide_t<T>* sums,
                          const PoolBuffers<T, wide_t<T>>& buffers) {
  using W = wide_t<T>;
  const int64_t lanes = s.lanes, row = s.w * lanes, ring = s.rows;
  const int64_t first = y0 > ring - 1 ? y0 - (ring - 1) : 0;
  W* const g = buffers.picked;
  W* const ring_rows = buffers.windows + lanes;  // what is before the first row is the column before it: zero
  auto* const winners = buffers.winner + lanes;
  for (int64_t i = -lanes; i < ring * row; ++i) ring_rows[i] = 0;
  for (int64_t i = -lanes; i < 2 * row; ++i) winners[i] = 255;  // nothing wins above the first row
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
    load_winners<L>(position + y * s.w * s.channels, s, buffers.narrow_winner, winner);
    W* windows = ring_rows + (y % ring) * row;
    W* windows_above = ring_rows + ((y + ring - 1) % ring) * row;
    if (y >= y0) {
      spread_to_pixels(windows, windows_above, winner, winner_above, row, lanes, g);
      if (affine.any()) {
        const W* values = widen_row<L>(dense_row(x, y, s.channels, buffers.row), s.w, s, buffers.tail, buffers.values);
        W* sum_shift = buffers.values + row;
        W* sum_scale = sum_shift + lanes;
        for (int64_t k = 0; k < 2 * lanes; ++k) sum_shift[k] = 0;
        affine_backward<L>(values, g, s.w, lanes, affine, sum_shift, sum_scale);
        if (sums != nullptr) {
          for (int64_t k = 0; k < s.channels; ++k) {
            sums[y * 2 * s.channels + k] = sum_shift[k];
            sums[(y * 2 + 1) * s.channels + k] = sum_scale[k];
          }
        }
      }
      narrow_row<L>(g, s.w, s, buffers.tail, grad_x.data + y * grad_x.row);
    }
    for (int64_t i = 0; i < row; ++i) windows_above[i] = 0;  // becomes the row that comes into the ring next
  }
}
