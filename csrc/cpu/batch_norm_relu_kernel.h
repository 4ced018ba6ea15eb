// Included once per instruction set by multiversion.h; see there. A tile is a run of whole pixels in a
// channels_last tensor whose length in elements is a multiple of 16, so that per-channel constants repeated
// over a tile turn every pass into a loop without remainders, whatever the number of channels.

#include "cpu/vector.h"

// Adds what a tile's lanes hold to their channels' sums, and empties them: short float sums, long double ones.
template <typename W>
PF_NOINLINE void flush_tile(W* first, W* second, int64_t length, int64_t channels, double* sums) {
  for (int64_t i = 0; i < length; i += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += first[i + c];
      sums[channels + c] += second[i + c];
    }
  }
  std::memset(first, 0, length * sizeof(W));
  std::memset(second, 0, length * sizeof(W));
}
constexpr int kTilesAFlush = 256;

// Calls tile(element, how many) for the tiles of pixels [begin, end), of which the last may be a part.
template <typename Tile>
PF_INLINE void each_tile(int64_t begin, int64_t end, int64_t channels, int64_t length, const Tile& tile) {
  for (int64_t i = begin * channels; i < end * channels; i += length) {
    tile(i, i + length <= end * channels ? length : end * channels - i);
  }
}

// Sums over pixels [begin, end) of d and d * d, d = x - pivot, for every channel (channels_last).
template <typename T>
void moments_channels_last(const T* x, const wide_t<T>* pivot, int64_t begin, int64_t end, int64_t channels,
                           int64_t tile, double* sums, wide_t<T>* scratch) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const int64_t length = tile * channels;
  W* first = scratch;
  W* second = scratch + length;
  std::memset(scratch, 0, 2 * length * sizeof(W));
  int since = 0;
  each_tile(begin, end, channels, length, [&](int64_t at, int64_t n) {
    each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t k, int64_t some) {
      V d, p, a, b;
      load_some(whole, x + at + k, some, d), load_vector(pivot + k, p);
      load_vector(first + k, a), load_vector(second + k, b);
      d -= p;
      keep(whole, some, d);
      a += d;
      b += d * d;
      store_vector(a, first + k), store_vector(b, second + k);
    });
    if (++since == kTilesAFlush) flush_tile(first, second, length, channels, sums), since = 0;
  });
  flush_tile(first, second, length, channels, sums);
}

// y = max(x * scale + shift, 0) over pixels [begin, end); scale and shift are repeated over a tile.
template <typename T>
void affine_relu_channels_last(const T* x, T* y, const wide_t<T>* scale, const wide_t<T>* shift, int64_t begin,
                               int64_t end, int64_t channels, int64_t tile) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  each_tile(begin, end, channels, tile * channels, [&](int64_t at, int64_t n) {
    each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t k, int64_t some) {
      V v, a, b;
      load_some(whole, x + at + k, some, v), load_vector(scale + k, a), load_vector(shift + k, b);
      v = v * a + b;
      v = v < zero ? zero : v;  // NaN stays
      store_some(whole, v, some, y + at + k);
    });
  });
}

// Adds g and g * (x - mean) of a part of a tile, g = gradient where the output was above 0.
template <typename T>
PF_INLINE void add_gradient_sums(const T* grad, const T* x, const wide_t<T>* scale, const wide_t<T>* shift,
                                 const wide_t<T>* mean, int64_t n, wide_t<T>* first, wide_t<T>* second) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t k, int64_t some) {
    V v, g, a, b, m, sum, sum_x;
    load_some(whole, x + k, some, v), load_some(whole, grad + k, some, g);
    load_vector(scale + k, a), load_vector(shift + k, b), load_vector(mean + k, m);
    load_vector(first + k, sum), load_vector(second + k, sum_x);
    g = v * a + b <= zero ? zero : g;  // as PyTorch: NaN lets it pass
    sum += g;
    sum_x += g * (v - m);
    store_vector(sum, first + k), store_vector(sum_x, second + k);
  });
}

// Sums of g and g * (x - mean) over pixels [begin, end).
template <typename T>
void gradient_sums_channels_last(const T* grad, const T* x, const wide_t<T>* scale, const wide_t<T>* shift,
                                 const wide_t<T>* mean, int64_t begin, int64_t end, int64_t channels, int64_t tile,
                                 double* sums, wide_t<T>* scratch) {
  using W = wide_t<T>;
  const int64_t length = tile * channels;
  W* first = scratch;
  W* second = scratch + length;
  std::memset(scratch, 0, 2 * length * sizeof(W));
  int since = 0;
  each_tile(begin, end, channels, length, [&](int64_t at, int64_t n) {
    add_gradient_sums(grad + at, x + at, scale, shift, mean, n, first, second);
    if (++since == kTilesAFlush) flush_tile(first, second, length, channels, sums), since = 0;
  });
  flush_tile(first, second, length, channels, sums);
}

// grad_x = (g + (x - mean) * slope + offset) * scale, over pixels [begin, end).
template <typename T>
void gradient_input_channels_last(const T* grad, const T* x, T* grad_x, const wide_t<T>* scale, const wide_t<T>* shift,
                                  const wide_t<T>* mean, const wide_t<T>* slope, const wide_t<T>* offset, int64_t begin,
                                  int64_t end, int64_t channels, int64_t tile) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  each_tile(begin, end, channels, tile * channels, [&](int64_t at, int64_t n) {
    each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t k, int64_t some) {
      V v, g, a, b, m, s, o;
      load_some(whole, x + at + k, some, v), load_some(whole, grad + at + k, some, g);
      load_vector(scale + k, a), load_vector(shift + k, b), load_vector(mean + k, m);
      load_vector(slope + k, s), load_vector(offset + k, o);
      g = v * a + b <= zero ? zero : g;  // as PyTorch: NaN lets it pass
      g = (g + (v - m) * s + o) * a;
      store_some(whole, g, some, grad_x + at + k);
    });
  });
}

// The same four passes over a run of one channel's pixels (contiguous): float sums are short, double ones long.
constexpr int64_t kRun = 4096;

template <typename W>
PF_NOINLINE void add_lanes(const typename Vector<W>::Values& lanes, double* sum) {
  for (int k = 0; k < Vector<W>::kCount; ++k) *sum += lanes[k];
}

template <typename T>
void moments_plane(const T* x, wide_t<T> pivot, int64_t n, double* first, double* second) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  constexpr int L = Vector<W>::kCount;
  for (int64_t begin = 0; begin < n; begin += kRun) {
    const int64_t end = std::min(n, begin + kRun);
    V a0 = {}, b0 = {}, a1 = {}, b1 = {}, v0, v1;
    int64_t i = begin;
    for (; i + 2 * L <= end; i += 2 * L) {
      load_vector(x + i, v0), load_vector(x + i + L, v1);
      v0 -= pivot, v1 -= pivot;
      a0 += v0, a1 += v1;
      b0 += v0 * v0, b1 += v1 * v1;
    }
    each_vector<L>(end - i, [&](auto whole, int64_t k, int64_t some) {
      V v;
      load_some(whole, x + i + k, some, v);
      v -= pivot;
      keep(whole, some, v);
      a0 += v;
      b0 += v * v;
    });
    add_lanes<W>(a0 + a1, first), add_lanes<W>(b0 + b1, second);
  }
}

template <typename T>
void affine_relu_plane(const T* x, T* y, wide_t<T> scale, wide_t<T> shift, int64_t n) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t i, int64_t some) {
    V v;
    load_some(whole, x + i, some, v);
    v = v * scale + shift;
    v = v < zero ? zero : v;  // NaN stays
    store_some(whole, v, some, y + i);
  });
}

template <typename T>
void gradient_sums_plane(const T* grad, const T* x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean, int64_t n,
                         double* first, double* second) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  for (int64_t begin = 0; begin < n; begin += kRun) {
    V a = {}, b = {};
    each_vector<Vector<W>::kCount>(std::min(n - begin, kRun), [&](auto whole, int64_t i, int64_t some) {
      V v, g;
      load_some(whole, x + begin + i, some, v), load_some(whole, grad + begin + i, some, g);
      g = v * scale + shift <= zero ? zero : g;
      a += g;
      b += g * (v - mean);
    });
    add_lanes<W>(a, first), add_lanes<W>(b, second);
  }
}

template <typename T>
void gradient_input_plane(const T* grad, const T* x, T* grad_x, wide_t<T> scale, wide_t<T> shift, wide_t<T> mean,
                          wide_t<T> slope, wide_t<T> offset, int64_t n) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  const V zero = {};
  each_vector<Vector<W>::kCount>(n, [&](auto whole, int64_t i, int64_t some) {
    V v, g;
    load_some(whole, x + i, some, v), load_some(whole, grad + i, some, g);
    g = v * scale + shift <= zero ? zero : g;
    g = (g + (v - mean) * slope + offset) * scale;
    store_some(whole, g, some, grad_x + i);
  });
}
