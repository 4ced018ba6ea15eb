// Tells Python which instruction set the kernels run with: the same function that PF_CHOOSE asks, read through
// ctypes by pyranet_fast/env.py (the stable ABI has no string results).
#include "isa.h"

extern "C" __attribute__((visibility("default"))) const char* pyranet_fast_cpu_isa() {
  using pyranet_fast::cpu::Isa;
  switch (pyranet_fast::cpu::isa()) {
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::baseline:
      break;
  }
  return "baseline";
}
