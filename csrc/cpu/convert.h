// Element types as the CPU kernels see them: loaded as float (double for double), stored with one rounding.
// Written so that compilers vectorise loops over them.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>

namespace pyranet_fast::cpu {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// What sums are formed in: double for double, float for everything else.
template <typename T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <typename T>
using wide_t = typename Wide<T>::type;

inline __attribute__((always_inline)) float load(float x) { return x; }
inline __attribute__((always_inline)) double load(double x) { return x; }
inline __attribute__((always_inline)) float load(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline __attribute__((always_inline)) float load(Half x) { return static_cast<float>(x); }

template <typename T>
inline __attribute__((always_inline)) T store(wide_t<T> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    const uint32_t nan = 0x7fc0u;
    BFloat16 result;
    result.x = static_cast<uint16_t>(value == value ? rounded : nan);
    return result;
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace pyranet_fast::cpu
