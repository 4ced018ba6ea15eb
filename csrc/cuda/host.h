// What the host side of every CUDA operator uses: tensors as kernels see them, dtypes, the current stream, launches.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "common/checks.h"
#include "cuda/device.cuh"

namespace pyranet_fast::gpu {

template <typename T>
struct Type {
  using type = T;
};

// Calls body(Type<T>{}) for the floating-point type of a tensor.
template <typename Body>
void dispatch_float(const char* what, ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(Type<float>{});
    case ScalarType::Double:
      return body(Type<double>{});
    case ScalarType::BFloat16:
      return body(Type<__nv_bfloat16>{});
    case ScalarType::Half:
      return body(Type<__half>{});
    default:
      STD_TORCH_CHECK(false, what, " must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType wide_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A tensor to read from. Kernels take one pointer type for both directions, so const is dropped here and nowhere else.
template <typename T>
T* read_pointer(const Tensor& x) {
  return const_cast<T*>(static_cast<const T*>(x.const_data_ptr()));
}
template <typename T>
T* write_pointer(Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

template <typename T>
Map<T> map_of(T* data, const Tensor& x) {
  const auto strides = x.strides();
  return {data,
          strides[0],
          strides[1],
          strides[2],
          strides[3],
          static_cast<int32_t>(x.size(2)),
          static_cast<int32_t>(x.size(3))};
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

inline void check_places(const char* what, const std::vector<int64_t>& places, int64_t height, int64_t width) {
  STD_TORCH_CHECK(!places.empty() && places.size() % 4 == 0, what, ": places must be (y, x, h, w) of every level");
  for (size_t i = 0; i < places.size(); i += 4) {
    const int64_t y = places[i], x = places[i + 1], h = places[i + 2], w = places[i + 3];
    STD_TORCH_CHECK(y >= 0 && x >= 0 && h >= 1 && w >= 1 && y + h <= height && x + w <= width, what,
                    ": a level lies outside its canvas");
  }
}

inline void check_extent(const char* what, int64_t size) {
  STD_TORCH_CHECK(size >= 0 && size < (int64_t{1} << 31), what, ": a height or width is ", size,
                  "; at most 2^31 - 1 is accepted");
}

inline void check_levels(const char* what, size_t levels) {
  STD_TORCH_CHECK(levels <= kMaxLevels, what, ": ", levels, " levels; at most 32 are accepted on CUDA");
}

// A small per-channel vector or table in another precision, dense.
inline Tensor as_dense(const Tensor& x, ScalarType type) {
  return torch::stable::contiguous(x.scalar_type() == type ? x : torch::stable::to(x, type));
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
