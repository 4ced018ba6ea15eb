// Included once per instruction set by multiversion.h; see there.

#include "cpu/vector.h"
#include "cpu/fused/gemm.h"

inline int64_t pointwise_columns() { return kPanel; }

// The maximum of four rows of n values; NaN wins.
inline void pointwise_maximum(const float* const* from, int64_t n, float* to) {
  using F = Vector<float>;
  for (int64_t k = 0; k < n; k += F::kCount) {
    const int64_t lanes = std::min<int64_t>(F::kCount, n - k);
    typename F::Values most, more;
    load_part(from[0] + k, lanes, most);
    for (int i = 1; i < 4; ++i) {
      load_part(from[i] + k, lanes, more);
      most = more > most ? more : most;
      most = more != more ? more : most;
    }
    store_part(most, to + k, lanes);
  }
}

// What the branches read, for pixels [p0, p1): the sum of x and other, or x pooled; to `to`, and to the kept sum.
inline void pointwise_input(const PointwiseJob& job, int64_t p0, int64_t p1, float* to) {
  const int64_t c = job.inputs;
  for (int64_t p = p0; p < p1; ++p, to += c) {
    float* kept = job.sum == nullptr ? nullptr : job.sum + p * c;
    const int64_t x = p % job.width, y = p / job.width % job.height, n = p / job.width / job.height;
    if (job.pool) {
      const int64_t row = job.x_width * c;
      const float* first = job.x + ((n * job.x_height + 2 * y) * job.x_width + 2 * x) * c;
      const float* from[] = {first, first + c, first + row, first + row + c};
      pointwise_maximum(from, c, to);
    } else {
      const int64_t source = job.half ? (n * job.x_height + y / 2) * job.x_width + x / 2 : p;
      const float* a = job.x + source * c;
      const float* b = job.other == nullptr ? nullptr : job.other + p * c;
      for (int64_t k = 0; k < c; ++k) to[k] = b == nullptr ? a[k] : a[k] + b[k];
    }
    if (kept != nullptr) std::memcpy(kept, to, c * sizeof(float));
  }
}

// relu(from * scale + shift), rows of `channels`.
inline void pointwise_activate(const float* from, const float* scale, const float* shift, int64_t rows,
                               int64_t channels, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < channels; ++k) {
      const float value = from[r * channels + k] * scale[k] + shift[k];
      to[r * channels + k] = value < 0 ? 0 : value;  // NaN stays
    }
  }
}

// Pixels [p0, p1) of every output; scratch has room for two blocks of pixels.
inline void pointwise_pixels(const PointwiseJob& job, int64_t p0, int64_t p1, float* scratch) {
  using F = Vector<float>;
  const int64_t c = job.inputs, rows = p1 - p0;
  const bool plain = job.other == nullptr && job.sum == nullptr && !job.pool;
  const float* total = job.x + p0 * c;
  if (!plain) {
    pointwise_input(job, p0, p1, scratch);
    total = scratch;
  }
  float* active = scratch + rows * c;
  const typename F::Values zero = {};
  for (const PointwiseJob::Output& output : job.outputs) {
    const float* a = total;
    if (output.scale != nullptr) {
      pointwise_activate(total, output.scale, output.shift, rows, c, active);
      a = active;
    }
    const int64_t k = output.channels;
    for (int64_t panel = 0; panel < k; panel += kPanel) {
      const int64_t first = std::min<int64_t>(F::kCount, k - panel), second = std::min(kPanel, k - panel) - first;
      typename F::Values bias_left, bias_right;
      load_part(output.bias + panel, first, bias_left);
      load_part(output.bias + panel + first, second, bias_right);
      gemm_panel(a, output.weight + panel * c, rows, c, [&](int64_t r, const auto& left, const auto& right) {
        const int64_t at = (p0 + r) * k + panel;
        typename F::Values u = left + bias_left, v = right + bias_right;
        if (output.residual != nullptr) {
          typename F::Values more;
          load_part(output.residual + at, first, more);
          u += more;
          load_part(output.residual + at + first, second, more);
          v += more;
        }
        if (output.relu) u = u < zero ? zero : u, v = v < zero ? zero : v;
        store_part(u, output.y + at, first);
        store_part(v, output.y + at + first, second);
      });
    }
  }
}
