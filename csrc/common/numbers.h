// Number types that the CPU and the CUDA kernels share: what sums are formed in, integers of the same size, bfloat16 by
// its bits. Without torch, and without CUDA's headers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Marks inline functions that run on the CPU and on a GPU.
#ifdef __CUDACC__
#define PF_HOST_DEVICE __host__ __device__
#else
#define PF_HOST_DEVICE
#endif

// For the CPU's loops: inlined into whatever instruction set the caller is compiled for.
#define PF_INLINE inline __attribute__((always_inline))

namespace pyranet_fast {

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

// An integer of the size of a float or double: what vectors of them are chosen by.
template <typename W>
using integer_t = std::conditional_t<sizeof(W) == 4, int32_t, int64_t>;

PF_INLINE float bfloat16_to_float(uint16_t bits) {
  const uint32_t whole = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &whole, sizeof(value));
  return value;
}

// To nearest, ties to even; NaN becomes `nan`, which torch and CUDA choose differently.
PF_INLINE uint16_t float_to_bfloat16(float value, uint16_t nan) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : nan);
}

}  // namespace pyranet_fast
