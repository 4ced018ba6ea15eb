// In place of cuda/launcher.h: the operators' host functions run as they are, with tensors on the CPU standing in for
// ones on a GPU, and their kernels in the emulator. See README.md.
#pragma once

#include <torch/csrc/stable/library.h>

#include <functional>

#include "common/tensor.h"
#include "cuda/device.cuh"

// Under a name of their own, since CPU tensors have operators already.
#define CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(pyranet_fast_emulated, CPU, m)

namespace pyranet_fast::gpu {

// Where kernels see a tensor's elements, strides as they are: in memory between forbidden pages, with NaN in the
// tensor's gaps. It lives as long as the launcher. An input is read-only; what kernels write to an output is in the
// tensor after each launch.
const void* input_address(const Tensor& x);
void* output_address(const Tensor& x);

// Kernels see tensors only while it lives: the one for a GPU holds the device guard.
class Launcher {
 public:
  explicit Launcher(const Tensor& on);
  ~Launcher();
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  template <typename Arguments>
  void operator()(const char* name, void (*kernel)(Arguments), const Grid& grid, const Arguments& arguments) const {
    static_assert(sizeof(Arguments) <= 4096, "every GPU takes 4 KiB of arguments");
    run(name, grid, [&] { kernel(arguments); });
  }

 private:
  static void run(const char* name, const Grid& grid, const std::function<void()>& kernel);
};

}  // namespace pyranet_fast::gpu
