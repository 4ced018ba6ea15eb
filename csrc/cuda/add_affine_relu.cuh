// A sum and the folded batch norms with ReLU that read it, in one launch: every map is read once and written once.
#pragma once

#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

constexpr int kAffineOutputs = 3;  // of one launch: what a unit's branches need, and what registers hold

// A block works on a strip of one sample's pixels for `blockDim.x` packs of channels, whose vectors stay in registers;
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
    const int64_t sample = task.sample, channel = (task.group * blockDim.x + threadIdx.x) * V;
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
    StripWalk<Index> at(p.height, p.width, task.strip, p.strips, threadIdx.y, blockDim.y);
    for (; at.inside(); at.next()) {
      const int32_t row = at.row, column = at.column;
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
  const int64_t pixels = int64_t{p.height} * p.width;
  const auto lay_out = [&](int v) {
    plan.vec = v;
    plan.grid.threads_x = channel_threads(p.channels / v, p.channels > 1);
    p.groups = ceil_div(p.channels / v, plan.grid.threads_x);
    const int64_t strip = pixels_of_a_strip(p.batch * p.groups, pixels, plan.grid.threads_x, kAffinePixels);
    p.strips = ceil_div(pixels, strip);
    plan.grid.threads_y = workers(plan.grid.threads_x, ceil_div(pixels, p.strips));
    return p.tasks = p.batch * p.groups * p.strips;
  };
  plan.wide = needs_wide_index(lay_out(plan.vec)) || plan.wide;
  if (plan.wide) lay_out(1);
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
