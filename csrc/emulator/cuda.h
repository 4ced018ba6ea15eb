// CUDA's vocabulary for g++: what device code is written in, run by emulator.cpp. See README.md.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static  // one block runs at a time; not poisoned: prefer dynamic shared memory

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

struct Position {
  uint3 thread, block;
  dim3 threads, blocks;
};
extern Position position;  // of the thread that runs now

extern int threads_of_a_block, filling_blocks;  // what launch plans ask for; 0: what they ask for on a GPU
extern int most_blocks;
extern bool wide_index;  // offsets of 64 bits, as huge maps need them

[[noreturn]] void fail(const char* what);  // ends the launch with an error that names kernel, block and thread
void check_aligned(const void* address, size_t bytes);
unsigned char* shared_memory();
void barrier(const char* file, int line);

// All live threads of the warp that `mask` names meet; everyone sees what the others brought.
const uint64_t* exchange(unsigned mask, uint64_t mine);
unsigned present(unsigned mask);  // the lanes of `mask` that took part in the exchange that was just made
int lane();

template <typename T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T unpack(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T>
T from_lane(unsigned mask, T value, int source) {
  const uint64_t* all = exchange(mask, pack(value));
  if ((present(mask) >> source & 1) == 0) fail("a shuffle reads a lane that takes no part in it");
  return unpack<T>(all[source]);
}

uint16_t half_bits(float value);
float half_value(uint16_t bits);
uint16_t bfloat16_bits(float value);
float bfloat16_value(uint16_t bits);

}  // namespace emulator

#define threadIdx (::emulator::position.thread)
#define blockIdx (::emulator::position.block)
#define blockDim (::emulator::position.threads)
#define gridDim (::emulator::position.blocks)
#define warpSize 32
#define __syncthreads() ::emulator::barrier(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) { ::emulator::exchange(mask, 0); }
template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return ::emulator::from_lane(mask, value, source & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return ::emulator::from_lane(mask, value, ::emulator::lane() ^ bits);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const int source = ::emulator::lane() + static_cast<int>(delta);
  return ::emulator::from_lane(mask, value, source < 32 ? source : ::emulator::lane());
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int source = ::emulator::lane() - static_cast<int>(delta);
  return ::emulator::from_lane(mask, value, source >= 0 ? source : ::emulator::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = ::emulator::exchange(mask, predicate != 0);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (::emulator::present(mask) >> i & 1 && all[i] != 0) ? 1u << i : 0u;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address = before + value;
  return before;
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline float __fmul_rn(float a, float b) { return a * b; }  // compiled with -ffp-contract=off
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __half2float(__half x) { return ::emulator::half_value(x.bits); }
inline __half __float2half_rn(float x) { return {::emulator::half_bits(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return ::emulator::bfloat16_value(x.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {::emulator::bfloat16_bits(x)}; }
