// Operators of shared_batch_norm_relu on CUDA tensors.
#include "cuda/shared_batch_norm_relu.cuh"

#include "common/batch_norm_relu_checks.h"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

Tensor as_channels_last(const Tensor& x) { return torch::stable::contiguous(x, MemoryFormat::ChannelsLast); }

void check_norms(const Tensor& weight) {
  STD_TORCH_CHECK(weight.size(0) <= kSharedNorms, "shared_batch_norm_relu: on CUDA there must be at most ",
                  kSharedNorms, " norms, got ", weight.size(0));
}

template <typename T>
SharedNormArguments<T> arguments_of(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  using W = wide_t<T>;
  SharedNormArguments<T> p{};
  p.x = read_pointer<T>(x);
  p.weight = read_pointer<W>(weight), p.bias = read_pointer<W>(bias);
  p.eps = static_cast<W>(eps);
  p.batch = x.size(0), p.channels = x.size(1), p.area = x.size(2) * x.size(3);
  p.channels_last = true;
  p.norms = static_cast<int32_t>(weight.size(0));
  return p;
}

template <typename T>
Tensor partials_of(SharedNormArguments<T>& p, const Tensor& x) {
  Tensor partials = empty_nchw(x, {2, shared_norm_partials(p)}, false, wide_type(x));
  p.first = write_pointer<wide_t<T>>(partials), p.second = p.first + partials.numel() / 2;
  return partials;
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> shared_batch_norm_relu(Tensor x, Tensor weight, Tensor bias,
                                                                       double eps) {
  check_shared_batch_norm_relu("shared_batch_norm_relu", x, weight, bias);
  check_norms(weight);
  const Launcher launch(x);
  x = as_channels_last(x);
  std::vector<Tensor> outputs;
  for (int64_t j = 0; j < weight.size(0); ++j) outputs.push_back(empty_nchw(x, sizes_of(x), true));
  Tensor mean = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor var = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("shared_batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    SharedNormArguments<T> p = arguments_of<T>(x, weight, bias, eps);
    for (size_t j = 0; j < outputs.size(); ++j) p.outs[j] = write_pointer<T>(outputs[j]);
    p.mean = write_pointer<wide_t<T>>(mean), p.var = write_pointer<wide_t<T>>(var);
    p.norms = most(p.norms, 1);  // room for the statistics
    const Tensor partials = partials_of(p, x);
    p.norms = static_cast<int32_t>(outputs.size());
    launch_shared_batch_norm_relu(p, launch);
  });
  return {outputs, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> shared_batch_norm_relu_backward(std::vector<Tensor> grads,
                                                                   std::optional<Tensor> extra, Tensor x, Tensor weight,
                                                                   Tensor bias, Tensor mean, Tensor var, double eps) {
  check_shared_batch_norm_relu_backward(grads, extra, x, weight, bias, mean, var);
  check_norms(weight);
  const Launcher launch(x);
  x = as_channels_last(x);
  mean = torch::stable::contiguous(mean), var = torch::stable::contiguous(var);
  for (Tensor& grad : grads) {
    if (grad.numel() > 0) grad = as_channels_last(grad);
  }
  if (extra.has_value()) extra = as_channels_last(*extra);
  Tensor grad_x = empty_nchw(x, sizes_of(x), true);
  Tensor grad_weight = empty_nchw(x, {weight.size(0), x.size(1)}, false, wide_type(x));
  Tensor grad_bias = empty_nchw(x, {weight.size(0), x.size(1)}, false, wide_type(x));
  dispatch_float("shared_batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    SharedNormArguments<T> p = arguments_of<T>(x, weight, bias, eps);
    for (size_t j = 0; j < grads.size(); ++j) p.grads[j] = grads[j].numel() > 0 ? read_pointer<T>(grads[j]) : nullptr;
    p.extra = read_pointer<T>(extra);
    p.out = write_pointer<T>(grad_x);
    p.mean = read_pointer<W>(mean), p.var = read_pointer<W>(var);
    p.grad_weight = write_pointer<W>(grad_weight), p.grad_bias = write_pointer<W>(grad_bias);
    const Tensor partials = partials_of(p, x);
    launch_shared_batch_norm_relu_backward(p, launch);
  });
  return {grad_x, grad_weight, grad_bias};
}

CUDA_OPERATORS(m) {
  m.impl("shared_batch_norm_relu", TORCH_BOX(&shared_batch_norm_relu));
  m.impl("shared_batch_norm_relu_backward", TORCH_BOX(&shared_batch_norm_relu_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
