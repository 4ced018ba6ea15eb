// Calls body(T{}) for the floating-point type of a tensor.
#pragma once

#include "common/checks.h"
#include "cpu/convert.h"

namespace pyranet_fast::cpu {

template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    case ScalarType::Half:
      return body(Half{});
    default:
      STD_TORCH_CHECK(false, what, " must be float32, float64, bfloat16 or float16");
  }
}

}  // namespace pyranet_fast::cpu
