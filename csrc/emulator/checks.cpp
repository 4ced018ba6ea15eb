// Kernels with one mistake each, and right ones beside them: what the emulator's own tests launch.
#include <map>

#include "emulator/bindings.h"

namespace emulator {
namespace {

struct Arguments {
  const float* in;
  float* out;
  int32_t n;
};

// Turns n values of a block around, through shared memory.
template <bool kBarrier>
__global__ void turn_around(const __grid_constant__ Arguments p) {
  PF_SHARED_MEMORY(memory);
  float* shared = reinterpret_cast<float*>(memory);
  shared[threadIdx.x] = p.in[threadIdx.x];
  if (kBarrier) __syncthreads();
  p.out[threadIdx.x] = shared[p.n - 1 - threadIdx.x];
}

__global__ void sum_of_block(const __grid_constant__ Arguments p) {
  PF_SHARED_MEMORY(memory);
  float sum = 0;
  for (int i = threadIdx.x; i < p.n; i += blockDim.x) sum += p.in[i];
  sum = block_sum(sum, reinterpret_cast<float*>(memory));
  p.out[threadIdx.x] = sum;
}

__global__ void barrier_for_some(const __grid_constant__ Arguments p) {
  if (threadIdx.x < 16) __syncthreads();
  p.out[threadIdx.x] = p.in[threadIdx.x];
}

__global__ void two_barriers(const __grid_constant__ Arguments p) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = p.in[threadIdx.x];
}

__global__ void shuffle_for_some(const __grid_constant__ Arguments p) {
  float v = p.in[threadIdx.x];
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  p.out[threadIdx.x] = v;
}

__global__ void shuffle_and_barrier(const __grid_constant__ Arguments p) {
  float v = p.in[threadIdx.x];
  if (threadIdx.x < 16) {
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = v;
}

__global__ void vote(const __grid_constant__ Arguments p) {
  const unsigned positive = __ballot_sync(0xffffffffu, p.in[threadIdx.x] > 0);
  const float next = __shfl_down_sync(0xffffffffu, p.in[threadIdx.x], 1);
  p.out[threadIdx.x] = static_cast<float>(positive >> (threadIdx.x % 32) & 1u) * 1000.0f + next;
}

template <int kOffset>
__global__ void read_beyond(const __grid_constant__ Arguments p) {
  p.out[threadIdx.x] = p.in[static_cast<int>(threadIdx.x) + kOffset];
}

template <int kOffset>
__global__ void write_beyond(const __grid_constant__ Arguments p) {
  p.out[static_cast<int>(threadIdx.x) + kOffset] = p.in[threadIdx.x];
}

__global__ void write_to_input(const __grid_constant__ Arguments p) {
  const_cast<float*>(p.in)[threadIdx.x] = 1.0f;
  p.out[threadIdx.x] = 1.0f;
}

__global__ void misaligned(const __grid_constant__ Arguments p) {
  if (threadIdx.x == 0) store_pack(p.out + 1, load_pack<4>(p.in));
}

__global__ void shared_beyond(const __grid_constant__ Arguments p) {
  PF_SHARED_MEMORY(memory);
  reinterpret_cast<float*>(memory)[threadIdx.x + 1] = p.in[threadIdx.x];
  p.out[threadIdx.x] = 0.0f;
}

__global__ void shared_unwritten(const __grid_constant__ Arguments p) {
  PF_SHARED_MEMORY(memory);
  p.out[threadIdx.x] = reinterpret_cast<float*>(memory)[threadIdx.x];
}

__global__ void last_block_wins(const __grid_constant__ Arguments p) {
  p.out[threadIdx.x] = static_cast<float>(blockIdx.x);
}

py::array run_check(const std::string& name, const py::array& values, int blocks, const py::dict& settings) {
  static const std::map<std::string, void (*)(Arguments)> kernels{
      {"turn_around", turn_around<true>},
      {"missing_barrier", turn_around<false>},
      {"sum_of_block", sum_of_block},
      {"barrier_for_some", barrier_for_some},
      {"two_barriers", two_barriers},
      {"shuffle_for_some", shuffle_for_some},
      {"shuffle_and_barrier", shuffle_and_barrier},
      {"vote", vote},
      {"read_after", read_beyond<1>},
      {"read_before", read_beyond<-1>},
      {"write_after", write_beyond<1>},
      {"write_before", write_beyond<-1>},
      {"write_to_input", write_to_input},
      {"misaligned", misaligned},
      {"shared_beyond", shared_beyond},
      {"shared_unwritten", shared_unwritten},
      {"last_block_wins", last_block_wins},
  };
  Run run(settings);
  const auto n = static_cast<int32_t>(values.size());
  const auto* in = input<float>(run, "in", values);
  auto* out = output<float>(run, "out", n);
  run(name.c_str(), kernels.at(name), Grid{blocks, n, 1, n * static_cast<int64_t>(sizeof(float))},
      Arguments{in, out, n});
  return collect(out, {n});
}

BINDINGS(m) {
  m.def("run_check", &run_check, "launches one of the kernels above, one thread a value");
  m.def("half_bits", &half_bits);
  m.def("half_value", &half_value);
  m.def("bfloat16_bits", &bfloat16_bits);
  m.def("bfloat16_value", &bfloat16_value);
}

}  // namespace
}  // namespace emulator
