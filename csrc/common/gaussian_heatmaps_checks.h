// What gaussian_heatmaps accepts; joints and weights are those of heatmap_loss, too.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

// `maps`: what the joints belong to, for their number and device.
inline void check_joints(const char* what, const Tensor& joints, const Tensor& weight, const Tensor& maps) {
  STD_TORCH_CHECK(joints.dim() == 3 && joints.size(0) == maps.size(0) && joints.size(1) == maps.size(1) &&
                      joints.size(2) == 2 && weight.dim() == 2 && weight.size(0) == maps.size(0) &&
                      weight.size(1) == maps.size(1),
                  what, ": joints must be (N, K, 2) and weight (N, K)");
  STD_TORCH_CHECK(is_float_or_double(joints) && is_float_or_double(weight), what,
                  ": joints and weight must be float32 or float64");
  STD_TORCH_CHECK(same_device(joints, maps) && same_device(weight, maps), what,
                  ": joints and weight must be on one device, that of the maps");
}

inline void check_gaussian_heatmaps(const Tensor& joints, const Tensor& weight, int64_t height, int64_t width) {
  constexpr const char* kWhat = "gaussian_heatmaps";
  STD_TORCH_CHECK(joints.dim() == 3, kWhat, ": joints must be (N, K, 2) and weight (N, K)");
  check_joints(kWhat, joints, weight, joints);
  STD_TORCH_CHECK(height >= 1 && width >= 1, kWhat, ": height and width of at least 1 are accepted");
  check_extent(kWhat, height), check_extent(kWhat, width);
}

}  // namespace pyranet_fast
