// Which instruction set the CPU kernels use: the best one found, or the one PYRANET_FAST_CPU_ISA names.
#pragma once

#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define PF_X86_VERSIONS 1
#endif

namespace pyranet_fast::cpu {

enum class Isa { baseline, avx2, avx512 };

inline Isa detect_isa() {
#ifdef PF_X86_VERSIONS
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const char* wish = std::getenv("PYRANET_FAST_CPU_ISA");  // for tests and comparisons; never raises above the CPU
  if (wish != nullptr && std::strcmp(wish, "baseline") == 0) return Isa::baseline;
  if (wish != nullptr && std::strcmp(wish, "avx2") == 0 && avx2) return Isa::avx2;
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

inline Isa isa() {
  static const Isa found = detect_isa();
  return found;
}

}  // namespace pyranet_fast::cpu
