// What the host side of every CUDA operator uses: tensors as kernels see them, dtypes, the current stream, launches.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/tensor.h"
#include "cuda/device.cuh"

namespace pyranet_fast::gpu {

// Calls body(T{}) for the floating-point type of a tensor.
template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  dispatch_types<__nv_bfloat16, __half>(what, type, body);
}

// A tensor to read from. Kernels take one pointer type for both directions, so const is dropped here and nowhere else.
template <typename T>
T* read_pointer(const Tensor& x) {
  return const_cast<T*>(static_cast<const T*>(x.const_data_ptr()));
}
template <typename T>
T* read_pointer(const std::optional<Tensor>& x) {
  return x.has_value() ? read_pointer<T>(*x) : nullptr;
}
template <typename T>
T* write_pointer(Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
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
  STD_TORCH_CHECK(levels <= kMaxLevels, what, ": ", levels, " levels; at most 32 are accepted on CUDA");
}

// A small per-channel vector or table in another precision, dense.
inline Tensor as_dense(const Tensor& x, ScalarType type) {
  return torch::stable::contiguous(x.scalar_type() == type ? x : torch::stable::to(x, type));
}
inline std::optional<Tensor> as_dense(const std::optional<Tensor>& x, ScalarType type) {
  return x.has_value() ? std::optional<Tensor>(as_dense(*x, type)) : std::nullopt;
}

// Starts kernels on the current stream of a tensor's device, which is the current device while it lives.
class Launcher {
 public:
  explicit Launcher(const Tensor& on) : guard_(on.get_device_index()) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream) == 0,
                    "the current CUDA stream could not be found");
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <typename Arguments>
  void operator()(const char* name, void (*kernel)(Arguments), const Grid& grid, const Arguments& arguments) const {
    kernel<<<static_cast<unsigned>(grid.blocks), dim3(grid.threads_x, grid.threads_y), grid.shared, stream_>>>(
        arguments);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "pyranet_fast kernel ", name,
                    " could not be launched: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace pyranet_fast::gpu
