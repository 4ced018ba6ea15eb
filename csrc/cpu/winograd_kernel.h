// Included once per instruction set by multiversion.h; see there. Winograd's F(4x4, 3x3): a tile of 4x4 outputs out of
// 6x6 inputs by 36 products a channel pair instead of 144.

#include "cpu/vector.h"
#include "cpu/gemm.h"

inline int64_t winograd_columns() { return kPanel; }

// One dimension of the input's transform: six values, `stride` apart, in place.
template <typename V>
PF_INLINE void winograd_in(V* d, int stride) {
  V &d0 = d[0], &d1 = d[stride], &d2 = d[2 * stride], &d3 = d[3 * stride], &d4 = d[4 * stride], &d5 = d[5 * stride];
  const V a = d4 - d2 * 4.f, b = d3 - d1 * 4.f, c = d4 - d2, e = (d3 - d1) * 2.f;
  const V first = d0 * 4.f - d2 * 5.f + d4, last = d1 * 4.f - d3 * 5.f + d5;
  d0 = first, d1 = a + b, d2 = a - b, d3 = c + e, d4 = c - e, d5 = last;
}

// One dimension of the output's: six values to four, in place.
template <typename V>
PF_INLINE void winograd_out(V* m, int stride) {
  V &m0 = m[0], &m1 = m[stride], &m2 = m[2 * stride], &m3 = m[3 * stride], &m4 = m[4 * stride], &m5 = m[5 * stride];
  const V a = m1 + m2, b = m1 - m2, c = m3 + m4, e = m3 - m4;
  m0 = m0 + a + c, m1 = b + e * 2.f, m2 = a + c * 4.f, m3 = b + e * 8.f + m5;
}

// Input tiles [t0, t1) to v: (36, tiles, channels).
inline void winograd_gather(const WinogradJob& job, int64_t t0, int64_t t1, float* v) {
  using F = Vector<float>;
  constexpr int L = F::kCount;
  const int64_t c = job.inputs, plane = (t1 - t0) * c;
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t n = t / (job.rows * job.columns), y0 = t / job.columns % job.rows * 4 - 1,
                  x0 = t % job.columns * 4 - 1;
    const float* image = job.x + n * job.height * job.width * c;
    float* to = v + (t - t0) * c;
    for (int64_t k = 0; k < c; k += L) {
      const int64_t lanes = std::min<int64_t>(L, c - k);
      typename F::Values d[36];
      for (int i = 0; i < 6; ++i) {
        const int64_t y = y0 + i;
        for (int j = 0; j < 6; ++j) {
          const int64_t x = x0 + j;
          typename F::Values value = {};
          if (y >= 0 && y < job.height && x >= 0 && x < job.width) {
            const float* from = image + (y * job.width + x) * c + k;
            if (lanes == L) {
              value = F::read(from);
            } else {
              for (int64_t l = 0; l < lanes; ++l) value[l] = from[l];
            }
          }
          d[6 * i + j] = value;
        }
      }
      for (int j = 0; j < 6; ++j) winograd_in(d + j, 6);
      for (int i = 0; i < 6; ++i) winograd_in(d + 6 * i, 1);
      for (int p = 0; p < 36; ++p) {
        if (lanes == L) {
          F::write(to + p * plane + k, d[p]);
        } else {
          for (int64_t l = 0; l < lanes; ++l) to[p * plane + k + l] = d[p][l];
        }
      }
    }
  }
}

// m (tiles, padded) = v (tiles, depth) * u, packed in panels.
inline void winograd_product(const float* v, const float* u, int64_t tiles, int64_t depth, int64_t padded, float* m) {
  using F = Vector<float>;
  for (int64_t panel = 0; panel < padded; panel += kPanel) {
    gemm_panel(v, u + panel * depth, tiles, depth, [&](int64_t t, const auto& left, const auto& right) {
      F::write(m + t * padded + panel, left);
      F::write(m + t * padded + panel + F::kCount, right);
    });
  }
}

// Output tiles [t0, t1) out of m: (36, tiles, padded), with bias, other and ReLU.
inline void winograd_scatter(const WinogradJob& job, int64_t t0, int64_t t1, const float* m) {
  using F = Vector<float>;
  constexpr int L = F::kCount;
  const int64_t c = job.outputs, plane = (t1 - t0) * job.padded;
  const typename F::Values zero = {};
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t n = t / (job.rows * job.columns), y0 = t / job.columns % job.rows * 4, x0 = t % job.columns * 4;
    const int64_t at = n * job.height * job.width * c;
    const int64_t high = std::min<int64_t>(4, job.height - y0), wide = std::min<int64_t>(4, job.width - x0);
    const float* from = m + (t - t0) * job.padded;
    for (int64_t k = 0; k < c; k += L) {
      const int64_t lanes = std::min<int64_t>(L, c - k);
      typename F::Values d[36];
      for (int p = 0; p < 36; ++p) d[p] = F::read(from + p * plane + k);
      for (int j = 0; j < 6; ++j) winograd_out(d + j, 6);
      for (int i = 0; i < 4; ++i) winograd_out(d + 6 * i, 1);
      typename F::Values bias = {};
      if (job.bias != nullptr) {
        for (int64_t l = 0; l < lanes; ++l) bias[l] = job.bias[k + l];
      }
      for (int64_t i = 0; i < high; ++i) {
        for (int64_t j = 0; j < wide; ++j) {
          const int64_t place = at + ((y0 + i) * job.width + x0 + j) * c + k;
          typename F::Values value = d[6 * i + j] + bias;
          if (lanes == L) {
            if (job.other != nullptr) value += F::read(job.other + place);
            if (job.relu) value = value < zero ? zero : value;  // NaN stays
            F::write(job.y + place, value);
          } else {
            for (int64_t l = 0; l < lanes; ++l) {
              float one = value[l] + (job.other != nullptr ? job.other[place + l] : 0.f);
              job.y[place + l] = job.relu && one < 0 ? 0 : one;
            }
          }
        }
      }
    }
  }
}
