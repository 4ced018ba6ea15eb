// What the kernels of winograd are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

// Outputs of a tile in each dimension, inputs, and products for a pair of channels. bfloat16 has the smaller tile:
// F(4x4, 3x3) would lose more digits than it has.
template <typename T>
constexpr int kTile = std::is_same_v<T, BFloat16> ? 2 : 4;
template <typename T>
constexpr int kTileIn = kTile<T> + 2;
template <typename T>
constexpr int kPoints = kTileIn<T> * kTileIn<T>;

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

// G: a filter's three taps to six, and to four.
constexpr double kFilter[6][3] = {{1. / 4, 0, 0},
                                  {-1. / 6, -1. / 6, -1. / 6},
                                  {-1. / 6, 1. / 6, -1. / 6},
                                  {1. / 24, 1. / 12, 1. / 6},
                                  {1. / 24, -1. / 12, 1. / 6},
                                  {0, 0, 1}};
constexpr double kSmallFilter[4][3] = {{1, 0, 0}, {1. / 2, 1. / 2, 1. / 2}, {1. / 2, -1. / 2, 1. / 2}, {0, 0, 1}};

}  // namespace pyranet_fast::cpu
