// Several BN-ReLUs of one map, as the branches of a residual unit read it: statistics once, all outputs in one pass,
// and backward all sums in one pass and the map's whole gradient, the identity skip's included, in another.
// channels_last.
#include "common/batch_norm_relu_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/fused/shared_batch_norm_relu_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

// Pixels handled by one task: fixed, so that sums are formed in the same order with any number of threads.
constexpr int64_t kChunk = 1024;

struct Shared {
  int64_t pixels, channels, tile, count;
  explicit Shared(const Tensor& x, int64_t norms)
      : pixels(x.size(0) * x.size(2) * x.size(3)), channels(x.size(1)), tile(1), count(norms) {
    while (tile * channels % 16 != 0 || tile * channels < 64) ++tile;  // as in batch_norm_relu.cpp
  }
  int64_t length() const { return tile * channels; }
  int64_t chunks() const { return (pixels + kChunk - 1) / kChunk; }
  template <typename Body>
  void each(const Body& body) const {
    parallel_for(0, chunks(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i, i * kChunk, std::min((i + 1) * kChunk, pixels));
    });
  }
};

// Rows of per-channel values, each repeated over a tile.
template <typename W>
std::vector<W> tiled(const Shared& s, const std::vector<W>& rows) {
  std::vector<W> result;
  for (size_t row = 0; row < rows.size(); row += s.channels) {
    for (int64_t t = 0; t < s.tile; ++t) {
      result.insert(result.end(), rows.begin() + row, rows.begin() + row + s.channels);
    }
  }
  return result;
}

// Scale and shift of every norm for a mean and a variance.
template <typename W>
void fold(const Shared& s, const W* weight, const W* bias, const W* mean, const W* var, double eps,
          std::vector<W>& scale, std::vector<W>& shift) {
  scale.assign(weight, weight + s.count * s.channels);
  shift.assign(bias, bias + s.count * s.channels);
  for (int64_t i = 0; i < s.count * s.channels; ++i) {
    scale[i] = static_cast<W>(scale[i] / std::sqrt(static_cast<double>(var[i % s.channels]) + eps));
    shift[i] -= mean[i % s.channels] * scale[i];
  }
}

template <typename T>
void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, std::vector<Tensor>& outputs,
             Tensor& mean, Tensor& var) {
  using W = wide_t<T>;
  const Shared s(x, weight.size(0));
  const T* px = read_pointer<T>(x);
  W* pmean = write_pointer<W>(mean);
  W* pvar = write_pointer<W>(var);
  std::vector<W> pivot(s.channels);  // see batch_norm_relu.cpp
  for (int64_t c = 0; c < s.channels; ++c) pivot[c] = finite_pivot(load(px[c]));
  const auto pivots = tiled(s, pivot);
  std::vector<double> parts(s.chunks() * 2 * s.channels, 0.0), sums(2 * s.channels, 0.0);
  s.each([&](int64_t i, int64_t begin, int64_t end) {
    std::vector<W> scratch(2 * s.length());
    PF_CHOOSE(moments_channels_last<T>)
    (px, pivots.data(), begin, end, s.channels, s.tile, parts.data() + i * 2 * s.channels, scratch.data());
  });
  for (size_t i = 0; i < parts.size(); ++i) sums[i % sums.size()] += parts[i];
  const double count = static_cast<double>(s.pixels);
  for (int64_t c = 0; c < s.channels; ++c) {
    const double offset = sums[c] / count;
    pmean[c] = static_cast<W>(pivot[c] + offset);
    pvar[c] = static_cast<W>(not_negative(sums[s.channels + c] / count - offset * offset));
  }
  std::vector<W> scale, shift;
  fold(s, weight.const_data_ptr<W>(), bias.const_data_ptr<W>(), pmean, pvar, eps, scale, shift);
  const auto scales = tiled(s, scale), shifts = tiled(s, shift);
  std::vector<T*> ys;
  for (Tensor& output : outputs) ys.push_back(write_pointer<T>(output));
  s.each([&](int64_t, int64_t begin, int64_t end) {
    PF_CHOOSE(shared_affine_relu<T>)
    (px, ys.data(), scales.data(), shifts.data(), s.count, begin, end, s.channels, s.tile);
  });
}

template <typename T>
void backward(const std::vector<Tensor>& grads, const Tensor& x, const std::optional<Tensor>& extra,
              const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
              Tensor& grad_x, Tensor& grad_weight, Tensor& grad_bias) {
  using W = wide_t<T>;
  const Shared s(x, weight.size(0));
  const T* px = read_pointer<T>(x);
  const W* pmean = mean.const_data_ptr<W>();
  const W* pvar = var.const_data_ptr<W>();
  std::vector<const T*> gs;
  for (const Tensor& g : grads) gs.push_back(g.numel() == 0 ? nullptr : read_pointer<T>(g));
  std::vector<W> scale, shift;
  fold(s, weight.const_data_ptr<W>(), bias.const_data_ptr<W>(), pmean, pvar, eps, scale, shift);
  const auto scales = tiled(s, scale), shifts = tiled(s, shift);
  const auto means = tiled(s, std::vector<W>(pmean, pmean + s.channels));
  const int64_t width = 2 * s.count * s.channels;
  std::vector<double> parts(s.chunks() * width, 0.0), sums(width, 0.0);
  s.each([&](int64_t i, int64_t begin, int64_t end) {
    std::vector<W> scratch(2 * s.count * s.length());
    PF_CHOOSE(shared_gradient_sums<T>)
    (gs.data(), px, scales.data(), shifts.data(), means.data(), s.count, begin, end, s.channels, s.tile,
     parts.data() + i * width, scratch.data());
  });
  for (size_t i = 0; i < parts.size(); ++i) sums[i % sums.size()] += parts[i];
  W* pgw = grad_weight.mutable_data_ptr<W>();
  W* pgb = grad_bias.mutable_data_ptr<W>();
  std::vector<double> slope(s.channels, 0.0), offset(s.channels, 0.0);
  const double count = static_cast<double>(s.pixels);
  for (int64_t j = 0; j < s.count; ++j) {
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = j * s.channels + c;
      const double inverse = 1.0 / std::sqrt(static_cast<double>(pvar[c]) + eps);
      const double first = sums[2 * j * s.channels + c], second = sums[(2 * j + 1) * s.channels + c];
      pgb[at] = static_cast<W>(first);
      pgw[at] = static_cast<W>(second * inverse);
      slope[c] -= scale[at] * inverse * inverse * second / count;
      offset[c] -= scale[at] * first / count;
    }
  }
  const auto slopes = tiled(s, std::vector<W>(slope.begin(), slope.end()));
  const auto offsets = tiled(s, std::vector<W>(offset.begin(), offset.end()));
  const T* pe = extra.has_value() ? read_pointer<T>(*extra) : nullptr;
  T* pgx = write_pointer<T>(grad_x);
  s.each([&](int64_t, int64_t begin, int64_t end) {
    PF_CHOOSE(shared_gradient_input<T>)
    (gs.data(), px, pe, pgx, scales.data(), shifts.data(), means.data(), slopes.data(), offsets.data(), s.count, begin,
     end, s.channels, s.tile);
  });
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> shared_batch_norm_relu(Tensor x, Tensor weight, Tensor bias,
                                                                       double eps) {
  check_shared_batch_norm_relu("shared_batch_norm_relu", x, weight, bias);
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  std::vector<Tensor> outputs;
  for (int64_t j = 0; j < weight.size(0); ++j) outputs.push_back(empty_nchw(x, sizes_of(x), true));
  Tensor mean = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor var = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("shared_batch_norm_relu: x", x.scalar_type(),
                 [&](auto type) { forward<decltype(type)>(x, weight, bias, eps, outputs, mean, var); });
  return {outputs, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> shared_batch_norm_relu_backward(std::vector<Tensor> grads,
                                                                   std::optional<Tensor> extra, Tensor x, Tensor weight,
                                                                   Tensor bias, Tensor mean, Tensor var, double eps) {
  check_shared_batch_norm_relu_backward(grads, extra, x, weight, bias, mean, var);
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  mean = torch::stable::contiguous(mean), var = torch::stable::contiguous(var);
  for (Tensor& grad : grads) {
    if (grad.numel() > 0) grad = torch::stable::contiguous(grad, MemoryFormat::ChannelsLast);
  }
  if (extra.has_value()) extra = torch::stable::contiguous(*extra, MemoryFormat::ChannelsLast);
  Tensor grad_x = empty_nchw(x, sizes_of(x), true);
  Tensor grad_weight = empty_nchw(x, {weight.size(0), x.size(1)}, false, wide_type(x));
  Tensor grad_bias = empty_nchw(x, {weight.size(0), x.size(1)}, false, wide_type(x));
  dispatch_float("shared_batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    backward<decltype(type)>(grads, x, extra, weight, bias, mean, var, eps, grad_x, grad_weight, grad_bias);
  });
  return {grad_x, grad_weight, grad_bias};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("shared_batch_norm_relu", TORCH_BOX(&shared_batch_norm_relu));
  m.impl("shared_batch_norm_relu_backward", TORCH_BOX(&shared_batch_norm_relu_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
