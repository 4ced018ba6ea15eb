// relu(batch_norm(x)) with batch statistics, forward and backward, in two passes each: statistics, then values.
// The backward needs only x: the mask is recomputed, the normalized map is never stored.
#include "common/batch_norm_relu_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/batch_norm_relu_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

// Pixels handled by one task: fixed, so that sums are formed in the same order with any number of threads.
constexpr int64_t kChunk = 2048;

struct Shape {
  int64_t n, channels, area;
  bool channels_last;
  int64_t pixels() const { return n * area; }
  int64_t chunks() const { return (pixels() + kChunk - 1) / kChunk; }
  // Pixels of a tile: the fewest whose elements are a multiple of 16, and some work for a loop.
  int64_t tile() const {
    int64_t t = 1;
    while (t * channels % 16 != 0 || t * channels < 64) ++t;
    return t;
  }
};

Shape shape_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2) * x.size(3), is_channels_last(x)}; }

// A per-channel vector repeated over a tile (and a tile more, for a remainder that starts inside one).
template <typename W>
std::vector<W> repeat(const std::vector<W>& values, int64_t tile) {
  std::vector<W> result(values.size() * tile);
  for (int64_t t = 0; t < tile; ++t) std::copy(values.begin(), values.end(), result.begin() + t * values.size());
  return result;
}

template <typename W>
std::vector<W> vector_or(const std::optional<Tensor>& values, int64_t size, W otherwise) {
  std::vector<W> result(size, otherwise);
  if (values.has_value()) {
    const Tensor dense_values = torch::stable::contiguous(*values);
    std::copy_n(read_pointer<W>(dense_values), size, result.begin());
  }
  return result;
}

// Per-channel totals of two sums, added up in a fixed order. `pass(chunk_sums, ...)` fills one chunk or plane.
template <typename T, typename ChannelsLast, typename Plane>
std::vector<double> total(const Shape& s, const ChannelsLast& channels_last, const Plane& plane) {
  std::vector<double> sums(2 * s.channels, 0.0);
  if (s.channels_last) {
    std::vector<double> parts(s.chunks() * 2 * s.channels, 0.0);
    parallel_for(0, s.chunks(), 1, [&](int64_t begin, int64_t end) {
      std::vector<wide_t<T>> scratch(2 * s.tile() * s.channels);
      for (int64_t i = begin; i < end; ++i) {
        channels_last(i * kChunk, std::min((i + 1) * kChunk, s.pixels()), parts.data() + i * 2 * s.channels,
                      scratch.data());
      }
    });
    for (int64_t i = 0; i < s.chunks(); ++i) {
      for (int64_t k = 0; k < 2 * s.channels; ++k) sums[k] += parts[i * 2 * s.channels + k];
    }
  } else {
    parallel_for(0, s.channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t n = 0; n < s.n; ++n) plane(n, c, &sums[c], &sums[s.channels + c]);
      }
    });
  }
  return sums;
}

template <typename ChannelsLast, typename Plane>
void each(const Shape& s, const ChannelsLast& channels_last, const Plane& plane) {
  if (s.channels_last) {
    parallel_for(0, s.chunks(), 1, [&](int64_t begin, int64_t end) {
      channels_last(begin * kChunk, std::min(end * kChunk, s.pixels()));
    });
  } else {
    parallel_for(0, s.n * s.channels, std::max<int64_t>(1, kChunk / std::max<int64_t>(1, s.area)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) plane(i / s.channels, i % s.channels);
                 });
  }
}

template <typename T>
void forward(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
             Tensor& y, Tensor& mean, Tensor& var) {
  using W = wide_t<T>;
  const Shape s = shape_of(x);
  const T* px = read_pointer<T>(x);
  T* py = write_pointer<T>(y);
  W* pmean = write_pointer<W>(mean);
  W* pvar = write_pointer<W>(var);
  const int64_t tile = s.tile();
  // Sums are taken of the distances from one pixel's values: without that the variance of a map with a large mean
  // would drown in rounding.
  std::vector<W> pivot(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) pivot[c] = finite_pivot(load(px[s.channels_last ? c : c * s.area]));
  const auto pivots = repeat(pivot, tile);
  const auto sums = total<T>(
      s,
      [&](int64_t begin, int64_t end, double* part, W* scratch) {
        PF_CHOOSE(moments_channels_last<T>)(px, pivots.data(), begin, end, s.channels, tile, part, scratch);
      },
      [&](int64_t n, int64_t c, double* a, double* b) {
        PF_CHOOSE(moments_plane<T>)(px + (n * s.channels + c) * s.area, pivot[c], s.area, a, b);
      });
  std::vector<W> scale = vector_or<W>(weight, s.channels, 1);
  std::vector<W> shift = vector_or<W>(bias, s.channels, 0);
  const double count = static_cast<double>(s.pixels());
  for (int64_t c = 0; c < s.channels; ++c) {
    const double offset = sums[c] / count;
    pmean[c] = static_cast<W>(pivot[c] + offset);
    pvar[c] = static_cast<W>(not_negative(sums[s.channels + c] / count - offset * offset));
    scale[c] = static_cast<W>(scale[c] / std::sqrt(static_cast<double>(pvar[c]) + eps));
    shift[c] -= pmean[c] * scale[c];
  }
  const auto scales = repeat(scale, tile), shifts = repeat(shift, tile);
  each(
      s,
      [&](int64_t begin, int64_t end) {
        PF_CHOOSE(affine_relu_channels_last<T>)(px, py, scales.data(), shifts.data(), begin, end, s.channels, tile);
      },
      [&](int64_t n, int64_t c) {
        const int64_t at = (n * s.channels + c) * s.area;
        PF_CHOOSE(affine_relu_plane<T>)(px + at, py + at, scale[c], shift[c], s.area);
      });
}

template <typename T>
void backward(const Tensor& grad, const Tensor& x, const std::optional<Tensor>& weight,
              const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& var, double eps, Tensor& grad_x,
              Tensor& grad_weight, Tensor& grad_bias) {
  using W = wide_t<T>;
  const Shape s = shape_of(x);
  const T* px = read_pointer<T>(x);
  const T* pg = read_pointer<T>(grad);
  T* pgx = write_pointer<T>(grad_x);
  const W* pmean = read_pointer<W>(mean);
  const W* pvar = read_pointer<W>(var);
  W* pgw = write_pointer<W>(grad_weight);
  W* pgb = write_pointer<W>(grad_bias);
  const int64_t tile = s.tile();
  std::vector<W> scale = vector_or<W>(weight, s.channels, 1);
  std::vector<W> shift = vector_or<W>(bias, s.channels, 0);
  const std::vector<W> center(pmean, pmean + s.channels);
  std::vector<double> inverse(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    inverse[c] = 1.0 / std::sqrt(static_cast<double>(pvar[c]) + eps);
    scale[c] = static_cast<W>(scale[c] * inverse[c]);
    shift[c] -= pmean[c] * scale[c];
  }
  const auto scales = repeat(scale, tile), shifts = repeat(shift, tile), means = repeat(center, tile);
  const auto sums = total<T>(
      s,
      [&](int64_t begin, int64_t end, double* part, W* scratch) {
        PF_CHOOSE(gradient_sums_channels_last<T>)
        (pg, px, scales.data(), shifts.data(), means.data(), begin, end, s.channels, tile, part, scratch);
      },
      [&](int64_t n, int64_t c, double* a, double* b) {
        const int64_t at = (n * s.channels + c) * s.area;
        PF_CHOOSE(gradient_sums_plane<T>)(pg + at, px + at, scale[c], shift[c], pmean[c], s.area, a, b);
      });
  // grad_x = scale (g - mean(g) - (x - mean) inverse^2 mean(g (x - mean))): scale last, as in PyTorch, so that an
  // infinite one gives infinities and not their difference
  std::vector<W> slope(s.channels), offset(s.channels);
  const double count = static_cast<double>(s.pixels());
  for (int64_t c = 0; c < s.channels; ++c) {
    pgb[c] = static_cast<W>(sums[c]);
    pgw[c] = static_cast<W>(sums[s.channels + c] * inverse[c]);
    slope[c] = static_cast<W>(-inverse[c] * inverse[c] * sums[s.channels + c] / count);
    offset[c] = static_cast<W>(-sums[c] / count);
  }
  const auto slopes = repeat(slope, tile), offsets = repeat(offset, tile);
  each(
      s,
      [&](int64_t begin, int64_t end) {
        PF_CHOOSE(gradient_input_channels_last<T>)
        (pg, px, pgx, scales.data(), shifts.data(), means.data(), slopes.data(), offsets.data(), begin, end, s.channels,
         tile);
      },
      [&](int64_t n, int64_t c) {
        const int64_t at = (n * s.channels + c) * s.area;
        PF_CHOOSE(gradient_input_plane<T>)
        (pg + at, px + at, pgx + at, scale[c], shift[c], pmean[c], slope[c], offset[c], s.area);
      });
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                                   double eps) {
  check_batch_norm_relu("batch_norm_relu", x, weight, bias);
  x = dense(x);
  Tensor y = empty_like_map(x);
  Tensor mean = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor var = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("batch_norm_relu: x", x.scalar_type(),
                 [&](auto type) { forward<decltype(type)>(x, weight, bias, eps, y, mean, var); });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                            std::optional<Tensor> bias, Tensor mean, Tensor var,
                                                            double eps) {
  check_batch_norm_relu_backward(grad, x, weight, bias, mean, var);
  x = dense(x), mean = torch::stable::contiguous(mean), var = torch::stable::contiguous(var);
  Tensor grad_x = empty_like_map(x);
  const bool same_layout = is_channels_last(x) ? is_channels_last(grad) : grad.is_contiguous();
  if (!same_layout) {  // grad_x lends its memory for the copy into x's layout: each element is read before it is
                       // written
    torch::stable::copy_(grad_x, grad);
    grad = grad_x;
  }
  Tensor grad_weight = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor grad_bias = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    backward<decltype(type)>(grad, x, weight, bias, mean, var, eps, grad_x, grad_weight, grad_bias);
  });
  return {grad_x, grad_weight, grad_bias};
}

// Moving averages as nn.BatchNorm2d keeps them: the variance's is unbiased.
void batch_norm_update(Tensor running_mean, Tensor running_var, Tensor batches, Tensor mean, Tensor var,
                       double momentum, int64_t count) {
  check_batch_norm_update(running_mean, running_var, batches, mean, var, count);
  const double unbiased = count > 1 ? static_cast<double>(count) / static_cast<double>(count - 1) : 1.0;
  batches.mutable_data_ptr<int64_t>()[0] += 1;
  dispatch_wide(mean, [&](auto type) {
    using W = decltype(type);
    W* pm = running_mean.mutable_data_ptr<W>();
    W* pv = running_var.mutable_data_ptr<W>();
    const W* bm = mean.const_data_ptr<W>();
    const W* bv = var.const_data_ptr<W>();
    for (int64_t c = 0; c < running_mean.numel(); ++c) {
      pm[c] = static_cast<W>((1 - momentum) * pm[c] + momentum * bm[c]);
      pv[c] = static_cast<W>((1 - momentum) * pv[c] + momentum * unbiased * bv[c]);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_update(Tensor x, std::optional<Tensor> weight,
                                                          std::optional<Tensor> bias, Tensor running_mean,
                                                          Tensor running_var, Tensor batches, double momentum,
                                                          double eps) {
  check_batch_norm_relu_update(x, weight, bias, running_mean, running_var, batches);
  const auto [y, mean, var] = batch_norm_relu(x, weight, bias, eps);
  batch_norm_update(running_mean, running_var, batches, mean, var, momentum, x.numel() / x.size(1));
  return {y, mean, var};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
  m.impl("batch_norm_update_", TORCH_BOX(&batch_norm_update));
  m.impl("batch_norm_relu_update_", TORCH_BOX(&batch_norm_relu_update));
}

}  // namespace
}  // namespace pyranet_fast::cpu
