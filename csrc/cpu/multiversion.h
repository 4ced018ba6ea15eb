// Compiles one kernel file several times, for AVX-512, AVX2 and the compiler's baseline, into the namespaces
// avx512, avx2 and baseline, and chooses at run time: a wheel built once is fast here and runs everywhere.
//
//   // upsample_sum.cpp
//   #define PF_KERNEL_FILE "cpu/upsample_sum_kernel.h"   // plain functions and templates, no includes of its own
//   #include "cpu/multiversion.h"
//   ... PF_CHOOSE(upsample_rows<float>)(arguments)
//
// A file that defines PF_BF16_PRODUCTS_TOO before gets a fourth version, avx512bf16, in which PF_BF16_PRODUCTS says
// that there are products of pairs of bfloat16. PF_VECTOR_BYTES (16, 32 or 64) tells the kernel file the width of a
// vector; __AVX2__ and the like do not, since GCC expands macros before it sees the pragmas. The kernel file sits
// inside namespace pyranet_fast::cpu::<isa>; include what it needs before this header.
#include "cpu/isa.h"

#if defined(PF_BF16_PRODUCTS_TOO) && defined(PF_X86_VERSIONS)
#include <immintrin.h>
#endif

namespace pyranet_fast::cpu {

#if !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O3")
#endif
namespace baseline {
#define PF_VECTOR_BYTES 16
#include PF_KERNEL_FILE
#undef PF_VECTOR_BYTES
}  // namespace baseline
#if !defined(__clang__)
#pragma GCC pop_options
#endif

#ifdef PF_X86_VERSIONS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC optimize("O3")
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
#define PF_VECTOR_BYTES 32
#include PF_KERNEL_FILE
#undef PF_VECTOR_BYTES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC optimize("O3")
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
namespace avx512 {
#define PF_VECTOR_BYTES 64
#include PF_KERNEL_FILE
#undef PF_VECTOR_BYTES
}  // namespace avx512
#ifdef PF_BF16_PRODUCTS_TOO
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512bf16")
#endif
namespace avx512bf16 {
#define PF_BF16_PRODUCTS
#define PF_VECTOR_BYTES 64
#include PF_KERNEL_FILE
#undef PF_VECTOR_BYTES
#undef PF_BF16_PRODUCTS
}  // namespace avx512bf16
#endif  // PF_BF16_PRODUCTS_TOO
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // PF_X86_VERSIONS

}  // namespace pyranet_fast::cpu

#ifdef PF_X86_VERSIONS
#define PF_CHOOSE_WIDTH(...)                                                                                 \
  (::pyranet_fast::cpu::isa() >= ::pyranet_fast::cpu::Isa::avx512 ? ::pyranet_fast::cpu::avx512::__VA_ARGS__ \
   : ::pyranet_fast::cpu::isa() == ::pyranet_fast::cpu::Isa::avx2 ? ::pyranet_fast::cpu::avx2::__VA_ARGS__   \
                                                                  : ::pyranet_fast::cpu::baseline::__VA_ARGS__)
#ifdef PF_BF16_PRODUCTS_TOO
#define PF_CHOOSE(...)                                                                                               \
  (::pyranet_fast::cpu::isa() == ::pyranet_fast::cpu::Isa::avx512bf16 ? ::pyranet_fast::cpu::avx512bf16::__VA_ARGS__ \
                                                                      : PF_CHOOSE_WIDTH(__VA_ARGS__))
#else
#define PF_CHOOSE PF_CHOOSE_WIDTH
#endif
#else
#define PF_CHOOSE(...) (::pyranet_fast::cpu::baseline::__VA_ARGS__)
#endif
