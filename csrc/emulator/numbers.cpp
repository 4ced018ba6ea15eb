// float16 and bfloat16 by their bits: to nearest, ties to even.
#include <cstring>

#include "common/numbers.h"
#include "emulator/cuda.h"

namespace emulator {

uint16_t bfloat16_bits(float value) { return pyranet_fast::float_to_bfloat16(value, 0x7fff); }
float bfloat16_value(uint16_t bits) { return pyranet_fast::bfloat16_to_float(bits); }

uint16_t half_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {                                               // subnormal: in units of 2^-24
    float absolute;
    std::memcpy(&absolute, &magnitude, 4);
    const float scaled = absolute * 16777216.0f + 8388608.0f;  // the addition rounds to an integer, ties to even
    uint32_t rounded;
    std::memcpy(&rounded, &scaled, 4);
    return static_cast<uint16_t>(sign | (rounded - 0x4b000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float half_value(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u,
                 mantissa = bits & 1023u;
  uint32_t whole;
  if (exponent == 31) {
    whole = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent == 0) {
    const float tiny = static_cast<float>(mantissa) / 16777216.0f;
    std::memcpy(&whole, &tiny, 4);
    whole |= sign;
  } else {
    whole = sign | (exponent + 112u) << 23 | mantissa << 13;
  }
  float value;
  std::memcpy(&value, &whole, 4);
  return value;
}

}  // namespace emulator
