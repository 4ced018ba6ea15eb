// Part of fractional_max_pool_pyramid_kernel.h: maps whose planes are processed one by one (any strides but
// channels_last). Several rows make one block, and a block one loop: small planes would waste vectors otherwise.

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

// Columns of a row of windows, in order.
template <typename T>
void pick_columns(const wide_t<T>* row, const PoolStarts<wide_t<T>>& starts, int64_t in, int64_t n, T* out,
                  wide_t<T>* buffer) {
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
void add_columns(W* row, const PoolStarts<W>& starts, int64_t in, int64_t n, const W* g) {
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
      const auto* __restrict winner = buffers.winner;
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint8_t>(winner[i]);
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
    for (int64_t i = 0; i < w; ++i) position[y1 * w + i] = 0;
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
      for (int64_t i = -w; i < 0; ++i) windows[i] = windows[i + s.rows * w], winner[i] = winner[i + s.rows * w];
    } else {
      for (int64_t i = -w; i < 0; ++i) windows[i] = 0;
      for (int64_t i = -w; i < 0; ++i) winner[i] = begin > 0 ? position[begin * w + i] : 255;
    }
    windows[-w - 1] = 0;
    winner[-w - 1] = 255;
    for (int64_t i = 0; i < pixels; ++i) windows[i] = 0;
    for (int64_t i = 0; i < pixels; ++i) winner[i] = position[begin * w + i];
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
      for (int64_t y = begin; y < end; ++y) {
        W shift[16] = {}, scale[16] = {};
        const int64_t at = (y - begin) * w, whole = w / 16 * 16, rest = w - whole;
        affine_backward<16>(v + at, g + at, whole / 16, 16, affine, shift, scale);
        if (rest > 0) {  // through copies: zeros add nothing to the sums
          W last_v[16] = {}, last_g[16] = {};
          std::memcpy(last_v, v + at + whole, rest * sizeof(W));
          std::memcpy(last_g, g + at + whole, rest * sizeof(W));
          affine_backward<16>(last_v, last_g, 1, 16, affine, shift, scale);
          std::memcpy(g + at + whole, last_g, rest * sizeof(W));
        }
        if (sums != nullptr) {
          sums[2 * y] = sums[2 * y + 1] = 0;
          for (int k = 0; k < 16; ++k) sums[2 * y] += shift[k], sums[2 * y + 1] += scale[k];
        }
      }
    }
    narrow(g, pixels, grad_x.data + begin * w);
  }
}
