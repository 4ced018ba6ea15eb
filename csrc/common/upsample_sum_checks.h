// What upsample_sum, its canvas form and their gradients accept.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

inline void check_base(const char* what, const std::optional<Tensor>& base, const Tensor& map, int64_t height,
                       int64_t width) {
  if (!base.has_value()) return;
  const std::vector<int64_t> sizes{map.size(0), map.size(1), height, width};
  STD_TORCH_CHECK(sizes_of(*base) == sizes && base->scalar_type() == map.scalar_type() && same_device(*base, map), what,
                  ": base must be (N, C, H, W) in the maps' dtype, on their device");
}

inline void check_upsample_sum(const std::vector<Tensor>& maps, int64_t height, int64_t width,
                               const std::optional<Tensor>& base) {
  constexpr const char* kWhat = "upsample_sum";
  STD_TORCH_CHECK(!maps.empty(), kWhat, ": maps must hold at least one (N, C, h, w) tensor, got none");
  check_extent(kWhat, height), check_extent(kWhat, width);
  for (const Tensor& map : maps) {
    STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == maps[0].size(0) && map.size(1) == maps[0].size(1), kWhat,
                    ": maps must be (N, C, h, w) with one N and C");
    STD_TORCH_CHECK(map.scalar_type() == maps[0].scalar_type(), kWhat, ": maps must have one dtype");
    STD_TORCH_CHECK(same_device(map, maps[0]), kWhat, ": maps must be on one device");
    check_map_extents(kWhat, map, 1);
  }
  check_base(kWhat, base, maps[0], height, width);
}

inline void check_upsample_sum_backward(const Tensor& grad, const std::vector<int64_t>& sizes) {
  constexpr const char* kWhat = "upsample_sum_backward";
  STD_TORCH_CHECK(grad.dim() == 4 && !sizes.empty() && sizes.size() % 2 == 0, kWhat,
                  ": grad must be (N, C, H, W) and sizes (h, w) of every map");
  for (const int64_t size : sizes) check_extent(kWhat, size);
  check_map_extents(kWhat, grad, 1);
}

inline void check_upsample_sum_canvas(const Tensor& maps, const std::vector<int64_t>& places, int64_t height,
                                      int64_t width, const std::optional<Tensor>& base) {
  constexpr const char* kWhat = "upsample_sum_canvas";
  STD_TORCH_CHECK(maps.dim() == 4, kWhat, ": maps must be (N, C, H, W)");
  check_places(kWhat, places, maps.size(2), maps.size(3));
  check_extent(kWhat, height), check_extent(kWhat, width);
  check_map_extents(kWhat, maps, 1);
  check_base(kWhat, base, maps, height, width);
}

inline void check_upsample_sum_canvas_backward(const Tensor& grad, const std::vector<int64_t>& places, int64_t height,
                                               int64_t width) {
  constexpr const char* kWhat = "upsample_sum_canvas_backward";
  STD_TORCH_CHECK(grad.dim() == 4, kWhat, ": grad must be (N, C, H, W)");
  check_places(kWhat, places, height, width);
  check_map_extents(kWhat, grad, 1);
}

}  // namespace pyranet_fast
