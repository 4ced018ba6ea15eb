// Included once per instruction set by multiversion.h; see there.

#include "cpu/vector.h"
#include "cpu/fused/gemm.h"

inline int64_t pointwise_columns() { return kPanel; }

// The maximum of four rows of n values; NaN wins.
template <typename T>
void pointwise_maximum(const T* const* from, int64_t n, T* to) {
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

// to = a + b, rounded to T.
template <typename T>
void pointwise_add(const T* a, const T* b, int64_t n, T* to) {
  using F = Vector<float>;
  for (int64_t k = 0; k < n; k += F::kCount) {
    const int64_t lanes = std::min<int64_t>(F::kCount, n - k);
    typename F::Values left, right;
    load_part(a + k, lanes, left), load_part(b + k, lanes, right);
    store_part(left + right, to + k, lanes);
  }
}

// What the branches read, for pixels [p0, p1): the sum of x and other, or x pooled; to `to`, and to the kept sum.
template <typename T>
void pointwise_input(const PointwiseJob<T>& job, int64_t p0, int64_t p1, T* to) {
  const int64_t c = job.inputs;
  for (int64_t p = p0; p < p1; ++p, to += c) {
    const int64_t x = p % job.width, y = p / job.width % job.height, n = p / job.width / job.height;
    if (job.pool) {
      const int64_t row = job.x_width * c;
      const T* first = job.x + ((n * job.x_height + 2 * y) * job.x_width + 2 * x) * c;
      const T* from[] = {first, first + c, first + row, first + row + c};
      pointwise_maximum(from, c, to);
    } else {
      const int64_t source = job.half ? (n * job.x_height + y / 2) * job.x_width + x / 2 : p;
      const T* a = job.x + source * c;
      if (job.other == nullptr) {
        std::memcpy(static_cast<void*>(to), a, c * sizeof(T));
      } else {
        pointwise_add(a, job.other + p * c, c, to);
      }
    }
    if (job.sum != nullptr) std::memcpy(static_cast<void*>(job.sum + p * c), to, c * sizeof(T));
  }
}

// relu(from * scale + shift), rows of `channels`.
template <typename T>
void pointwise_activate(const T* from, const float* scale, const float* shift, int64_t rows, int64_t channels, T* to) {
  using F = Vector<float>;
  const typename F::Values zero = {};
  for (int64_t r = 0; r < rows; ++r, from += channels, to += channels) {
    for (int64_t k = 0; k < channels; k += F::kCount) {
      const int64_t lanes = std::min<int64_t>(F::kCount, channels - k);
      typename F::Values value, a, b;
      load_part(from + k, lanes, value), load_part(scale + k, lanes, a), load_part(shift + k, lanes, b);
      value = value * a + b;
      value = value < zero ? zero : value;  // NaN stays
      store_part(value, to + k, lanes);
    }
  }
}

// Pixels [p0, p1) of every output; scratch has room for two blocks of pixels.
template <typename T>
void pointwise_pixels(const PointwiseJob<T>& job, int64_t p0, int64_t p1, T* scratch) {
  using F = Vector<float>;
  const int64_t c = job.inputs, rows = p1 - p0;
  const bool plain = job.other == nullptr && job.sum == nullptr && !job.pool;
  const T* total = job.x + p0 * c;
  if (!plain) {
    pointwise_input(job, p0, p1, scratch);
    total = scratch;
  }
  T* active = scratch + rows * c;
  const typename F::Values zero = {};
  for (const auto& output : job.outputs) {
    const T* a = total;
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
