// Argument checks that several operators make, CPU and CUDA alike. An operator's own are in <operator>_checks.h, which
// both its host functions call: the same input is rejected in the same sentence on either. Public functions have
// checked before, in Python; these hold for whoever calls torch.ops.
#pragma once

#include "common/tensor.h"

namespace pyranet_fast {

constexpr int64_t kMostExtent = (int64_t{1} << 31) - 1;  // kernels count rows and columns with 32 bits

inline void check_extent(const char* what, int64_t size, int64_t least = 1, int64_t most = kMostExtent) {
  STD_TORCH_CHECK(size >= least && size <= most, what, ": height and width must be ", least, " to ", most, ", got ",
                  size);
}

inline bool same_device(const Tensor& a, const Tensor& b) { return a.device() == b.device(); }

inline bool is_float_or_double(const Tensor& x) {
  return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
}

// Heights and widths of an (N, C, H, W) map that may be empty.
inline void check_map_extents(const char* what, const Tensor& map, int64_t least = 0, int64_t most = kMostExtent) {
  check_extent(what, map.size(2), least, most);
  check_extent(what, map.size(3), least, most);
}

inline bool is_floating(const Tensor& x) {
  return is_float_or_double(x) || x.scalar_type() == ScalarType::BFloat16 || x.scalar_type() == ScalarType::Half;
}

// A folded batch norm: one value a channel, in any floating-point type.
inline void check_channel_vectors(const char* what, const Tensor& x, const std::optional<Tensor>& scale,
                                  const std::optional<Tensor>& shift) {
  for (const std::optional<Tensor>* vector : {&scale, &shift}) {
    if (!vector->has_value()) continue;
    STD_TORCH_CHECK((*vector)->dim() == 1 && (*vector)->size(0) == x.size(1), what, ": scale and shift must be (C,)");
    STD_TORCH_CHECK(is_floating(**vector) && same_device(**vector, x), what,
                    ": scale and shift must be floating-point, on the device of x");
  }
}

// Joints of (N, K, h, w) maps, whose number and device they share, and a weight each.
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

// A Gaussian's standard deviation.
inline void check_sigma(const char* what, double sigma) {
  STD_TORCH_CHECK(sigma > 0, what, ": sigma is ", sigma, "; expected a number above 0, in map pixels");
}

// Places of levels on a canvas, flat: (y, x, h, w) of every level.
inline void check_places(const char* what, const std::vector<int64_t>& places, int64_t height, int64_t width) {
  STD_TORCH_CHECK(!places.empty() && places.size() % 4 == 0, what, ": places must be (y, x, h, w) of every level");
  check_extent(what, height), check_extent(what, width);
  for (size_t i = 0; i < places.size(); i += 4) {
    const int64_t y = places[i], x = places[i + 1], h = places[i + 2], w = places[i + 3];
    STD_TORCH_CHECK(
        y >= 0 && x >= 0 && h >= 1 && w >= 1 && y < height && x < width && h <= height - y && w <= width - x, what,
        ": a level lies outside its canvas");
  }
}

}  // namespace pyranet_fast
