// What the kernels of fused_pointwise are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

struct PointwiseJob {
  struct Output {
    const float* scale;  // null: the sum as it is
    const float* shift;
    const float* weight;  // packed
    const float* bias;
    const float* residual;
    float* y;
    int64_t channels;
    bool relu;
  };
  const float* x;
  const float* other;
  float* sum;
  int64_t height, width, inputs;  // of the outputs, and channels
  int64_t x_height, x_width;
  bool half, pool;  // x has half the size; or twice, and is max-pooled
  std::vector<Output> outputs;
};

}  // namespace pyranet_fast::cpu
