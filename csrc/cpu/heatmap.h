// What the host sides of the heat-map operators share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/checks.h"
#include "cpu/convert.h"

namespace pyranet_fast::cpu {

// Pixels of a tile: the fewest whose elements are a multiple of 16, and some work for a loop.
inline int64_t tile_pixels(int64_t channels) {
  int64_t t = 1;
  while (t * channels % 16 != 0 || t * channels < 64) ++t;
  return t;
}

inline ScalarType wide_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a value of the C++ type of a dtype.
template <typename F>
void for_float_type(ScalarType dtype, const char* name, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    default:
      STD_TORCH_CHECK(false, name, ": float32, float64, bfloat16 and float16 are accepted");
  }
}

// The Gaussians of a batch of joints along both axes, in double or float: x is (n, k, w), y is (n, k, h).
template <typename W>
struct Gaussians {
  std::vector<W> x, y, weight;
};

}  // namespace pyranet_fast::cpu
