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

// exp(x) for x <= 0, to about one unit in the last place; 0 below the normal numbers; NaN for NaN. Without branches
// and calls, so that loops over it become vectors.
PF_INLINE float exp_of_negative(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + round;
  const float n = shifted - round;
  const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;  // ln 2 in two parts, |r| <= ln 2 / 2
  float p = 1.0f / 5040;  // Taylor's series: its next term is below 1e-8
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // 2^n
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

PF_INLINE double exp_of_negative(double x) { return std::exp(x); }

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
