// One axis of a Gaussian target: once, for every backend. A Gaussian is the product of a factor of its column and one
// of its row, so h + w exponentials make a map; every backend has its own exponential.
#pragma once

#include <cstdint>

#include "common/numbers.h"

namespace pyranet_fast {

template <typename W>
inline W two_sigma_squared(double sigma) {
  return static_cast<W>(2 * sigma * sigma);
}

// The factor's exponent at pixel i.
template <typename W>
PF_HOST_DEVICE inline W gaussian_exponent(int32_t i, W center, W two_sigma_squared) {
  const W d = static_cast<W>(i) - center;
  return -(d * d) / two_sigma_squared;
}

}  // namespace pyranet_fast
