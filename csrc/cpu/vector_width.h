// Bytes of a vector in each of the namespaces that multiversion.h compiles kernel files into. (The compilers' own
// macros, such as __AVX512F__, do not follow the target of a function.)
#pragma once

namespace pyranet_fast::cpu {
namespace baseline {
constexpr int kVectorBytes = 16;
}
namespace avx2 {
constexpr int kVectorBytes = 32;
}
namespace avx512 {
constexpr int kVectorBytes = 64;
}
}  // namespace pyranet_fast::cpu
