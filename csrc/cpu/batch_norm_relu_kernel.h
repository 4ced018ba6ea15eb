// Included once per instruction set by multiversion.h; see there. A tile is a run of whole pixels in a
// channels_last tensor whose length in elements is a multiple of 16, so that per-channel constants repeated
// over a tile turn every pass into a loop without remainders, whatever the number of channels.

#include "cpu/vector.h"

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
      const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorized
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
      const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorized
      const W g = v * scale[k] + shift[k] > 0 ? whole : 0;
      grad_x[i + k] = store<T>(g * scale[k] + (v - mean[k]) * slope[k] + offset[k]);
    }
  }
}

// The same four passes over a run of one channel's pixels (contiguous), in explicit vectors: GCC keeps arrays of sums
// in memory. Pixels after the last whole vector are done one by one, and float sums are short, double ones long.
constexpr int64_t kRun = 4096;

template <typename W>
void add_lanes(const typename Vector<W>::Values& lanes, double* sum) {
  for (int k = 0; k < Vector<W>::kCount; ++k) *sum += lanes[k];
}

template <typename T>
void moments_plane(const T* x, wide_t<T> pivot, int64_t n, double* first, double* second) {
  using W = wide_t<T>;
  constexpr int L = Vector<W>::kCount;
  for (int64_t i = 0; i < n;) {
    const int64_t end = std::min(n, i + kRun);
    typename Vector<W>::Values a0 = {}, b0 = {}, a1 = {}, b1 = {}, v0, v1;
    for (; i + 2 * L <= end; i += 2 * L) {
      load_vector(x + i, v0), load_vector(x + i + L, v1);
      v0 -= pivot, v1 -= pivot;
      a0 += v0, a1 += v1;
      b0 += v0 * v0, b1 += v1 * v1;
    }
    add_lanes<W>(a0 + a1, first), add_lanes<W>(b0 + b1, second);
    for (; i < end; ++i) {
      const W d = load(x[i]) - pivot;
      *first += d;
      *second += d * d;
    }
  }
}

template <typename T>
void affine_relu_plane(const T* x, T* y, wide_t<T> scale, wide_t<T> shift, int64_t n) {
  using W = wide_t<T>;
  constexpr int L = Vector<W>::kCount;
  const typename Vector<W>::Values zero = {};
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    typename Vector<W>::Values v;
    load_vector(x + i, v);
    v = v * scale + shift;
    store_vector(v < zero ? zero : v, y + i);  // NaN stays
  }
  for (; i < n; ++i) {
    const W v = load(x[i]) * scale + shift;
    y[i] = store<T>(v < 0 ? 0 : v);
  }
}

template <typename T>
void gradient_sums_plane(const T* grad, const T* x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean, int64_t n,
                         double* first, double* second) {
  using W = wide_t<T>;
  constexpr int L = Vector<W>::kCount;
  const typename Vector<W>::Values zero = {};
  for (int64_t i = 0; i < n;) {
    const int64_t end = std::min(n, i + kRun);
    typename Vector<W>::Values a = {}, b = {}, v, g;
    for (; i + L <= end; i += L) {
      load_vector(x + i, v), load_vector(grad + i, g);
      g = v * scale + shift > zero ? g : zero;
      a += g;
      b += g * (v - mean);
    }
    add_lanes<W>(a, first), add_lanes<W>(b, second);
    for (; i < end; ++i) {
      const W v = load(x[i]), whole = load(grad[i]);
      const W g = v * scale + shift > 0 ? whole : 0;
      *first += g;
      *second += g * (v - mean);
    }
  }
}

template <typename T>
void gradient_input_plane(const T* grad, const T* x, T* grad_x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean,
                          wide_t<T> slope, wide_t<T> offset, int64_t n) {
  using W = wide_t<T>;
  constexpr int L = Vector<W>::kCount;
  const typename Vector<W>::Values zero = {};
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    typename Vector<W>::Values v, g;
    load_vector(x + i, v), load_vector(grad + i, g);
    g = v * scale + shift > zero ? g : zero;
    store_vector(g * scale + (v - mean) * slope + offset, grad_x + i);
  }
  for (; i < n; ++i) {
    const W v = load(x[i]), whole = load(grad[i]);
    const W g = v * scale + shift > 0 ? whole : 0;
    grad_x[i] = store<T>(g * scale + (v - mean) * slope + offset);
  }
}
