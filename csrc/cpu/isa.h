// Which instruction set the CPU kernels use: the best one found, or the one PYRANET_FAST_CPU_ISA names.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define PF_X86_VERSIONS 1
#include <cpuid.h>
#endif

namespace pyranet_fast::cpu {

// In rising order: each has what those before it have.
enum class Isa { baseline, avx2, avx512, avx512bf16 };

#ifdef PF_X86_VERSIONS
// The best that processor and system have. Asked of the processor itself: __builtin_cpu_supports needs a runtime, and
// that of some clang distributions knows no processor.
inline Isa find_isa() {
  const auto has = [](unsigned bits, std::initializer_list<int> all) {
    for (const int bit : all) {
      if ((bits >> bit & 1) == 0) return false;
    }
    return true;
  };
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::baseline;
  if (!has(c, {12, 27, 28, 29})) return Isa::baseline;  // fma, osxsave, avx, f16c
  unsigned saved, upper;                                // registers that the system saves
  __asm__("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
  if (!has(saved, {1, 2})) return Isa::baseline;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || !has(b, {5})) return Isa::baseline;  // avx2
  const bool wide = has(saved, {5, 6, 7}) && has(b, {16, 17, 30, 31});  // avx512f, avx512dq, avx512bw, avx512vl
  if (!wide) return Isa::avx2;
  const bool products = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && has(a, {5});  // avx512_bf16
  return products ? Isa::avx512bf16 : Isa::avx512;
}
#endif

inline Isa detect_isa() {
#ifdef PF_X86_VERSIONS
  const Isa found = find_isa();
  const char* wish = std::getenv("PYRANET_FAST_CPU_ISA");  // for tests and comparisons; never raises above the CPU
  if (wish == nullptr) return found;
  if (std::strcmp(wish, "baseline") == 0) return Isa::baseline;
  if (std::strcmp(wish, "avx2") == 0) return std::min(found, Isa::avx2);
  if (std::strcmp(wish, "avx512") == 0) return std::min(found, Isa::avx512);
  return found;
#else
  return Isa::baseline;
#endif
}

inline Isa isa() {
  static const Isa found = detect_isa();
  return found;
}

}  // namespace pyranet_fast::cpu
