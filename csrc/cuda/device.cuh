// What every CUDA kernel here builds on: element types, whole-word accesses, how a grid is described and launched.
// Plain CUDA C++ without torch. The same files are compiled by g++ against csrc/emulator, which runs them in tests.
#pragma once

#ifdef PF_EMULATOR
#include "emulator/cuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cstdint>

#include "common/numbers.h"

namespace pyranet_fast::gpu {

__device__ inline float load(float x) { return x; }
__device__ inline double load(double x) { return x; }
__device__ inline float load(__half x) { return __half2float(x); }
__device__ inline float load(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T store(wide_t<T> x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// N neighboring elements, moved by one instruction where N * sizeof(T) is 1, 2, 4, 8 or 16 bytes.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

template <int N, typename T>
__device__ inline Pack<T, N> load_pack(const T* from) {
#ifdef PF_EMULATOR
  ::emulator::check_aligned(from, N * sizeof(T));
#endif
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
#ifdef PF_EMULATOR
  ::emulator::check_aligned(to, N * sizeof(T));
#endif
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Dynamic shared memory, 16-byte aligned: the only kind used here, since the emulator can poison and bound it.
#ifdef PF_EMULATOR
#define PF_SHARED_MEMORY(name) unsigned char* name = ::emulator::shared_memory()
#else
#define PF_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// A launch: blocks in one dimension, threads (x: channels or columns; y: workers), bytes of shared memory.
struct Grid {
  int64_t blocks;
  int32_t threads_x, threads_y;
  int64_t shared;
};

constexpr int kMaxLevels = 32;
constexpr int kWarp = 32;
constexpr int64_t kSharedLimit = 48 * 1024;  // what every GPU grants without asking

PF_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename A>
PF_HOST_DEVICE inline A least(A a, A b) {
  return a < b ? a : b;
}
template <typename A>
PF_HOST_DEVICE inline A most(A a, A b) {
  return a > b ? a : b;
}

// A dense or strided (N, C, H, W) map: strides in elements. Either columns (contiguous) or channels
// (channels_last) have stride 1 where a kernel says so.
template <typename T>
struct Map {
  T* data;
  int64_t n, c, y, x;  // strides
  int32_t h, w;

  PF_HOST_DEVICE T* at(int64_t sample, int64_t channel) const { return data + sample * n + channel * c; }
};

// Elements (row, column) of a rectangle of `width` columns, dealt to `workers` threads in reading order, without a
// division for every element.
struct Walk {
  int32_t row, column, rows_ahead, columns_ahead, width;

  PF_HOST_DEVICE Walk(int32_t first, int32_t workers, int32_t width)
      : row(first / width),
        column(first % width),
        rows_ahead(workers / width),
        columns_ahead(workers % width),
        width(width) {}
  PF_HOST_DEVICE void next() {
    row += rows_ahead;
    column += columns_ahead;
    if (column >= width) {
      column -= width;
      ++row;
    }
  }
};

// A strip of a map's pixels in reading order, an even share, dealt to the workers of a block.
template <typename Index>
struct StripWalk : Walk {
  Index left;  // pixels from this worker's on
  int32_t workers;

  PF_HOST_DEVICE StripWalk(int32_t height, int32_t width, int64_t strip, int64_t strips, int32_t worker,
                           int32_t workers)
      : StripWalk(static_cast<Index>(height) * static_cast<Index>(width), static_cast<Index>(width),
                  static_cast<Index>(strip), static_cast<Index>(strips), worker, workers) {}
  PF_HOST_DEVICE bool inside() const { return left > 0; }
  PF_HOST_DEVICE void next() {
    Walk::next();
    left -= workers;
  }

 private:
  PF_HOST_DEVICE StripWalk(Index pixels, Index width, Index strip, Index strips, int32_t worker, int32_t workers)
      : Walk(worker, workers, static_cast<int32_t>(width)), left(pixels / strips - worker), workers(workers) {
    const Index longer = pixels - pixels / strips * strips;  // so many strips have one more
    const Index first = strip * (pixels / strips) + least(strip, longer) + worker;
    if (strip < longer) ++left;
    row = static_cast<int32_t>(first / width);
    column = static_cast<int32_t>(first - first / width * width);
  }
};

// Block `number` of a grid: a strip of one sample, for one group of channels. Divisions of 64 bits are slow, so
// they are done in Index, which holds every number of a launch.
template <typename Index>
struct Task {
  int64_t sample, group, strip;

  __device__ Task(int64_t number, int64_t strips, int64_t groups) {
    const Index all = static_cast<Index>(number), rest = all / static_cast<Index>(strips);
    strip = all - rest * static_cast<Index>(strips);
    sample = rest / static_cast<Index>(groups);
    group = rest - static_cast<Index>(sample) * static_cast<Index>(groups);
  }
};

// Sum over the threads of a block, the same bits every time; every thread gets it. `scratch` holds one value a warp.
// Threads must be a multiple of a warp and all must call.
template <typename W>
__device__ inline W block_sum(W value, W* scratch) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();  // scratch may still be read from a sum before
  if (thread % kWarp == 0) scratch[thread / kWarp] = value;
  __syncthreads();
  W sum = 0;
  for (int i = 0; i < threads / kWarp; ++i) sum += scratch[i];
  return sum;
}

}  // namespace pyranet_fast::gpu
