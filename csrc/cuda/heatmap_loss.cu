// Operators of heatmap_loss on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "cuda/heatmap_loss_launch.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

constexpr const char* kName = "heatmap_loss";

// Both small: joints and weights are made dense where they are not.
void check(const Tensor& pred, Tensor& joints, Tensor& weight) {
  STD_TORCH_CHECK(pred.dim() == 4, kName, ": pred must be (N, K, h, w)");
  STD_TORCH_CHECK(joints.dim() == 3 && joints.size(0) == pred.size(0) && joints.size(1) == pred.size(1) &&
                      joints.size(2) == 2 && weight.dim() == 2 && weight.size(0) == pred.size(0) &&
                      weight.size(1) == pred.size(1),
                  kName, ": joints must be (N, K, 2) and weight (N, K)");
  const ScalarType wide = wide_type(pred.scalar_type());
  STD_TORCH_CHECK(joints.scalar_type() == wide && weight.scalar_type() == wide, kName,
                  ": joints and weight must be float32, or float64 for float64 pred");
  STD_TORCH_CHECK(
      joints.get_device_index() == pred.get_device_index() && weight.get_device_index() == pred.get_device_index(),
      kName, ": joints and weight must be on the device of pred");
  check_extent(kName, pred.size(2)), check_extent(kName, pred.size(3));
  joints = torch::stable::contiguous(joints);
  weight = torch::stable::contiguous(weight);
}

template <typename T>
LossArguments<T> arguments_of(const Tensor& pred, const Tensor& joints, const Tensor& weight, double sigma) {
  using W = wide_t<T>;
  LossArguments<T> p{};
  p.pred = read_map<T>(pred);
  p.joints = read_pointer<W>(joints);
  p.weight = read_pointer<W>(weight);
  p.two_sigma_squared = static_cast<W>(2 * sigma * sigma);
  p.batch = pred.size(0), p.channels = pred.size(1);
  return p;
}

Tensor loss(Tensor pred, Tensor joints, Tensor weight, double sigma) {
  const Launcher launch(pred);
  check(pred, joints, weight);
  const ScalarType wide = wide_type(pred.scalar_type());
  Tensor result = empty_nchw(pred, {}, false, wide);
  if (pred.numel() == 0) {
    torch::stable::zero_(result);
    return result;
  }
  Tensor ticket = empty_nchw(pred, {1}, false, ScalarType::Int);
  torch::stable::zero_(ticket);
  dispatch_float("heatmap_loss: pred", pred.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
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
  const Launcher launch(pred);
  check(pred, joints, weight);
  STD_TORCH_CHECK(grad.numel() == 1 && grad.scalar_type() == wide_type(pred.scalar_type()) &&
                      grad.get_device_index() == pred.get_device_index(),
                  "heatmap_loss_backward: grad must be one value of the loss's dtype on the device of pred");
  const std::vector<int64_t> sizes(pred.sizes().begin(), pred.sizes().end());
  Tensor to = empty_nchw(pred, sizes, is_channels_last(pred), pred.scalar_type());
  if (pred.numel() == 0) return to;
  dispatch_float("heatmap_loss: pred", pred.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    LossArguments<T> p = arguments_of<T>(pred, joints, weight, sigma);
    p.grad = read_pointer<wide_t<T>>(grad);
    p.grad_pred = write_map<T>(to);
    launch_heatmap_loss(p, true, launch);
  });
  return to;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CUDA, m) {
  m.impl("heatmap_loss", TORCH_BOX(&loss));
  m.impl("heatmap_loss_backward", TORCH_BOX(&loss_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
