// What heatmap_argmax, its mirrored form and its gradient accept.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

inline void check_heatmap_argmax(const Tensor& heatmaps) {
  constexpr const char* kWhat = "heatmap_argmax";
  STD_TORCH_CHECK(heatmaps.dim() == 4 && heatmaps.size(2) >= 1 && heatmaps.size(3) >= 1, kWhat,
                  ": heatmaps must be (N, K, H, W), height and width at least 1");
  check_map_extents(kWhat, heatmaps, 1);
}

inline void check_heatmap_argmax_mirrored(const Tensor& heatmaps, const Tensor& mirrored, const Tensor& swap) {
  check_heatmap_argmax(heatmaps);
  STD_TORCH_CHECK(mirrored.dim() == 4 && sizes_of(mirrored) == sizes_of(heatmaps) &&
                      mirrored.scalar_type() == heatmaps.scalar_type() && same_device(mirrored, heatmaps),
                  "heatmap_argmax_mirrored: mirrored must have the shape, dtype and device of heatmaps");
  STD_TORCH_CHECK(swap.dim() == 1 && swap.size(0) == heatmaps.size(1) && swap.scalar_type() == ScalarType::Long &&
                      same_device(swap, heatmaps),
                  "heatmap_argmax_mirrored: swap must be (K,), int64, on the device of heatmaps");
}

inline void check_heatmap_argmax_backward(const Tensor& grad_scores, const Tensor& indices, int64_t height,
                                          int64_t width) {
  constexpr const char* kWhat = "heatmap_argmax_backward";
  STD_TORCH_CHECK(grad_scores.dim() == 2 && indices.dim() == 2 && sizes_of(grad_scores) == sizes_of(indices) &&
                      indices.scalar_type() == ScalarType::Long && same_device(indices, grad_scores),
                  kWhat, ": grad_scores and int64 indices must be (N, K) on one device");
  check_extent(kWhat, height), check_extent(kWhat, width);
}

}  // namespace pyranet_fast
