// Included once per instruction set by multiversion.h; see there. A tile is a run of whole pixels in a
// channels_last tensor whose length in elements is a multiple of 16, so that per-channel constants repeated
// over a tile turn every pass into a loop without remainders, whatever the number of channels.

// Sums over pixels [begin, end) of d and d * d, d = x - pivot, for every channel (channels_last).
template <typename T>
void moments_channels_last(const T* x, const wide_t<T>* pivot, int64_t begin, int64_t end, int64_t channels,
                           int64_t tile, double* sums, wide_t<T>* scratch) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  W* first = scratch;
  W* second = scratch + length;
  for (int64_t i = 0; i < 2 * length; ++i) scratch[i] = 0;
  int64_t p = begin, since = 0;
  const auto flush = [&]() {
    for (int64_t i = 0; i < length; ++i) {
      sums[i % channels] += first[i];
      sums[channels + i % channels] += second[i];
      first[i] = second[i] = 0;
    }
    since = 0;
  };
  for (; p + tile <= end; p += tile) {
    const T* row = x + p * channels;
    for (int64_t i = 0; i < length; ++i) {
      const W d = load(row[i]) - pivot[i];
      first[i] += d;
      second[i] += d * d;
    }
    if (++since == 256) flush();  // short float sums, long double ones
  }
  for (int64_t i = 0; i < (end - p) * channels; ++i) {
    const W d = load(x[p * channels + i]) - pivot[i];
    first[i] += d;
    second[i] += d * d;
  }
  flush();
}

// y = max(x * scale + shift, 0) over pixels [begin, end); scale and shift are repeated over a tile.
template <typename T>
void affine_relu_channels_last(const T* x, T* y, const wide_t<T>* scale, const wide_t<T>* shift, int64_t begin,
                               int64_t end, int64_t channels, int64_t tile) {
  const int64_t length = tile * channels;
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    const int64_t n = i + length <= end * channels ? length : end * channels - i;
    for (int64_t k = 0; k < n; ++k) {
      const auto v = load(x[i + k]) * scale[k] + shift[k];
      y[i + k] = store<T>(v < 0 ? 0 : v);  // NaN stays
    }
  }
}

// Sums of g and g * (x - mean) over pixels [begin, end), g = gradient where the output was above 0.
template <typename T>
void gradient_sums_channels_last(const T* grad, const T* x, const wide_t<T>* scale, const wide_t<T>* shift,
                                 const wide_t<T>* mean, int64_t begin, int64_t end, int64_t channels, int64_t tile,
                                 double* sums, wide_t<T>* scratch) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  W* first = scratch;
  W* second = scratch + length;
  for (int64_t i = 0; i < 2 * length; ++i) scratch[i] = 0;
  int64_t since = 0;
  const auto flush = [&]() {
    for (int64_t i = 0; i < length; ++i) {
      sums[i % channels] += first[i];
      sums[channels + i % channels] += second[i];
      first[i] = second[i] = 0;
    }
    since = 0;
  };
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    const int64_t n = i + length <= end * channels ? length : end * channels - i;
    for (int64_t k = 0; k < n; ++k) {
      const W v = load(x[i + k]);
      const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorised
      const W g = v * scale[k] + shift[k] > 0 ? whole : 0;
      first[k] += g;
      second[k] += g * (v - mean[k]);
    }
    if (++since == 256) flush();
  }
  flush();
}

// grad_x = g * scale + (x - mean) * slope + offset, over pixels [begin, end).
template <typename T>
void gradient_input_channels_last(const T* grad, const T* x, T* grad_x, const wide_t<T>* scale, const wide_t<T>* shift,
                                  const wide_t<T>* mean, const wide_t<T>* slope, const wide_t<T>* offset, int64_t begin,
                                  int64_t end, int64_t channels, int64_t tile) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    const int64_t n = i + length <= end * channels ? length : end * channels - i;
    for (int64_t k = 0; k < n; ++k) {
      const W v = load(x[i + k]);
      const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorised
      const W g = v * scale[k] + shift[k] > 0 ? whole : 0;
      grad_x[i + k] = store<T>(g * scale[k] + (v - mean[k]) * slope[k] + offset[k]);
    }
  }
}

// The same four passes over a run of one channel's pixels (contiguous).
template <typename T>
void moments_plane(const T* x, wide_t<T> pivot, int64_t n, double* first, double* second) {
  using W = wide_t<T>;
  for (int64_t begin = 0; begin < n; begin += 4096) {
    const int64_t end = begin + 4096 < n ? begin + 4096 : n;
    W a[16] = {}, b[16] = {};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      for (int k = 0; k < 16; ++k) {
        const W d = load(x[i + k]) - pivot;
        a[k] += d;
        b[k] += d * d;
      }
    }
    for (; i < end; ++i) {
      const W d = load(x[i]) - pivot;
      a[0] += d;
      b[0] += d * d;
    }
    for (int k = 0; k < 16; ++k) *first += a[k], *second += b[k];
  }
}

template <typename T>
void affine_relu_plane(const T* x, T* y, wide_t<T> scale, wide_t<T> shift, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto v = load(x[i]) * scale + shift;
    y[i] = store<T>(v < 0 ? 0 : v);
  }
}

template <typename T>
void gradient_sums_plane(const T* grad, const T* x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean, int64_t n,
                         double* first, double* second) {
  using W = wide_t<T>;
  for (int64_t begin = 0; begin < n; begin += 4096) {
    const int64_t end = begin + 4096 < n ? begin + 4096 : n;
    W a[16] = {}, b[16] = {};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      for (int k = 0; k < 16; ++k) {
        const W v = load(x[i + k]);
        const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorised
        const W g = v * scale + shift > 0 ? whole : 0;
        a[k] += g;
        b[k] += g * (v - mean);
      }
    }
    for (; i < end; ++i) {
      const W v = load(x[i]);
      const W whole = load(grad[i]);  // read in any case: a conditional load would not be vectorised
      const W g = v * scale + shift > 0 ? whole : 0;
      a[0] += g;
      b[0] += g * (v - mean);
    }
    for (int k = 0; k < 16; ++k) *first += a[k], *second += b[k];
  }
}

template <typename T>
void gradient_input_plane(const T* grad, const T* x, T* grad_x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean,
                          wide_t<T> slope, wide_t<T> offset, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const wide_t<T> v = load(x[i]);
    const wide_t<T> whole = load(grad[i]);  // read in any case: a conditional load would not be vectorised
    const wide_t<T> g = v * scale + shift > 0 ? whole : 0;
    grad_x[i] = store<T>(g * scale + (v - mean) * slope + offset);
  }
}
