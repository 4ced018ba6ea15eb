// What every CPU operator starts from: torch's operators, element types as kernels load and store them, dispatch,
// threads. Kernel files, which include nothing themselves (multiversion.h), find here what they need.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "common/tensor.h"

namespace pyranet_fast::cpu {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::stable::parallel_for;

// Elements widen to float (double stays double) and are stored with one rounding. Written so that compilers vectorize
// loops over them.
PF_INLINE float load(float x) { return x; }
PF_INLINE double load(double x) { return x; }
PF_INLINE float load(BFloat16 x) { return bfloat16_to_float(x.x); }
PF_INLINE float load(Half x) { return static_cast<float>(x); }

template <typename T>
PF_INLINE T store(wide_t<T> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    BFloat16 result;
    result.x = float_to_bfloat16(value, 0x7fc0);
    return result;
  } else {
    return static_cast<T>(value);
  }
}

// Calls body(T{}) for the floating-point type of a tensor.
template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  dispatch_types<BFloat16, Half>(what, type, body);
}

// A tensor's elements, whose dtype dispatch_float has checked.
template <typename T>
const T* read_pointer(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* write_pointer(Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

}  // namespace pyranet_fast::cpu
