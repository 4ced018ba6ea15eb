// Included once per instruction set by multiversion.h; see there. Loops of heatmap_argmax, heatmap_loss and
// gaussian_heatmaps. In a channels_last map a tile is a run of whole pixels whose length in elements is a multiple
// of 16: per-channel values repeated over a tile turn a pass into a loop without remainders, however few channels.

// exp(-(i - centre)^2 / (2 sigma^2)) for i < n.
template <typename W>
void gaussian_row(W centre, double sigma, int64_t n, W* out) {
  const W twice = static_cast<W>(2 * sigma * sigma);
  for (int64_t i = 0; i < n; ++i) {
    const W d = static_cast<W>(i) - centre;
    out[i] = std::exp(-(d * d) / twice);
  }
}

template <typename W>
void gaussian_map(const W* gx, const W* gy, int64_t h, int64_t w, W* out) {
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) out[y * w + x] = gy[y] * gx[x];
  }
}

// Sum of (p - gy gx)^2 over one contiguous map.
template <typename T>
double squared_error_plane(const T* p, const wide_t<T>* gx, const wide_t<T>* gy, int64_t h, int64_t w) {
  using W = wide_t<T>;
  double total = 0;
  for (int64_t y = 0; y < h; ++y) {
    const T* row = p + y * w;
    W sums[16] = {};
    int64_t x = 0;
    for (; x + 16 <= w; x += 16) {
      for (int k = 0; k < 16; ++k) {
        const W d = load(row[x + k]) - gy[y] * gx[x + k];
        sums[k] += d * d;
      }
    }
    for (; x < w; ++x) {
      const W d = load(row[x]) - gy[y] * gx[x];
      sums[0] += d * d;
    }
    for (int k = 0; k < 16; ++k) total += sums[k];
  }
  return total;
}

template <typename T>
void error_gradient_plane(const T* p, const wide_t<T>* gx, const wide_t<T>* gy, wide_t<T> factor, int64_t h, int64_t w,
                          T* out) {
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) out[y * w + x] = store<T>((load(p[y * w + x]) - gy[y] * gx[x]) * factor);
  }
}

// The same for a row of a channels_last map: gx is (w, c), gy (c) repeated over a tile, counted 0 or 1 alike.
// Adds to sums (tile * c).
template <typename T>
void squared_error_row(const T* p, const wide_t<T>* gx, const wide_t<T>* gy, const wide_t<T>* counted, int64_t n,
                       int64_t tile, wide_t<T>* sums) {
  using W = wide_t<T>;
  for (int64_t i = 0; i < n; i += tile) {
    const int64_t m = i + tile <= n ? tile : n - i;
    for (int64_t k = 0; k < m; ++k) {
      // A choice, not a product: a map that does not count may hold NaN.
      const W d = counted[k] > 0 ? load(p[i + k]) - gy[k] * gx[i + k] : 0;
      sums[k] += d * d;
    }
  }
}

template <typename T>
void error_gradient_row(const T* p, const wide_t<T>* gx, const wide_t<T>* gy, const wide_t<T>* factor, wide_t<T> scale,
                        int64_t n, int64_t tile, T* out) {
  using W = wide_t<T>;
  for (int64_t i = 0; i < n; i += tile) {
    const int64_t m = i + tile <= n ? tile : n - i;
    for (int64_t k = 0; k < m; ++k) {
      const W d = factor[k] > 0 ? load(p[i + k]) - gy[k] * gx[i + k] : 0;
      out[i + k] = store<T>(d * (factor[k] * scale));
    }
  }
}

// Lowest index of the maximum of a contiguous map; the first NaN if there is one.
template <typename T>
int64_t argmax_plane(const T* p, int64_t n) {
  using W = wide_t<T>;
  W best[16];
  int32_t nan[16] = {};
  for (int k = 0; k < 16; ++k) best[k] = load(p[0]);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int k = 0; k < 16; ++k) {
      const W v = load(p[i + k]);
      best[k] = v > best[k] ? v : best[k];
      nan[k] |= v != v;
    }
  }
  for (; i < n; ++i) {
    const W v = load(p[i]);
    best[0] = v > best[0] ? v : best[0];
    nan[0] |= v != v;
  }
  W top = best[0];
  int32_t any_nan = nan[0];
  for (int k = 1; k < 16; ++k) {
    top = best[k] > top ? best[k] : top;
    any_nan |= nan[k];
  }
  if (any_nan) {
    for (i = 0; load(p[i]) == load(p[i]);) ++i;
    return i;
  }
  for (i = 0; i + 16 <= n; i += 16) {
    int32_t found = 0;
    for (int k = 0; k < 16; ++k) found |= load(p[i + k]) == top;
    if (found) break;
  }
  while (load(p[i]) != top) ++i;
  return i;
}

// Best value and pixel group of every element of a tile, over whole tiles of a channels_last map. A later value
// wins if it is greater, or the first NaN.
template <typename T>
void argmax_tiles(const T* p, int64_t tiles, int64_t tile, wide_t<T>* best, int32_t* group) {
  using W = wide_t<T>;
  for (int64_t k = 0; k < tile; ++k) {
    best[k] = load(p[k]);
    group[k] = 0;
  }
  for (int64_t t = 1; t < tiles; ++t) {
    const T* row = p + t * tile;
    const int32_t now = static_cast<int32_t>(t);
    for (int64_t k = 0; k < tile; ++k) {
      const W v = load(row[k]), b = best[k];
      const bool wins = (v > b) | ((v != v) & (b == b));
      best[k] = wins ? v : b;
      group[k] = wins ? now : group[k];
    }
  }
}
