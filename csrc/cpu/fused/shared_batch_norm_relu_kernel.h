// Included once per instruction set by multiversion.h; see there, and batch_norm_relu_kernel.h for tiles.

#include "cpu/batch_norm_relu_kernel.h"

// relu(x * scale[j] + shift[j]) for every j, tile by tile: x is read from memory once.
template <typename T>
void shared_affine_relu(const T* x, T* const* ys, const wide_t<T>* scale, const wide_t<T>* shift, int64_t count,
                        int64_t begin, int64_t end, int64_t channels, int64_t tile) {
  const int64_t length = tile * channels;
  for (int64_t p = begin; p < end; p += tile) {
    for (int64_t j = 0; j < count; ++j) {
      affine_relu_channels_last<T>(x, ys[j], scale + j * length, shift + j * length, p, std::min(end, p + tile),
                                   channels, tile);
    }
  }
}

// For every j the sums that gradient_sums_channels_last forms, x read once. A null gradient is zero.
template <typename T>
void shared_gradient_sums(const T* const* grads, const T* x, const wide_t<T>* scale, const wide_t<T>* shift,
                          const wide_t<T>* mean, int64_t count, int64_t begin, int64_t end, int64_t channels,
                          int64_t tile, double* sums, wide_t<T>* scratch) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  for (int64_t i = 0; i < 2 * count * length; ++i) scratch[i] = 0;
  int64_t since = 0;
  const auto flush = [&]() {
    for (int64_t j = 0; j < count; ++j) {
      W* first = scratch + 2 * j * length;
      W* second = first + length;
      for (int64_t i = 0; i < length; ++i) {
        sums[2 * j * channels + i % channels] += first[i];
        sums[(2 * j + 1) * channels + i % channels] += second[i];
        first[i] = second[i] = 0;
      }
    }
    since = 0;
  };
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    const int64_t n = i + length <= end * channels ? length : end * channels - i;
    for (int64_t j = 0; j < count; ++j) {
      if (grads[j] == nullptr) continue;
      const T* grad = grads[j];
      const W* a = scale + j * length;
      const W* b = shift + j * length;
      W* first = scratch + 2 * j * length;
      W* second = first + length;
      for (int64_t k = 0; k < n; ++k) {
        const W v = load(x[i + k]);
        const W whole = load(grad[i + k]);  // read in any case: a conditional load would not be vectorized
        const W g = v * a[k] + b[k] > 0 ? whole : 0;
        first[k] += g;
        second[k] += g * (v - mean[k]);
      }
    }
    if (++since == 256) flush();
  }
  flush();
}

// grad_x = extra + sum_j g_j * scale[j] + (x - mean) * slope + offset, over pixels [begin, end).
template <typename T>
void shared_gradient_input(const T* const* grads, const T* x, const T* extra, T* grad_x, const wide_t<T>* scale,
                           const wide_t<T>* shift, const wide_t<T>* mean, const wide_t<T>* slope,
                           const wide_t<T>* offset, int64_t count, int64_t begin, int64_t end, int64_t channels,
                           int64_t tile, wide_t<T>* scratch) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    const int64_t n = i + length <= end * channels ? length : end * channels - i;
    for (int64_t k = 0; k < n; ++k) scratch[k] = (load(x[i + k]) - mean[k]) * slope[k] + offset[k];
    if (extra != nullptr) {
      for (int64_t k = 0; k < n; ++k) scratch[k] += load(extra[i + k]);
    }
    for (int64_t j = 0; j < count; ++j) {
      if (grads[j] == nullptr) continue;
      const T* grad = grads[j];
      const W* a = scale + j * length;
      const W* b = shift + j * length;
      for (int64_t k = 0; k < n; ++k) {
        const W whole = load(grad[i + k]);
        scratch[k] += (load(x[i + k]) * a[k] + b[k] > 0 ? whole : 0) * a[k];
      }
    }
    for (int64_t k = 0; k < n; ++k) grad_x[i + k] = store<T>(scratch[k]);
  }
}
