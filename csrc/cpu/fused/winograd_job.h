// What the kernels of winograd are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

// Products for a pair of channels and a tile of kTile x kTile outputs, whose inputs are two more in each dimension.
template <int kTile>
constexpr int kPoints = (kTile + 2) * (kTile + 2);

// T is float or BFloat16.
template <typename T>
struct WinogradJob {
  const T* x;
  const float* bias;
  const T* other;
  T* y;
  int64_t height, width, rows, columns;  // of the map, and in tiles
  int64_t inputs, outputs, padded;       // channels; outputs up to whole panels
  bool relu;
};

// G: a filter's three taps to the points of a dimension.
template <int kTile>
constexpr double kFilter[kTile + 2][3] = {};
template <>
constexpr double kFilter<2>[4][3] = {{1, 0, 0}, {1. / 2, 1. / 2, 1. / 2}, {1. / 2, -1. / 2, 1. / 2}, {0, 0, 1}};
template <>
constexpr double kFilter<4>[6][3] = {{1. / 4, 0, 0},
                                     {-1. / 6, -1. / 6, -1. / 6},
                                     {-1. / 6, 1. / 6, -1. / 6},
                                     {1. / 24, 1. / 12, 1. / 6},
                                     {1. / 24, -1. / 12, 1. / 6},
                                     {0, 0, 1}};

}  // namespace pyranet_fast::cpu
