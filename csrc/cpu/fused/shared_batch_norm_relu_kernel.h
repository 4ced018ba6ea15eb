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
  std::memset(scratch, 0, 2 * count * length * sizeof(W));
  int since = 0;
  const auto flush = [&]() {
    for (int64_t j = 0; j < count; ++j) {
      W* first = scratch + 2 * j * length;
      flush_tile(first, first + length, length, channels, sums + 2 * j * channels);
    }
    since = 0;
  };
  each_tile(begin, end, channels, length, [&](int64_t at, int64_t n) {
    for (int64_t j = 0; j < count; ++j) {
      if (grads[j] == nullptr) continue;
      W* first = scratch + 2 * j * length;
      add_gradient_sums(grads[j] + at, x + at, scale + j * length, shift + j * length, mean, n, first, first + length);
    }
    if (++since == kTilesAFlush) flush();
  });
  flush();
}

// grad_x = extra + sum_j g_j * scale[j] + (x - mean) * slope + offset, over pixels [begin, end).
template <typename T>
void shared_gradient_input(const T* const* grads, const T* x, const T* extra, T* grad_x, const wide_t<T>* scale,
                           const wide_t<T>* shift, const wide_t<T>* mean, const wide_t<T>* slope,
                           const wide_t<T>* offset, int64_t count, int64_t begin, int64_t end, int64_t channels,
                           int64_t tile) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const int64_t length = tile * channels;
  const V zero = {};
  each_tile(begin, end, channels, length, [&](int64_t at, int64_t n) {
    each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t k, int64_t some) {
      V v, m, s, sum;
      load_some(whole, x + at + k, some, v), load_vector(mean + k, m);
      load_vector(slope + k, s), load_vector(offset + k, sum);
      sum += (v - m) * s;
      if (extra != nullptr) {
        V more;
        load_some(whole, extra + at + k, some, more);
        sum += more;
      }
      for (int64_t j = 0; j < count; ++j) {
        if (grads[j] == nullptr) continue;
        V g, a, b;
        load_some(whole, grads[j] + at + k, some, g);
        load_vector(scale + j * length + k, a), load_vector(shift + j * length + k, b);
        g = v * a + b <= zero ? zero : g;  // as PyTorch: NaN lets it pass
        sum += g * a;
      }
      store_some(whole, sum, some, grad_x + at + k);
    });
  });
}
