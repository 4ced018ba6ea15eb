// Plans and starts the kernels of heatmap_loss.cuh. The caller fills maps, joints, weight and two_sigma_squared, batch
// and channels, and what the direction needs: partial (loss_parts of them), ticket and loss, or grad.
#pragma once

#include <utility>

#include "cuda/heatmap_loss.cuh"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

constexpr int64_t kLossPixels = 4;              // packs of a strip, for every worker
constexpr int64_t kLossTableBytes = 24 * 1024;  // so that several blocks fit beside each other

struct LossPlan {
  int vec;
  bool wide;
  Grid grid;
};

// The widest pack of columns: that of channels, with the two axes exchanged.
template <typename T>
int widest_columns(Map<T> map, int limit) {
  std::swap(map.c, map.x);
  return widest(map, map.w, limit);
}

// Threads side by side on packs of channels, an even share of them. At most 16, so that with whole warps a block never
// has more than 512 threads.
template <typename T>
int32_t loss_channel_threads(const LossArguments<T>& p, int vec) {
  const int64_t packs = p.along_channels ? p.channels / vec : 1;
  return static_cast<int32_t>(ceil_div(packs, ceil_div(packs, 16)));
}

// Threads, strips and tables for packs of `vec`. Block sums need whole warps.
template <typename T>
LossPlan lay_out_loss(LossArguments<T>& p, int vec, int32_t threads_x) {
  using W = wide_t<T>;
  LossPlan plan{};
  plan.vec = vec;
  const int64_t packs = int64_t{p.pred.h} * (p.along_channels ? p.pred.w : p.pred.w / vec);
  int32_t whole = kWarp;  // workers that make a multiple of a warp
  while (whole > 1 && threads_x * (whole / 2) % kWarp == 0) whole /= 2;
  const int64_t wanted = least<int64_t>(threads_of_a_block() / threads_x, packs);
  plan.grid.threads_x = threads_x;
  plan.grid.threads_y = static_cast<int32_t>(most<int64_t>(whole, wanted / whole * whole));
  p.lanes = p.along_channels ? threads_x * vec : 1;
  p.groups = ceil_div(p.channels, p.lanes);
  p.strips = strips_of(p.pred.h, packs, plan.grid.threads_y, kLossPixels);
  p.tasks = p.batch * p.groups * p.strips;
  const int64_t bytes = (p.pred.w + ceil_div(p.pred.h, p.strips)) * p.lanes * static_cast<int64_t>(sizeof(W));
  p.tables = bytes <= kLossTableBytes;
  plan.grid.shared = kLossTables + (p.tables ? bytes : 0);
  // More strips than these hold are strided over, so that there are few partial sums to add.
  plan.grid.blocks = least<int64_t>(p.tasks, 8 * threads_of_a_block());
  return plan;
}

template <typename T>
LossPlan loss_plan(LossArguments<T>& p) {
  const Map<T>& pred = p.pred;
  const Map<T>& grad = p.grad_pred;
  constexpr int kWhole = whole_access<T>();
  p.along_channels = p.channels > 1 && pred.c == 1 && (pred.x != 1 || pred.w == 1);
  int vec = p.along_channels ? widest(grad, p.channels, widest(pred, p.channels, kWhole))
                             : widest_columns(grad, widest_columns(pred, kWhole));
  if (vec < kWhole) vec = vec >= 2 ? 2 : 1;  // few instantiations
  // A block has one row at least of every task, so this bounds their number.
  const bool wide = needs_wide_index(pred) || needs_wide_index(grad) || needs_wide_index(p.batch * p.channels * pred.h);
  if (wide) vec = 1;
  int32_t threads_x = loss_channel_threads(p, vec);
  LossPlan plan = lay_out_loss(p, vec, threads_x);
  while (!p.tables && threads_x > 1) plan = lay_out_loss(p, vec, threads_x /= 2);
  if (!p.tables) plan = lay_out_loss(p, 1, loss_channel_threads(p, 1));
  plan.wide = wide;
  return plan;
}

// How many partial sums the forward needs room for.
template <typename T>
int64_t loss_parts(LossArguments<T> p) {
  return loss_plan(p).grid.blocks;
}

template <typename T, typename Launch>
void launch_heatmap_loss(LossArguments<T> p, bool backward, const Launch& launch) {
  const LossPlan plan = loss_plan(p);
  const auto start = [&](auto forward_kernel, auto backward_kernel) {
    if (backward) {
      launch("loss_backward", backward_kernel, plan.grid, p);
    } else {
      launch("loss_forward", forward_kernel, plan.grid, p);
    }
  };
  constexpr int kWhole = whole_access<T>();
  if (plan.wide) return start(loss_forward<T, 1, int64_t>, loss_backward<T, 1, int64_t>);
  if (plan.vec == 1) return start(loss_forward<T, 1, int32_t>, loss_backward<T, 1, int32_t>);
  if (plan.vec == kWhole) return start(loss_forward<T, kWhole, int32_t>, loss_backward<T, kWhole, int32_t>);
  if constexpr (kWhole > 2) return start(loss_forward<T, 2, int32_t>, loss_backward<T, 2, int32_t>);
}

}  // namespace pyranet_fast::gpu
