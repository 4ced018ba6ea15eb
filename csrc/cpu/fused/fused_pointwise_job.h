// What the kernels of fused_pointwise are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

// T is float or BFloat16.
template <typename T>
struct PointwiseJob {
  struct Output {
    const float* scale;  // null: the sum as it is
    const float* shift;
    const T* weight;  // packed
    const float* bias;
    const T* residual;
    T* y;
    int64_t channels;
    bool relu;
  };
  const T* x;
  const T* other;
  T* sum;
  int64_t height, width, inputs;  // of the outputs, and channels
  int64_t x_height, x_width;
  bool half, pool;  // x has half the size; or twice, and is max-pooled
  std::vector<Output> outputs;
};

}  // namespace pyranet_fast::cpu
