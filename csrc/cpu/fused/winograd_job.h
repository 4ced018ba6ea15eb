// What the kernels of winograd are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

struct WinogradJob {
  const float* x;
  const float* bias;
  const float* other;
  float* y;
  int64_t height, width, rows, columns;  // of the map, and in tiles
  int64_t inputs, outputs, padded;       // channels; outputs up to whole panels
  bool relu;
};

// G: a filter's three taps to six.
constexpr double kFilter[6][3] = {{1. / 4, 0, 0},
                                  {-1. / 6, -1. / 6, -1. / 6},
                                  {-1. / 6, 1. / 6, -1. / 6},
                                  {1. / 24, 1. / 12, 1. / 6},
                                  {1. / 24, -1. / 12, 1. / 6},
                                  {0, 0, 1}};

}  // namespace pyranet_fast::cpu
