// Which of several equal or NaN scores is the maximum, and how it is refined: one rule for every backend.
#pragma once

#include <cstdint>

#include "common/numbers.h"

namespace pyranet_fast {

// Whether (value, index) comes before (best, best_index): NaN before numbers, then the larger value, then the lower
// flat index. A total order, so that any order of comparisons finds the same maximum.
template <typename W>
PF_HOST_DEVICE inline bool argmax_before(W value, int64_t index, W best, int64_t best_index) {
  const bool nan = value != value, best_nan = best != best;
  if (nan != best_nan) return nan;
  if (!nan && value != best) return value > best;
  return index < best_index;
}

// A quarter of a pixel toward the larger neighbor; equal neighbors, or a NaN, do not move it.
template <typename W>
PF_HOST_DEVICE inline float quarter_step(W ahead, W behind) {
  return ahead > behind ? 0.25f : ahead < behind ? -0.25f : 0.0f;
}

}  // namespace pyranet_fast
