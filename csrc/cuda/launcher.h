// What ties a host function to a GPU: its registration, addresses, the current stream, launches. Tests take
// emulator/host.h in place of this file.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "common/tensor.h"
#include "cuda/device.cuh"

// The operators of a file: CUDA_OPERATORS(m) { m.impl(...); } at its end.
#define CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CUDA, m)

namespace pyranet_fast::gpu {

// Where kernels see a tensor's elements.
inline const void* input_address(const Tensor& x) { return x.const_data_ptr(); }
inline void* output_address(const Tensor& x) { return x.mutable_data_ptr(); }

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
