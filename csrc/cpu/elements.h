// What kernel files start from, without torch: element types as kernels load and store them, an exponential, and the
// headers of the standard library that they use (kernel files include nothing themselves; see multiversion.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "common/numbers.h"

// A function that works on a row or more: called, not copied into every kernel that uses it, which halves the time that
// compilers take.
#define PF_NOINLINE __attribute__((noinline))

namespace pyranet_fast::cpu {

// The narrow types by their bits, as torch stores them.
struct BFloat16 {
  uint16_t x;
};
struct Half {
  uint16_t x;
};

PF_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
PF_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// IEEE half to float. A normal number's exponent is shifted by a product, so that infinity and NaN come out right; a
// subnormal one is the difference of two floats.
PF_INLINE float half_to_float(uint16_t half) {
  const uint32_t shifted = static_cast<uint32_t>(half) << 17;  // without the sign
  const float normal = float_of((shifted >> 4) + (0xe0u << 23)) * 0x1p-112f;
  const float subnormal = float_of((shifted >> 17) | (126u << 23)) - 0.5f;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  return float_of(sign | bits_of(shifted < (1u << 27) ? subnormal : normal));
}

// To nearest, ties to even: the sum with a power of two, chosen by the exponent, rounds. Too large becomes infinity.
PF_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value), shifted = bits << 1;
  const float magnitude = float_of(bits & 0x7fffffffu) * 0x1p+112f * 0x1p-110f;
  const uint32_t exponent = shifted & 0xff000000u;
  const uint32_t least = exponent < 0x71000000u ? 0x71000000u : exponent;
  const uint32_t rounded = bits_of(float_of((least >> 1) + 0x07800000u) + magnitude);
  const uint32_t number = ((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu);
  return static_cast<uint16_t>((bits >> 31 << 15) | (shifted > 0xff000000u ? 0x7e00u : number));
}

// Elements widen to float (double stays double) and are stored with one rounding. Written so that compilers vectorize
// loops over them.
PF_INLINE float load(float x) { return x; }
PF_INLINE double load(double x) { return x; }
PF_INLINE float load(BFloat16 x) { return bfloat16_to_float(x.x); }
PF_INLINE float load(Half x) { return half_to_float(x.x); }

template <typename T>
PF_INLINE T store(wide_t<T> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {float_to_bfloat16(value, 0x7fc0)};
  } else if constexpr (std::is_same_v<T, Half>) {
    return {float_to_half(value)};
  } else {
    return static_cast<T>(value);
  }
}

// What the moments of a channel start from: a value of it, or 0 where that is none, since infinity minus infinity would
// hide which infinity a mean is.
template <typename W>
inline W finite_pivot(W value) {
  return value - value == 0 ? value : W(0);
}

// A variance that rounding has made negative is 0; NaN stays, which std::max(0.0, NaN) would lose.
inline double not_negative(double variance) { return variance < 0 ? 0 : variance; }

// exp(x) for x <= 0, to about one unit in the last place; 0 below the normal numbers; NaN for NaN. Without branches
// and calls, so that loops over it become vectors.
PF_INLINE float exp_of_negative(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + round;
  const float n = shifted - round;
  const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;  // ln 2 in two parts, |r| <= ln 2 / 2
  float p = 1.0f / 5040;  // Taylor's series: its next term is below 1e-8
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float power = float_of((bits_of(shifted) + 127u) << 23);  // 2^n
  return x < -87.0f ? 0.0f : p * power;
}

// The same in double, with the series up to what double shows.
PF_INLINE double exp_of_negative(double x) {
  constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = x * 1.44269504088896340736 + round;
  const double n = shifted - round;
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023u) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -708.0 ? 0.0 : p * power;
}

}  // namespace pyranet_fast::cpu
