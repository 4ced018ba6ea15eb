// What the host side of every CUDA operator uses: tensors as kernels see them, dtypes, and launcher.h, whose place the
// emulator takes in tests.
#pragma once

#include "common/tensor.h"
#include "cuda/device.cuh"

#ifdef PF_EMULATOR
#include "emulator/host.h"
#else
#include "cuda/launcher.h"
#endif

namespace pyranet_fast::gpu {

// Calls body(T{}) for the floating-point type of a tensor.
template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  dispatch_types<__nv_bfloat16, __half>(what, type, body);
}

// A tensor to read from. Kernels take one pointer type for both directions, so const is dropped here and nowhere else.
template <typename T>
T* read_pointer(const Tensor& x) {
  return const_cast<T*>(static_cast<const T*>(input_address(x)));
}
template <typename T>
T* read_pointer(const std::optional<Tensor>& x) {
  return x.has_value() ? read_pointer<T>(*x) : nullptr;
}
template <typename T>
T* write_pointer(Tensor& x) {
  return static_cast<T*>(output_address(x));
}

// A tensor of up to four dimensions: those it lacks are of size 1, the last ones.
template <typename T>
Map<T> map_of(T* data, const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  const auto size = [&](size_t d) { return static_cast<int32_t>(d < sizes.size() ? sizes[d] : 1); };
  const auto stride = [&](size_t d) { return d < strides.size() ? strides[d] : 0; };
  return {data, stride(0), stride(1), stride(2), stride(3), size(2), size(3)};
}
template <typename T>
Map<T> read_map(const Tensor& x) {
  return map_of(read_pointer<T>(x), x);
}
template <typename T>
Map<T> write_map(Tensor& x) {
  return map_of(write_pointer<T>(x), x);
}

// A rectangle of a map, h and w at (y, x): a level on a canvas.
template <typename T>
Map<T> place_of(const Map<T>& whole, const int64_t* place) {
  Map<T> map = whole;
  map.data += place[0] * whole.y + place[1] * whole.x;
  map.h = static_cast<int32_t>(place[2]);
  map.w = static_cast<int32_t>(place[3]);
  return map;
}

inline void check_levels(const char* what, size_t levels) {
  STD_TORCH_CHECK(levels <= kMaxLevels, what, ": on CUDA there must be at most 32 levels, got ", levels);
}

// A small per-channel vector or table in another precision, dense.
inline Tensor as_dense(const Tensor& x, ScalarType type) {
  return torch::stable::contiguous(x.scalar_type() == type ? x : torch::stable::to(x, type));
}
inline std::optional<Tensor> as_dense(const std::optional<Tensor>& x, ScalarType type) {
  return x.has_value() ? std::optional<Tensor>(as_dense(*x, type)) : std::nullopt;
}

}  // namespace pyranet_fast::gpu
