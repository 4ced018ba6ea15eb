// What gaussian_heatmaps accepts.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

inline void check_gaussian_heatmaps(const Tensor& joints, const Tensor& weight, int64_t height, int64_t width,
                                    double sigma) {
  constexpr const char* kWhat = "gaussian_heatmaps";
  STD_TORCH_CHECK(joints.dim() == 3, kWhat, ": joints must be (N, K, 2) and weight (N, K)");
  check_joints(kWhat, joints, weight, joints);
  STD_TORCH_CHECK(height >= 1 && width >= 1, kWhat, ": height and width must be at least 1, got ", height, " and ",
                  width);
  check_extent(kWhat, height), check_extent(kWhat, width);
  check_sigma(kWhat, sigma);
}

}  // namespace pyranet_fast
