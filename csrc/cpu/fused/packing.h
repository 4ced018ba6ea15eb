// How weights lie for the products of gemm.h, which kernels and tests must agree on.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

// Elements of the depth that one step of products takes.
template <typename T>
constexpr int64_t kProductStep = std::is_same_v<T, BFloat16> ? 2 : 1;

// weight(o, i) for all outputs o and places i of the depth, in panels of columns: (panels, depth / step, columns,
// step), zeros behind the last output.
template <typename T, typename Weight>
void pack_panels(int64_t outputs, int64_t depth, int64_t columns, const Weight& weight, T* to) {
  constexpr int64_t step = kProductStep<T>;
  for (int64_t panel = 0; panel < outputs; panel += columns) {
    for (int64_t i = 0; i < depth; i += step) {
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t s = 0; s < step; ++s) *to++ = panel + j < outputs ? weight(panel + j, i + s) : T{};
      }
    }
  }
}

}  // namespace pyranet_fast::cpu
