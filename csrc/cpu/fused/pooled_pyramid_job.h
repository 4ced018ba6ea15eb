// What the kernels of pooled_pyramid are handed.
#pragma once

#include "cpu/upsample_sum_job.h"

namespace pyranet_fast::cpu {

struct PyramidLevel {
  int64_t h, w;
  int64_t place;  // its first pixel among those of all levels
  std::vector<int32_t> row_start, column_start;
  const float *filter, *bias;        // packed; padded
  const Taps<float>*rows, *columns;  // of the upsampling
};

struct PyramidJob {
  const float* x;
  int64_t batch, height, width, channels;
  std::vector<PyramidLevel> levels;
  int64_t pixels;           // of all levels
  int64_t filters, padded;  // padded to whole panels
  float* maps;              // (batch, pixels, padded)
  const float *expand, *bias;
  float* y;
  int64_t outputs;
};

constexpr int64_t kPyramidRows = 8;  // filtered at once

}  // namespace pyranet_fast::cpu
