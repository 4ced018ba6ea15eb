// Operators of heatmap_loss on CUDA tensors.
#include "common/heatmap_loss_checks.h"
#include "cuda/heatmap_loss.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

template <typename T>
LossArguments<T> arguments_of(const Tensor& pred, const Tensor& joints, const Tensor& weight, double sigma) {
  using W = wide_t<T>;
  LossArguments<T> p{};
  p.pred = read_map<T>(pred);
  p.joints = read_pointer<W>(joints);
  p.weight = read_pointer<W>(weight);
  p.two_sigma_squared = two_sigma_squared<W>(sigma);
  p.batch = pred.size(0), p.channels = pred.size(1);
  return p;
}

Tensor loss(Tensor pred, Tensor joints, Tensor weight, double sigma) {
  check_heatmap_loss(pred, joints, weight, sigma);
  const Launcher launch(pred);
  joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  const ScalarType wide = wide_type(pred);
  Tensor result = empty_nchw(pred, {}, false, wide);
  if (pred.numel() == 0) {
    torch::stable::zero_(result);
    return result;
  }
  Tensor ticket = empty_nchw(pred, {1}, false, ScalarType::Int);
  torch::stable::zero_(ticket);
  dispatch_float("heatmap_loss: pred", pred.scalar_type(), [&](auto type) {
    using T = decltype(type);
    LossArguments<T> p = arguments_of<T>(pred, joints, weight, sigma);
    Tensor partial = empty_nchw(pred, {loss_parts(p)}, false, wide);
    p.partial = write_pointer<wide_t<T>>(partial);
    p.ticket = write_pointer<unsigned>(ticket);
    p.loss = write_pointer<wide_t<T>>(result);
    launch_heatmap_loss(p, false, launch);
  });
  return result;
}

Tensor loss_backward(Tensor grad, Tensor pred, Tensor joints, Tensor weight, double sigma) {
  check_heatmap_loss_backward(grad, pred, joints, weight, sigma);
  const Launcher launch(pred);
  joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  Tensor to = empty_like_map(pred);
  if (pred.numel() == 0) return to;
  dispatch_float("heatmap_loss: pred", pred.scalar_type(), [&](auto type) {
    using T = decltype(type);
    LossArguments<T> p = arguments_of<T>(pred, joints, weight, sigma);
    p.grad = read_pointer<wide_t<T>>(grad);
    p.grad_pred = write_map<T>(to);
    launch_heatmap_loss(p, true, launch);
  });
  return to;
}

CUDA_OPERATORS(m) {
  m.impl("heatmap_loss", TORCH_BOX(&loss));
  m.impl("heatmap_loss_backward", TORCH_BOX(&loss_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
