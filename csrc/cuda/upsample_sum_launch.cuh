// Plans and starts the kernels of upsample_sum.cuh. The caller fills the maps, `align_corners` and the affine part.
#pragma once

#include "cuda/plan.cuh"
#include "cuda/upsample_sum.cuh"

namespace pyranet_fast::gpu {

constexpr int64_t kUpsamplePixels = 4;  // of a strip, for every worker

struct UpsamplePlan {
  int vec;
  bool wide;
  Grid grid;
};

template <typename T>
UpsamplePlan upsample_plan(UpsampleArguments<T>& p, bool backward) {
  UpsamplePlan plan{};
  int vec = widest(p.base, p.channels, widest(p.whole, p.channels, whole_access<T>()));
  plan.wide = needs_wide_index(p.whole) || needs_wide_index(p.base);
  int64_t rows = p.whole.h;
  for (int32_t l = 0; l < p.count; ++l) {
    UpsampleLevel<T>& level = p.levels[l];
    rows += level.map.h;
    vec = widest(level.map, p.channels, vec);
    plan.wide = plan.wide || needs_wide_index(level.map);
    level.ratio_y = bilinear_ratio<wide_t<T>>(level.map.h, p.whole.h, p.align_corners);
    level.ratio_x = bilinear_ratio<wide_t<T>>(level.map.w, p.whole.w, p.align_corners);
  }
  plan.wide = plan.wide || needs_wide_index(p.batch * p.channels * rows);  // at least the number of tasks
  plan.vec = plan.wide ? 1 : vec;
  const int64_t packs = p.channels / plan.vec, pixels = int64_t{p.whole.h} * p.whole.w;
  plan.grid.threads_x = channel_threads(packs, p.whole.c == 1 && p.channels > 1);
  plan.grid.threads_y = workers(plan.grid.threads_x, pixels);
  p.groups = ceil_div(packs, plan.grid.threads_x);
  p.strips = strips_of(p.whole.h, pixels, plan.grid.threads_y, kUpsamplePixels);
  if (backward) {
    p.strips = 0;
    for (int32_t l = 0; l < p.count; ++l) {
      UpsampleLevel<T>& level = p.levels[l];
      level.first_strip = p.strips;
      p.strips += strips_of(level.map.h, int64_t{level.map.h} * level.map.w, plan.grid.threads_y, kUpsamplePixels);
    }
  }
  p.tasks = p.batch * p.groups * p.strips;
  plan.grid.blocks = least(most_blocks(), p.tasks);
  return plan;
}

template <typename T, typename Launch>
void launch_upsample(UpsampleArguments<T> p, bool backward, const Launch& launch) {
  const UpsamplePlan plan = upsample_plan(p, backward);
  const auto start = [&](auto forward_kernel, auto backward_kernel) {
    if (backward) {
      launch("upsample_backward", backward_kernel, plan.grid, p);
    } else {
      launch("upsample_forward", forward_kernel, plan.grid, p);
    }
  };
  if (plan.wide) return start(upsample_forward<T, 1, int64_t>, upsample_backward<T, 1, int64_t>);
  if (plan.vec == 1) return start(upsample_forward<T, 1, int32_t>, upsample_backward<T, 1, int32_t>);
  if (plan.vec == 2) return start(upsample_forward<T, 2, int32_t>, upsample_backward<T, 2, int32_t>);
  if constexpr (whole_access<T>() >= 4) {
    if (plan.vec == 4) return start(upsample_forward<T, 4, int32_t>, upsample_backward<T, 4, int32_t>);
  }
  if constexpr (whole_access<T>() >= 8) {
    return start(upsample_forward<T, 8, int32_t>, upsample_backward<T, 8, int32_t>);
  }
}

}  // namespace pyranet_fast::gpu
