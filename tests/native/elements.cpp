// Conversions of the narrow types: vectors beside single elements, and those beside arithmetic.
#include "parity.h"

#define PF_KERNEL_FILE "cpu/vector.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

double half_by_arithmetic(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

// Every narrow number, widened by vectors and, with a length that leaves a rest, one by one.
template <typename T>
void check_widening(const char* what, double (*by_arithmetic)(uint16_t)) {
  constexpr int64_t n = 65536;
  std::vector<T> from(n + 3);
  std::vector<double> wanted(n + 3);
  for (int64_t i = 0; i < n + 3; ++i) {
    from[i].x = static_cast<uint16_t>(i);
    wanted[i] = by_arithmetic(static_cast<uint16_t>(i));
  }
  std::vector<float> to(n + 3), single(n + 3);
  PF_CHOOSE(widen<T>)(from.data(), n + 3, to.data());
  for (int64_t i = 0; i < n + 3; ++i) single[i] = load(from[i]);
  expect(std::string(what) + " widened by vectors", to.data(), wanted, 0);
  expect(std::string(what) + " widened one by one", single.data(), wanted, 0);
  // Back again, and what lies between neighbors: the middle goes to the even one.
  std::vector<T> back(n + 3);
  PF_CHOOSE(narrow<T>)(to.data(), n + 3, back.data());
  expect(std::string(what) + " there and back", back.data(), wanted, 0);
  std::vector<float> between;
  std::vector<double> rounded;
  for (int sign = 0; sign < 2; ++sign) {
    for (uint32_t i = 0; i < 0x7bff; ++i) {
      const uint16_t low = static_cast<uint16_t>(sign << 15 | i), high = static_cast<uint16_t>(low + 1);
      const double a = by_arithmetic(low), b = by_arithmetic(high), middle = (a + b) / 2;
      if (!(std::abs(a) < 3e38 && std::abs(b) < 3e38 && std::abs(middle) > 2e-38)) continue;
      between.push_back(static_cast<float>(middle)), rounded.push_back(low % 2 == 0 ? a : b);
      between.push_back(std::nextafter(static_cast<float>(middle), static_cast<float>(a))), rounded.push_back(a);
      between.push_back(std::nextafter(static_cast<float>(middle), static_cast<float>(b))), rounded.push_back(b);
    }
  }
  std::vector<T> narrowed(between.size());
  PF_CHOOSE(narrow<T>)(between.data(), static_cast<int64_t>(between.size()), narrowed.data());
  expect(std::string(what) + " rounded by vectors", narrowed.data(), rounded, 0);
  for (size_t i = 0; i < between.size(); ++i) narrowed[i] = store<T>(between[i]);
  expect(std::string(what) + " rounded one by one", narrowed.data(), rounded, 0);
}

}  // namespace

void elements() {
  check_widening<BFloat16>("bfloat16", [](uint16_t bits) { return static_cast<double>(bfloat16_to_float(bits)); });
  check_widening<Half>("float16", half_by_arithmetic);
  const std::vector<float> large{65519.f, 65520.f, -1e30f, INFINITY, -INFINITY, NAN, 1e-9f, -0.f};
  const std::vector<double> wanted{65504., INFINITY, -INFINITY, INFINITY, -INFINITY, NAN, 0., -0.};
  std::vector<float> padded(16, 0.f);
  std::copy(large.begin(), large.end(), padded.begin());
  std::vector<Half> got(16);
  PF_CHOOSE(narrow<Half>)(padded.data(), 16, got.data());
  expect("float16 out of range by vectors", got.data(), wanted, 0);
  for (size_t i = 0; i < large.size(); ++i) got[i] = store<Half>(large[i]);
  expect("float16 out of range one by one", got.data(), wanted, 0);
}

}  // namespace pyranet_fast::cpu::parity
