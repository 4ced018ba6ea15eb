// Plans and starts the kernels of fractional_max_pool_pyramid.cuh. The caller fills maps, samples and sizes; what
// depends on the plan is filled here.
#pragma once

#include "cuda/fractional_max_pool_pyramid.cuh"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

constexpr int64_t kPoolPixels = 8;  // of a strip, for every worker

struct PoolPlan {
  int vec;
  bool wide;
  Grid grid;
  int64_t groups, strips;
};

template <typename T>
PoolPlan pool_plan(const PoolArguments<T>& p, const Map<T>& touched) {
  PoolPlan plan{};
  // Windows of their own make neighbouring channels read different pixels: one thread a channel then.
  const bool shared = p.samples_c == 0;
  int vec = shared ? whole_access<T>() : 1;
  vec = least(widest(touched, p.channels, vec), widest(p.positions, p.channels, vec));
  vec = least(vec, widest(p.x, p.channels, vec));
  plan.wide = needs_wide_index(touched) || needs_wide_index(p.positions) || needs_wide_index(p.x);
  bool inside = touched.c == 1 && p.channels > 1;
  for (int32_t l = 0; l < p.count; ++l) {
    vec = widest(p.levels[l].map, p.channels, vec);
    plan.wide = plan.wide || needs_wide_index(p.levels[l].map);
  }
  const int64_t pixels = int64_t{p.h} * p.w;
  const auto lay_out = [&](int v) {
    plan.vec = v;
    plan.grid.threads_x = channel_threads(p.channels / v, inside);
    plan.grid.threads_y = workers(plan.grid.threads_x, pixels);
    plan.groups = ceil_div(p.channels / v, plan.grid.threads_x);
    plan.strips = strips_of(p.h, pixels, plan.grid.threads_y, kPoolPixels);
    return p.batch * plan.groups * plan.strips;
  };
  plan.wide = needs_wide_index(lay_out(vec)) || plan.wide;
  plan.grid.blocks = least(most_blocks(), plan.wide ? lay_out(1) : lay_out(vec));
  return plan;
}

template <typename T>
void follow(const PoolPlan& plan, PoolArguments<T>& p) {
  p.groups = plan.groups;
  p.strips = plan.strips;
  p.tasks = p.batch * plan.groups * plan.strips;
}

#define PF_POOL_LAUNCH(KERNEL)                              \
  if (plan.wide) {                                          \
    launch(#KERNEL, KERNEL<T, 1, int64_t>, plan.grid, p);   \
  } else if (plan.vec == 1) {                               \
    launch(#KERNEL, KERNEL<T, 1, int32_t>, plan.grid, p);   \
  } else if (plan.vec == 2) {                               \
    launch(#KERNEL, KERNEL<T, 2, int32_t>, plan.grid, p);   \
  } else if constexpr (whole_access<T>() >= 4) {            \
    if (plan.vec == 4) {                                    \
      launch(#KERNEL, KERNEL<T, 4, int32_t>, plan.grid, p); \
    } else if constexpr (whole_access<T>() >= 8) {          \
      launch(#KERNEL, KERNEL<T, 8, int32_t>, plan.grid, p); \
    }                                                       \
  }

template <typename T, typename Launch>
void launch_pool_forward(PoolArguments<T> p, const Launch& launch) {
  const PoolPlan plan = pool_plan(p, p.x);
  follow(plan, p);
  PF_POOL_LAUNCH(pool_forward)
}

// Partial sums of the gradients of scale and shift: how many per channel.
template <typename T>
int64_t pool_parts(const PoolArguments<T>& p) {
  return p.batch * pool_plan(p, p.grad_x).strips;
}

template <typename T, typename Launch>
void launch_pool_backward(PoolArguments<T> p, wide_t<T>* grad_scale, wide_t<T>* grad_shift, const Launch& launch) {
  PoolPlan plan = pool_plan(p, p.grad_x);
  follow(plan, p);
  if (p.partial_scale != nullptr) {
    plan.grid.shared =
        2 * static_cast<int64_t>(sizeof(wide_t<T>)) * plan.grid.threads_x * plan.grid.threads_y * plan.vec;
  }
  PF_POOL_LAUNCH(pool_backward)
  if (p.partial_scale != nullptr) {
    const PoolTotals<wide_t<T>> totals{p.partial_scale, p.partial_shift,    grad_scale,
                                       grad_shift,      p.batch * p.strips, p.channels};
    launch("pool_totals", pool_totals<wide_t<T>>, Grid{least<int64_t>(1024, ceil_div(p.channels, 128)), 128, 1, 0},
           totals);
  }
}

#undef PF_POOL_LAUNCH

}  // namespace pyranet_fast::gpu
