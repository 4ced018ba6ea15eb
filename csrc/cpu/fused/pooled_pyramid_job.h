// What the kernels of pooled_pyramid are handed.
#pragma once

#include "cpu/upsample_sum_job.h"

namespace pyranet_fast::cpu {

// T is float or BFloat16.
template <typename T>
struct PyramidLevel {
  int64_t h, w;
  int64_t place;  // its first pixel among those of all levels
  std::vector<int32_t> row_start, column_start;
  const T* filter;                   // packed
  const float* bias;                 // padded
  const Taps<float>*rows, *columns;  // of the upsampling
};

template <typename T>
struct PyramidJob {
  const T* x;
  int64_t batch, height, width, channels;
  std::vector<PyramidLevel<T>> levels;
  int64_t pixels;           // of all levels
  int64_t filters, padded;  // padded to whole panels
  float* maps;              // (batch, pixels, padded)
  const T* expand;
  const float* bias;
  T* y;
  int64_t outputs;
};

constexpr int64_t kPyramidRows = 8;  // filtered at once

}  // namespace pyranet_fast::cpu
