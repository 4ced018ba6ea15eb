// Sum of bilinear resizings, all levels in one launch, and its gradient for all levels in one launch that gathers.
#pragma once

#include "common/bilinear.h"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

template <typename T>
struct UpsampleLevel {
  Map<T> map;  // values, or their gradient
  wide_t<T> ratio_y, ratio_x;
  int64_t first_strip;  // of the backward: strips of all levels in one row
};

// A block works on a strip of one sample's pixels for `blockDim.x` packs of channels; threadIdx.y counts the workers
// that share the strip's pixels.
template <typename T>
struct UpsampleArguments {
  UpsampleLevel<T> levels[kMaxLevels];
  int32_t count;
  Map<T> base;             // without data where there is none
  Map<T> whole;            // the sum, or its gradient
  const wide_t<T>* scale;  // a folded batch norm after the sum, or null
  const wide_t<T>* shift;
  bool relu, align_corners;
  int64_t batch, channels, groups, strips, tasks;
};

template <typename T, int V, typename Index>
__device__ inline Pack<T, V> pixel(const Map<T>& map, const T* from, Index y, Index x) {
  return load_pack<V>(from + y * static_cast<Index>(map.y) + x * static_cast<Index>(map.x));
}

template <typename T, int V, typename Index>
__global__ void upsample_forward(const __grid_constant__ UpsampleArguments<T> p) {
  using W = wide_t<T>;
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const Task<Index> task(number, p.strips, p.groups);
    const int64_t sample = task.sample, channel = (task.group * blockDim.x + threadIdx.x) * V;
    if (channel >= p.channels) continue;  // there is no barrier here
    StripWalk<Index> at(p.whole.h, p.whole.w, task.strip, p.strips, threadIdx.y, blockDim.y);
    for (; at.inside(); at.next()) {
      const int32_t row = at.row, column = at.column;
      W sum[V] = {};
      for (int32_t l = 0; l < p.count; ++l) {
        const UpsampleLevel<T>& level = p.levels[l];
        const auto y = positive_tap<W, Index>(row, level.map.h, p.whole.h, level.ratio_y, p.align_corners);
        const auto x = positive_tap<W, Index>(column, level.map.w, p.whole.w, level.ratio_x, p.align_corners);
        const T* from = level.map.at(sample, channel);
        const Pack<T, V> a = pixel<T, V, Index>(level.map, from, y.first, x.first);
        const Pack<T, V> b = pixel<T, V, Index>(level.map, from, y.first, x.second);
        const Pack<T, V> c = pixel<T, V, Index>(level.map, from, y.second, x.first);
        const Pack<T, V> d = pixel<T, V, Index>(level.map, from, y.second, x.second);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const W above = x.weight_first * load(a.v[k]) + x.weight_second * load(b.v[k]);
          const W below = x.weight_first * load(c.v[k]) + x.weight_second * load(d.v[k]);
          sum[k] += y.weight_first * above + y.weight_second * below;
        }
      }
      if (p.base.data != nullptr) {
        const Pack<T, V> base = pixel<T, V, Index>(p.base, p.base.at(sample, channel), row, column);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += load(base.v[k]);
      }
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        W v = sum[k];
        if (p.scale != nullptr) v *= p.scale[channel + k];
        if (p.shift != nullptr) v += p.shift[channel + k];
        result.v[k] = store<T>(p.relu && v < W(0) ? W(0) : v);  // NaN stays
      }
      store_pack(
          p.whole.at(sample, channel) + row * static_cast<Index>(p.whole.y) + column * static_cast<Index>(p.whole.x),
          result);
    }
  }
}

// The output pixels of one axis that read source pixel j: [first, last), and with which weights.
template <typename W, typename Index>
struct Receivers {
  Index j, in, out, first;
  W ratio;
  bool align_corners;

  __device__ Receivers(Index j, Index in, Index out, W ratio, bool align_corners)
      : j(j), in(in), out(out), first(0), ratio(ratio), align_corners(align_corners) {
    // About where the first one is, then exactly: taps never go back.
    if (in == out) {
      first = j;
      return;
    }
    if (ratio > W(0)) first = static_cast<Index>((static_cast<W>(j) - W(1)) / ratio) - 1;
    first = most<Index>(0, least<Index>(first, out - 1));
    while (first > 0 && tap(first - 1).second >= j) --first;
    while (first < out && tap(first).second < j) ++first;
  }
  __device__ BilinearTap<W, Index> tap(Index i) const { return positive_tap<W>(i, in, out, ratio, align_corners); }
  // Whether output i reads pixel j, and its weight.
  __device__ bool receives(Index i, W* weight) const {
    if (i >= out) return false;
    const auto t = tap(i);
    if (t.first > j) return false;
    *weight = (t.first == j ? t.weight_first : W(0)) + (t.second == j ? t.weight_second : W(0));
    return true;
  }
};

template <typename T, int V, typename Index>
__global__ void upsample_backward(const __grid_constant__ UpsampleArguments<T> p) {
  using W = wide_t<T>;
  constexpr int kKept = 5;  // weights along a row that stay in registers: enough for twice the size
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const Task<Index> task(number, p.strips, p.groups);
    const int64_t strip = task.strip, sample = task.sample;
    const int64_t channel = (task.group * blockDim.x + threadIdx.x) * V;
    if (channel >= p.channels) continue;  // there is no barrier here
    int32_t l = 0;
    while (l + 1 < p.count && p.levels[l + 1].first_strip <= strip) ++l;
    const UpsampleLevel<T>& level = p.levels[l];
    const Map<T>& map = level.map;
    const int64_t strips = (l + 1 < p.count ? p.levels[l + 1].first_strip : p.strips) - level.first_strip;
    const T* grad = p.whole.at(sample, channel);
    StripWalk<Index> at(map.h, map.w, strip - level.first_strip, strips, threadIdx.y, blockDim.y);
    for (; at.inside(); at.next()) {
      const int32_t row = at.row, column = at.column;
      const Receivers<W, Index> ys(row, map.h, p.whole.h, level.ratio_y, p.align_corners);
      const Receivers<W, Index> xs(column, map.w, p.whole.w, level.ratio_x, p.align_corners);
      W kept[kKept];
      int32_t count = 0;
#pragma unroll
      for (int t = 0; t < kKept; ++t) {
        kept[t] = W(0);
        if (count == t && xs.receives(xs.first + t, &kept[t])) ++count;
      }
      W sum[V] = {}, wy, wx;
      for (Index i = ys.first; ys.receives(i, &wy); ++i) {
        W along[V] = {};
#pragma unroll
        for (int t = 0; t < kKept; ++t) {
          if (t >= count) continue;
          const Pack<T, V> values = pixel<T, V, Index>(p.whole, grad, i, xs.first + t);
#pragma unroll
          for (int k = 0; k < V; ++k) along[k] += kept[t] * load(values.v[k]);
        }
        for (Index t = xs.first + kKept; count == kKept && xs.receives(t, &wx); ++t) {
          const Pack<T, V> values = pixel<T, V, Index>(p.whole, grad, i, t);
#pragma unroll
          for (int k = 0; k < V; ++k) along[k] += wx * load(values.v[k]);
        }
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += wy * along[k];
      }
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) result.v[k] = store<T>(sum[k]);
      store_pack(map.at(sample, channel) + row * static_cast<Index>(map.y) + column * static_cast<Index>(map.x),
                 result);
    }
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels above. The caller fills the maps, `align_corners` and the affine part.

constexpr int64_t kUpsamplePixels = 4;  // of a strip, for every worker

template <typename T>
Plan upsample_plan(UpsampleArguments<T>& p, bool backward) {
  Plan plan{};
  int vec = widest(p.base, p.channels, widest(p.whole, p.channels, whole_access<T>()));
  // Positions are fractions of these, and in float may round up.
  const auto is_far = [](const Map<T>& map) { return most(map.h, map.w) > int32_t{1} << 30; };
  plan.wide = needs_wide_index(p.whole) || needs_wide_index(p.base) || is_far(p.whole);
  int64_t pixels = backward ? 0 : int64_t{p.whole.h} * p.whole.w;
  for (int32_t l = 0; l < p.count; ++l) {
    UpsampleLevel<T>& level = p.levels[l];
    if (backward) pixels += int64_t{level.map.h} * level.map.w;
    vec = widest(level.map, p.channels, vec);
    plan.wide = plan.wide || needs_wide_index(level.map) || is_far(level.map);
    level.ratio_y = bilinear_ratio<wide_t<T>>(level.map.h, p.whole.h, p.align_corners);
    level.ratio_x = bilinear_ratio<wide_t<T>>(level.map.w, p.whole.w, p.align_corners);
  }
  const auto lay_out = [&](int v) {
    plan.vec = v;
    plan.grid.threads_x = channel_threads(p.channels / v, p.whole.c == 1 && p.channels > 1);
    p.groups = ceil_div(p.channels / v, plan.grid.threads_x);
    const int64_t strip = pixels_of_a_strip(p.batch * p.groups, pixels, plan.grid.threads_x, kUpsamplePixels);
    int64_t longest = 0;  // strip, of those that come out even
    const auto strips_of = [&](int64_t pixels) {
      const int64_t strips = ceil_div(pixels, strip);
      longest = most(longest, ceil_div(pixels, strips));
      return strips;
    };
    p.strips = backward ? 0 : strips_of(pixels);
    for (int32_t l = 0; backward && l < p.count; ++l) {
      UpsampleLevel<T>& level = p.levels[l];
      level.first_strip = p.strips;
      p.strips += strips_of(int64_t{level.map.h} * level.map.w);
    }
    plan.grid.threads_y = workers(plan.grid.threads_x, longest);
    return p.tasks = p.batch * p.groups * p.strips;
  };
  plan.wide = needs_wide_index(lay_out(vec)) || plan.wide;
  if (plan.wide) lay_out(1);
  plan.grid.blocks = least(most_blocks(), p.tasks);
  return plan;
}

template <typename T, typename Launch>
void launch_upsample(UpsampleArguments<T> p, bool backward, const Launch& launch) {
  const Plan plan = upsample_plan(p, backward);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto index) {
    constexpr int V = vec;
    using Index = decltype(index);
    if (backward) {
      launch("upsample_backward", upsample_backward<T, V, Index>, plan.grid, p);
    } else {
      launch("upsample_forward", upsample_forward<T, V, Index>, plan.grid, p);
    }
  });
}

}  // namespace pyranet_fast::gpu
