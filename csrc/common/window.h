// Where the 2x2 windows of fractional max-pooling lie: once, for every backend.
#pragma once

#include <cstdint>

#include "common/numbers.h"

namespace pyranet_fast {

// Distance between windows. W is the precision that windows are computed in: double for double maps, float for
// all others; a start in another precision or another order of operations may be off by one.
template <typename W>
PF_HOST_DEVICE inline W window_alpha(int64_t in, int64_t out) {
  return out > 1 ? static_cast<W>(in - 2) / static_cast<W>(out - 1) : W(0);
}

// A sample outside [0, 1], NaN included, must not lead outside the map.
template <typename W>
PF_HOST_DEVICE inline W window_sample(W u) {
  return u >= W(0) ? (u <= W(1) ? u : W(1)) : W(0);
}

// Start of window i < out - 1; the last window always starts at in - 2.
template <typename W>
PF_HOST_DEVICE inline int32_t window_start(int32_t i, int32_t in, W u, W alpha) {
  const int32_t start = static_cast<int32_t>((static_cast<W>(i) + u) * alpha) - static_cast<int32_t>(u * alpha);
  const int32_t last = in - 2;
  return start < 0 ? 0 : start > last ? last : start;
}

}  // namespace pyranet_fast
