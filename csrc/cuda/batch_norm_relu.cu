// Operators of batch_norm_relu on CUDA tensors.
#include "cuda/batch_norm_relu.cuh"

#include "common/batch_norm_relu_checks.h"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

using Results = std::tuple<Tensor, Tensor, Tensor>;

struct Averages {
  Tensor mean, var, batches;
  double momentum;
};

// The map's sizes and what every kernel reads; what pointers point to must outlive the arguments.
template <typename T>
NormArguments<T> arguments_of(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                              double eps) {
  using W = wide_t<T>;
  NormArguments<T> p{};
  p.x = read_pointer<T>(x);
  p.weight = read_pointer<W>(weight), p.bias = read_pointer<W>(bias);
  p.eps = static_cast<W>(eps);
  p.batch = x.size(0), p.channels = x.size(1), p.area = x.size(2) * x.size(3);
  p.channels_last = is_channels_last(x);
  return p;
}

template <typename T>
Tensor partials_of(NormArguments<T>& p, const Tensor& x) {
  Tensor partials = empty_nchw(x, {2, norm_partials(p)}, false, wide_type(x));
  p.first = write_pointer<wide_t<T>>(partials), p.second = p.first + partials.numel() / 2;
  return partials;
}

Results forward(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, double eps, Averages* averages) {
  const Launcher launch(x);
  x = dense(x);
  weight = as_dense(weight, wide_type(x)), bias = as_dense(bias, wide_type(x));
  Tensor y = empty_like_map(x);
  Tensor mean = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor var = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    NormArguments<T> p = arguments_of<T>(x, weight, bias, eps);
    p.out = write_pointer<T>(y);
    p.mean = write_pointer<W>(mean), p.var = write_pointer<W>(var);
    if (averages != nullptr) {
      p.running_mean = write_pointer<W>(averages->mean), p.running_var = write_pointer<W>(averages->var);
      p.batches = write_pointer<int64_t>(averages->batches);
      p.momentum = static_cast<W>(averages->momentum);
    }
    const Tensor partials = partials_of(p, x);
    launch_batch_norm_relu(p, launch);
  });
  return {y, mean, var};
}

Results batch_norm_relu(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, double eps) {
  check_batch_norm_relu("batch_norm_relu", x, weight, bias);
  return forward(x, weight, bias, eps, nullptr);
}

Results batch_norm_relu_update(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor running_mean,
                               Tensor running_var, Tensor batches, double momentum, double eps) {
  check_batch_norm_relu_update(x, weight, bias, running_mean, running_var, batches);
  Averages averages{running_mean, running_var, batches, momentum};
  return forward(x, weight, bias, eps, &averages);
}

Results batch_norm_relu_backward(Tensor grad, Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                 Tensor mean, Tensor var, double eps) {
  check_batch_norm_relu_backward(grad, x, weight, bias, mean, var);
  const Launcher launch(x);
  x = dense(x), mean = torch::stable::contiguous(mean), var = torch::stable::contiguous(var);
  weight = as_dense(weight, wide_type(x)), bias = as_dense(bias, wide_type(x));
  Tensor grad_x = empty_like_map(x);
  const bool same_layout = is_channels_last(x) ? is_channels_last(grad) : grad.is_contiguous();
  if (!same_layout) {  // grad_x lends its memory for the copy: each element is read before the same thread writes it
    torch::stable::copy_(grad_x, grad);
    grad = grad_x;
  }
  Tensor grad_weight = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  Tensor grad_bias = empty_nchw(x, {x.size(1)}, false, wide_type(x));
  dispatch_float("batch_norm_relu: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    NormArguments<T> p = arguments_of<T>(x, weight, bias, eps);
    p.grad = read_pointer<T>(grad), p.out = write_pointer<T>(grad_x);
    p.mean = read_pointer<W>(mean), p.var = read_pointer<W>(var);
    p.grad_weight = write_pointer<W>(grad_weight), p.grad_bias = write_pointer<W>(grad_bias);
    const Tensor partials = partials_of(p, x);
    launch_batch_norm_relu_backward(p, launch);
  });
  return {grad_x, grad_weight, grad_bias};
}

void batch_norm_update(Tensor running_mean, Tensor running_var, Tensor batches, Tensor mean, Tensor var,
                       double momentum, int64_t count) {
  check_batch_norm_update(running_mean, running_var, batches, mean, var, count);
  if (mean.numel() == 0) return;
  const Launcher launch(mean);
  dispatch_wide(mean, [&](auto type) {
    using W = decltype(type);
    AverageArguments<W> p{};
    p.mean = read_pointer<W>(mean), p.var = read_pointer<W>(var);
    p.running_mean = write_pointer<W>(running_mean), p.running_var = write_pointer<W>(running_var);
    p.batches = write_pointer<int64_t>(batches);
    p.momentum = static_cast<W>(momentum), p.channels = mean.numel();
    launch_norm_averages(p, count, launch);
  });
}

CUDA_OPERATORS(m) {
  m.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  m.impl("batch_norm_relu_update_", TORCH_BOX(&batch_norm_relu_update));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
  m.impl("batch_norm_update_", TORCH_BOX(&batch_norm_update));
}

}  // namespace
}  // namespace pyranet_fast::gpu
