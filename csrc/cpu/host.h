// What every CPU operator starts from: torch's operators, dispatch, threads, and what its kernels start from.
#pragma once

#include "common/tensor.h"
#include "cpu/elements.h"

namespace pyranet_fast::cpu {

using torch::stable::parallel_for;

// Calls body(T{}) for the floating-point type of a tensor.
template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  dispatch_types<BFloat16, Half>(what, type, body);
}

// Refuses what dispatch_float does.
inline void check_float(const char* what, ScalarType type) {
  dispatch_float(what, type, [](auto) {});
}

// Calls body(T{}) for the dtype of a tensor that widens to W, checked before.
template <typename W, typename Body>
void dispatch_narrow(const Tensor& x, const Body& body) {
  if constexpr (std::is_same_v<W, double>) {
    body(double{});
  } else {
    const ScalarType type = x.scalar_type();
    type == ScalarType::Float ? body(float{}) : type == ScalarType::BFloat16 ? body(BFloat16{}) : body(Half{});
  }
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
