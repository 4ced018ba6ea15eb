// What add_affine_relu accepts; see checks.h.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

// Returns whether x has half the size of the other term.
inline bool check_add_affine_relu(const Tensor& x, const std::optional<Tensor>& other, const Tensor& scale,
                                  const Tensor& shift, bool keep) {
  STD_TORCH_CHECK(x.dim() == 4, "add_affine_relu: x must be (N, C, H, W)");
  const int64_t c = x.size(1);
  bool half = false;
  if (other.has_value()) {
    STD_TORCH_CHECK(other->dim() == 4 && other->size(0) == x.size(0) && other->size(1) == c &&
                        other->scalar_type() == x.scalar_type() && same_device(*other, x),
                    "add_affine_relu: other must be (N, C, H, W) in the dtype of x, on its device");
    half = other->size(2) == 2 * x.size(2) && other->size(3) == 2 * x.size(3);
    STD_TORCH_CHECK(half || (other->size(2) == x.size(2) && other->size(3) == x.size(3)),
                    "add_affine_relu: other must have the size of x, or twice its height and width");
  }
  const ScalarType wide = wide_type(x);
  STD_TORCH_CHECK(scale.dim() == 2 && scale.size(1) == c && shift.dim() == 2 && shift.size(0) == scale.size(0) &&
                      shift.size(1) == c && scale.scalar_type() == wide && shift.scalar_type() == wide,
                  "add_affine_relu: scale and shift must be (outputs, C) in float32 (float64 for float64)");
  STD_TORCH_CHECK(same_device(scale, x) && same_device(shift, x),
                  "add_affine_relu: scale and shift must be on x's device");
  STD_TORCH_CHECK(scale.size(0) + (keep ? 1 : 0) > 0, "add_affine_relu: nothing is asked for");
  check_map_extents("add_affine_relu", other.has_value() ? *other : x);
  return half;
}

}  // namespace pyranet_fast
