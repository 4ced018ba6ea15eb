// A sum and the folded batch norms with ReLU that read it, in one launch: every map is read once and written once.
#pragma once

#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

constexpr int kAffineOutputs = 3;  // of one launch: what a unit's branches need, and what registers hold

// A block works on a strip of rows of one sample for `blockDim.x` packs of channels, whose vectors stay in registers;
// threadIdx.y counts the workers that share the strip's pixels.
template <typename T>
struct AddAffineArguments {
  Map<T> x;      // of half the sum's size with `half`: a pixel serves four
  Map<T> other;  // without data where there is none
  Map<T> sum;    // the same where it is not kept; else dense channels_last, as the outputs
  Map<T> outs[kAffineOutputs];
  const wide_t<T>* scale;  // (outputs, channels)
  const wide_t<T>* shift;
  int32_t outputs, height, width;
  bool half;
  int64_t batch, channels, groups, strips, tasks;
};

template <typename T, int V, typename Index>
__device__ inline T* pixel_of(const Map<T>& map, int64_t sample, int64_t channel, int32_t row, int32_t column) {
  return map.at(sample, channel) + static_cast<Index>(row) * static_cast<Index>(map.y) +
         static_cast<Index>(column) * static_cast<Index>(map.x);
}

// kOutputs: room for vectors; p.outputs of them are there, none where the sum alone is wanted.
template <typename T, int V, int kOutputs, typename Index>
__global__ void add_affine_relu_kernel(const __grid_constant__ AddAffineArguments<T> p) {
  using W = wide_t<T>;
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const Task<Index> task(number, p.strips, p.groups);
    const int64_t strip = task.strip, sample = task.sample;
    const int64_t channel = (task.group * blockDim.x + threadIdx.x) * V;
    if (channel >= p.channels) continue;  // there is no barrier here
    W scale[kOutputs][V] = {}, shift[kOutputs][V] = {};
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      if (j >= p.outputs) continue;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        scale[j][k] = p.scale[j * p.channels + channel + k];
        shift[j][k] = p.shift[j * p.channels + channel + k];
      }
    }
    const int32_t first = static_cast<int32_t>(p.height * strip / p.strips);
    const int32_t last = static_cast<int32_t>(p.height * (strip + 1) / p.strips);
    for (Walk at(threadIdx.y, blockDim.y, p.width); first + at.row < last; at.next()) {
      const int32_t row = first + at.row, column = at.column;
      Pack<T, V> value = load_pack<V>(
          pixel_of<T, V, Index>(p.x, sample, channel, p.half ? row / 2 : row, p.half ? column / 2 : column));
      if (p.other.data != nullptr) {
        const Pack<T, V> other = load_pack<V>(pixel_of<T, V, Index>(p.other, sample, channel, row, column));
#pragma unroll
        for (int k = 0; k < V; ++k) value.v[k] = store<T>(load(value.v[k]) + load(other.v[k]));
      }
      if (p.sum.data != nullptr) store_pack(pixel_of<T, V, Index>(p.sum, sample, channel, row, column), value);
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) {
        if (j >= p.outputs) continue;
        Pack<T, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const W y = load(value.v[k]) * scale[j][k] + shift[j][k];
          result.v[k] = store<T>(y < W(0) ? W(0) : y);  // NaN stays
        }
        store_pack(pixel_of<T, V, Index>(p.outs[j], sample, channel, row, column), result);
      }
    }
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernel. The caller fills everything up to `channels`.

constexpr int64_t kAffinePixels = 4;  // of a strip, for every worker

template <typename T>
Plan add_affine_relu_plan(AddAffineArguments<T>& p) {
  Plan plan{};
  plan.vec = whole_access<T>();
  for (const Map<T>* map : {&p.x, &p.other, &p.sum, &p.outs[0], &p.outs[1], &p.outs[2]}) {
    plan.vec = widest(*map, p.channels, plan.vec);
    plan.wide = plan.wide || needs_wide_index(*map);
  }
  plan.wide = plan.wide || needs_wide_index(p.batch * p.channels * p.height);  // at least the number of tasks
  if (plan.wide) plan.vec = 1;
  const int64_t packs = p.channels / plan.vec, pixels = int64_t{p.height} * p.width;
  plan.grid.threads_x = channel_threads(packs, p.channels > 1);
  plan.grid.threads_y = workers(plan.grid.threads_x, pixels);
  p.groups = ceil_div(packs, plan.grid.threads_x);
  p.strips = strips_of(p.height, pixels, plan.grid.threads_y, kAffinePixels);
  p.tasks = p.batch * p.groups * p.strips;
  plan.grid.blocks = least(most_blocks(), p.tasks);
  return plan;
}

template <typename T, typename Launch>
void launch_add_affine_relu(AddAffineArguments<T> p, const Launch& launch) {
  const Plan plan = add_affine_relu_plan(p);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto index) {
    constexpr int V = vec;
    using Index = decltype(index);
    const auto start = [&](auto kernel) { launch("add_affine_relu", kernel, plan.grid, p); };
    if (p.outputs <= 1) return start(add_affine_relu_kernel<T, V, 1, Index>);
    if (p.outputs == 2) return start(add_affine_relu_kernel<T, V, 2, Index>);
    start(add_affine_relu_kernel<T, V, kAffineOutputs, Index>);
  });
}

}  // namespace pyranet_fast::gpu
