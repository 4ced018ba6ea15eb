// What heatmap_loss and its gradient accept.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

inline void check_heatmap_loss(const Tensor& pred, const Tensor& joints, const Tensor& weight, double sigma) {
  constexpr const char* kWhat = "heatmap_loss";
  STD_TORCH_CHECK(pred.dim() == 4, kWhat, ": pred must be (N, K, h, w)");
  check_joints(kWhat, joints, weight, pred);
  STD_TORCH_CHECK(joints.scalar_type() == wide_type(pred) && weight.scalar_type() == wide_type(pred), kWhat,
                  ": joints and weight must be float32, or float64 for float64 pred");
  check_map_extents(kWhat, pred);
  check_sigma(kWhat, sigma);
}

inline void check_heatmap_loss_backward(const Tensor& grad, const Tensor& pred, const Tensor& joints,
                                        const Tensor& weight, double sigma) {
  check_heatmap_loss(pred, joints, weight, sigma);
  STD_TORCH_CHECK(grad.numel() == 1 && grad.scalar_type() == wide_type(pred) && same_device(grad, pred),
                  "heatmap_loss_backward: grad must be one value of the loss's dtype on the device of pred");
}

}  // namespace pyranet_fast
