// Included once per instruction set by multiversion.h; see there. Winograd's F(m x m, 3x3): a tile of m x m outputs out
// of (m + 2) x (m + 2) inputs, by as many products a pair of channels instead of 9 m x m.

#include "cpu/vector.h"
#include "cpu/fused/gemm.h"

inline int64_t winograd_columns() { return kPanel; }

// One dimension of the input's transform: kIn values, `stride` apart, in place.
template <int kIn, typename V>
PF_INLINE void winograd_in(V* d, int stride) {
  V &d0 = d[0], &d1 = d[stride], &d2 = d[2 * stride], &d3 = d[3 * stride];
  if constexpr (kIn == 4) {
    const V first = d0 - d2, sum = d1 + d2, difference = d2 - d1, last = d1 - d3;
    d0 = first, d1 = sum, d2 = difference, d3 = last;
  } else {
    V &d4 = d[4 * stride], &d5 = d[5 * stride];
    const V a = d4 - d2 * 4.f, b = d3 - d1 * 4.f, c = d4 - d2, e = (d3 - d1) * 2.f;
    const V first = d0 * 4.f - d2 * 5.f + d4, last = d1 * 4.f - d3 * 5.f + d5;
    d0 = first, d1 = a + b, d2 = a - b, d3 = c + e, d4 = c - e, d5 = last;
  }
}

// One dimension of the output's: kIn values to kIn - 2, in place.
template <int kIn, typename V>
PF_INLINE void winograd_out(V* m, int stride) {
  V &m0 = m[0], &m1 = m[stride], &m2 = m[2 * stride], &m3 = m[3 * stride];
  if constexpr (kIn == 4) {
    const V first = m0 + m1 + m2, second = m1 - m2 - m3;
    m0 = first, m1 = second;
  } else {
    V &m4 = m[4 * stride], &m5 = m[5 * stride];
    const V a = m1 + m2, b = m1 - m2, c = m3 + m4, e = m3 - m4;
    m0 = m0 + a + c, m1 = b + e * 2.f, m2 = a + c * 4.f, m3 = b + e * 8.f + m5;
  }
}

// Input tiles [t0, t1) to their places in v: (points, tiles, channels), whose first tile is `first`. Points lie `plane`
// apart: a few lines more than a power of two or its like, or they would push each other out of the cache.
template <int kTile, typename T>
void winograd_gather(const WinogradJob<T>& job, int64_t t0, int64_t t1, int64_t first, int64_t plane, T* v) {
  using F = Vector<float>;
  constexpr int L = F::kCount, kIn = kTile + 2, kPoints = kIn * kIn;
  const int64_t c = job.inputs;
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t n = t / (job.rows * job.columns), y0 = t / job.columns % job.rows * kTile - 1,
                  x0 = t % job.columns * kTile - 1;
    const T* image = job.x + n * job.height * job.width * c;
    T* to = v + (t - first) * c;
    for (int64_t k = 0; k < c; k += L) {
      const int64_t lanes = std::min<int64_t>(L, c - k);
      typename F::Values d[kPoints];
      for (int i = 0; i < kIn; ++i) {
        const int64_t y = y0 + i;
        for (int j = 0; j < kIn; ++j) {
          const int64_t x = x0 + j;
          typename F::Values value = {};
          if (y >= 0 && y < job.height && x >= 0 && x < job.width) {
            load_part(image + (y * job.width + x) * c + k, lanes, value);
          }
          d[kIn * i + j] = value;
        }
      }
      for (int j = 0; j < kIn; ++j) winograd_in<kIn>(d + j, kIn);
      for (int i = 0; i < kIn; ++i) winograd_in<kIn>(d + kIn * i, 1);
      for (int p = 0; p < kPoints; ++p) store_part(d[p], to + p * plane + k, lanes);
    }
  }
}

// m (tiles, padded) = v (tiles, depth) * u, packed in panels.
template <typename T>
void winograd_product(const T* v, const T* u, int64_t tiles, int64_t depth, int64_t padded, float* m) {
  using F = Vector<float>;
  for (int64_t panel = 0; panel < padded; panel += kPanel) {
    gemm_panel(v, u + panel * depth, tiles, depth, [&](int64_t t, const auto& left, const auto& right) {
      F::write(m + t * padded + panel, left);
      F::write(m + t * padded + panel + F::kCount, right);
    });
  }
}

// Output tiles [t0, t1) out of m: (points, tiles, padded), `plane` apart, with bias, other and ReLU. Whether the
// convolution is finite in all of them: an infinity or NaN has spread over its tile where it is not, and differences of
// infinities are NaN.
template <int kTile, typename T>
bool winograd_scatter(const WinogradJob<T>& job, int64_t t0, int64_t t1, int64_t plane, const float* m) {
  using F = Vector<float>;
  constexpr int L = F::kCount, kIn = kTile + 2, kPoints = kIn * kIn;
  const int64_t c = job.outputs;
  const typename F::Values zero = {};
  typename F::Values spoilt = {};  // 0, or NaN
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t n = t / (job.rows * job.columns), y0 = t / job.columns % job.rows * kTile,
                  x0 = t % job.columns * kTile;
    const int64_t at = n * job.height * job.width * c;
    const int64_t high = std::min<int64_t>(kTile, job.height - y0), wide = std::min<int64_t>(kTile, job.width - x0);
    const float* from = m + (t - t0) * job.padded;
    for (int64_t k = 0; k < c; k += L) {
      const int64_t lanes = std::min<int64_t>(L, c - k);
      typename F::Values d[kPoints];
      for (int p = 0; p < kPoints; ++p) d[p] = F::read(from + p * plane + k);
      for (int j = 0; j < kIn; ++j) winograd_out<kIn>(d + j, kIn);
      for (int i = 0; i < kTile; ++i) winograd_out<kIn>(d + kIn * i, 1);
      for (int i = 0; i < kTile; ++i) {
        for (int j = 0; j < kTile; ++j) spoilt += d[kIn * i + j] * 0.f;
      }
      typename F::Values bias = {};
      if (job.bias != nullptr) load_part(job.bias + k, lanes, bias);
      for (int64_t i = 0; i < high; ++i) {
        for (int64_t j = 0; j < wide; ++j) {
          const int64_t place = at + ((y0 + i) * job.width + x0 + j) * c + k;
          typename F::Values value = d[kIn * i + j] + bias;
          if (job.other != nullptr) {
            typename F::Values more;
            load_part(job.other + place, lanes, more);
            value += more;
          }
          if (job.relu) value = value < zero ? zero : value;  // NaN stays
          store_part(value, job.y + place, lanes);
        }
      }
    }
  }
  for (int l = 0; l < L; ++l) {
    if (spoilt[l] != 0) return false;
  }
  return true;
}

// One dimension of the transform of an output's gradient: the transpose of winograd_out, four values to six, in place.
template <typename V>
PF_INLINE void winograd_out_transposed(V* g, int stride) {
  const V g0 = g[0], g1 = g[stride], g2 = g[2 * stride], g3 = g[3 * stride];
  const V even = g0 + g2, odd = g1 + g3, even4 = g0 + g2 * 4.f, odd8 = g1 * 2.f + g3 * 8.f;
  g[stride] = even + odd, g[2 * stride] = even - odd, g[3 * stride] = even4 + odd8, g[4 * stride] = even4 - odd8;
  g[5 * stride] = g3;
}

// Gradients of output tiles [t0, t1) to d: (36, tiles, padded), zeros behind the last channel.
inline void winograd_gather_gradient(const WinogradJob<float>& job, const float* gradient, int64_t t0, int64_t t1,
                                     int64_t first, int64_t plane, float* to_all) {
  using F = Vector<float>;
  constexpr int L = F::kCount;
  const int64_t c = job.outputs;
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t n = t / (job.rows * job.columns), y0 = t / job.columns % job.rows * 4, x0 = t % job.columns * 4;
    const float* image = gradient + n * job.height * job.width * c;
    float* to = to_all + (t - first) * job.padded;
    for (int64_t k = 0; k < job.padded; k += L) {
      const int64_t lanes = std::min<int64_t>(L, c - k);
      typename F::Values d[36] = {};
      for (int i = 0; i < 4 && y0 + i < job.height; ++i) {
        for (int j = 0; j < 4 && x0 + j < job.width; ++j) {
          const float* from = image + ((y0 + i) * job.width + x0 + j) * c + k;
          if (lanes >= L) {
            d[6 * i + j] = F::read(from);
          } else {
            for (int64_t l = 0; l < lanes; ++l) d[6 * i + j][l] = from[l];
          }
        }
      }
      for (int j = 0; j < 4; ++j) winograd_out_transposed(d + j, 6);
      for (int i = 0; i < 6; ++i) winograd_out_transposed(d + 6 * i, 1);
      for (int p = 0; p < 36; ++p) F::write(to + p * plane + k, d[p]);
    }
  }
}

// Rows x panel of u += v^T d, summed over tiles: v is (tiles, channels), d (tiles, padded), both at their first column.
template <int Rows>
PF_INLINE void winograd_outer_block(const float* v, const float* d, int64_t tiles, int64_t channels, int64_t padded,
                                    float* u) {
  using F = Vector<float>;
  typename F::Values left[Rows], right[Rows];
  for (int r = 0; r < Rows; ++r) left[r] = F::read(u + r * padded), right[r] = F::read(u + r * padded + F::kCount);
  for (int64_t t = 0; t < tiles; ++t) {
    const typename F::Values d0 = F::read(d + t * padded), d1 = F::read(d + t * padded + F::kCount);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float value = v[t * channels + r];
      left[r] += d0 * value;
      right[r] += d1 * value;
    }
  }
  for (int r = 0; r < Rows; ++r) F::write(u + r * padded, left[r]), F::write(u + r * padded + F::kCount, right[r]);
}

// u (channels, padded) += v^T d.
inline void winograd_outer(const float* v, const float* d, int64_t tiles, int64_t channels, int64_t padded, float* u) {
  for (int64_t panel = 0; panel < padded; panel += kPanel) {
    int64_t c = 0;
    for (; c + kRowsAtOnce <= channels; c += kRowsAtOnce) {
      winograd_outer_block<kRowsAtOnce>(v + c, d + panel, tiles, channels, padded, u + c * padded + panel);
    }
    for (; c + 4 <= channels; c += 4) {
      winograd_outer_block<4>(v + c, d + panel, tiles, channels, padded, u + c * padded + panel);
    }
    for (; c < channels; ++c) {
      winograd_outer_block<1>(v + c, d + panel, tiles, channels, padded, u + c * padded + panel);
    }
  }
}
