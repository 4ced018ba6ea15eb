// The CPU kernels beside naive loops, without torch: a program that any compiler for any processor builds, and whose
// exit status tells. PYRANET_FAST_CPU_ISA chooses the instruction set, as in the library. One file an operator, each
// with a function of parity:: that main calls.
#pragma once

#include <cstdio>
#include <string>

#include "cpu/elements.h"

namespace pyranet_fast::cpu::parity {

inline int64_t checks = 0, failures = 0;

// What one rounding to the element's type and sums in another order may differ by, of the largest value or 1.
template <typename T>
constexpr double kTolerance = std::is_same_v<T, double>     ? 1e-12
                              : std::is_same_v<T, float>    ? 2e-5
                              : std::is_same_v<T, BFloat16> ? 1.0 / 128
                                                            : 1.0 / 1024;
template <typename T>
constexpr const char* kTypeName = std::is_same_v<T, double>     ? "float64"
                                  : std::is_same_v<T, float>    ? "float32"
                                  : std::is_same_v<T, BFloat16> ? "bfloat16"
                                                                : "float16";

// Compares one by one; NaN equals NaN. Says the first difference.
template <typename T>
void expect(const std::string& what, const T* got, const std::vector<double>& wanted,
            double tolerance = kTolerance<T>) {
  ++checks;
  for (size_t i = 0; i < wanted.size(); ++i) {
    double value;
    if constexpr (std::is_integral_v<T>) {
      value = static_cast<double>(got[i]);
    } else {
      value = static_cast<double>(load(got[i]));
    }
    const bool nan = std::isnan(value) && std::isnan(wanted[i]);
    if (nan || value == wanted[i] || std::abs(value - wanted[i]) <= tolerance * std::max(1.0, std::abs(wanted[i]))) {
      continue;
    }
    ++failures;
    std::printf("%s: element %zu of %zu is %.9g; expected %.9g\n", what.c_str(), i, wanted.size(), value, wanted[i]);
    return;
  }
}

// Numbers between -1 and 1, the same on every machine; multiples of 1/64, which every type holds, so that equal ones
// occur.
template <typename T>
std::vector<T> numbers(int64_t n, uint32_t seed) {
  std::vector<T> result(n);
  uint32_t state = seed * 2654435761u + 1;
  for (T& value : result) {
    state = state * 1664525u + 1013904223u;
    value = store<T>(static_cast<wide_t<T>>(static_cast<int>(state >> 25) - 64) / 64);
  }
  return result;
}

template <typename T>
double wide(T value) {
  return static_cast<double>(load(value));
}

// Calls body(T{}) for every element type.
template <typename Body>
void for_each_type(const Body& body) {
  body(float{}), body(double{}), body(BFloat16{}), body(Half{});
}

void elements();
void batch_norm_relu();
void fractional_max_pool_pyramid();
void upsample_sum();
void heatmap_argmax();
void heatmap_loss();
void add_affine_relu();
void fused_pointwise();
void pooled_pyramid();
void winograd();

}  // namespace pyranet_fast::cpu::parity
