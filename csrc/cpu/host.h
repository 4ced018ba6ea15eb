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
