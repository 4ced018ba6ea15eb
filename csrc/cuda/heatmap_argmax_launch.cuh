// Plans and starts the kernels of heatmap_argmax.cuh. The caller fills maps, results, `quarter`, batch and channels.
#pragma once

#include "cuda/heatmap_argmax.cuh"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

// More work than these hold is strided over. In proportion to the threads, so that tests with few of them get there.
inline int64_t argmax_blocks(int64_t tasks) { return least<int64_t>(tasks, 8 * threads_of_a_block()); }

// Threads that share a dense map: whole warps, each thread with about `packs` of 16 bytes; maps that a block takes on.
inline Grid plane_grid(int64_t maps, int64_t packs_of_a_map, int64_t packs) {
  const int64_t all = most<int64_t>(kWarp, threads_of_a_block() / kWarp * kWarp);
  const int64_t wanted = ceil_div(ceil_div(packs_of_a_map, packs), kWarp) * kWarp;
  Grid grid{};
  grid.threads_x = static_cast<int32_t>(least(all, most<int64_t>(kWarp, wanted)));
  grid.threads_y = static_cast<int32_t>(least(maps, all / grid.threads_x));
  grid.blocks = argmax_blocks(ceil_div(maps, grid.threads_y));
  return grid;
}

template <typename T, typename Launch>
void launch_argmax_planes(ArgmaxArguments<T> p, const Launch& launch) {
  const int64_t maps = p.batch * p.channels, area = int64_t{p.maps.h} * p.maps.w;
  Grid grid = plane_grid(maps, ceil_div(area, whole_access<T>()), kArgmaxAhead);
  p.tasks = ceil_div(maps, grid.threads_y);
  const int64_t warps = grid.threads_x / kWarp;
  grid.shared = warps > 1 ? grid.threads_y * warps * static_cast<int64_t>(sizeof(Best<wide_t<T>, int32_t>)) : 0;
  launch("argmax_planes", argmax_planes<T>, grid, p);
}

template <typename T, int V, typename Index, bool kMirrored, typename Launch>
void launch_argmax_pixels(ArgmaxArguments<T> p, const Launch& launch) {
  const int64_t area = int64_t{p.maps.h} * p.maps.w;
  Grid grid{};
  grid.threads_x = channel_threads(p.channels / V, p.maps.c == 1 && p.channels > 1);
  p.groups = ceil_div(p.channels / V, grid.threads_x);
  p.tasks = p.batch * p.groups;
  // One block has all of a map, so it is a large one.
  const int64_t all = least<int64_t>(512, 2 * threads_of_a_block()) / grid.threads_x;
  grid.threads_y = static_cast<int32_t>(least(all, ceil_div(area, kArgmaxAhead)));
  grid.blocks = argmax_blocks(p.tasks);
  grid.shared = int64_t{grid.threads_x} * grid.threads_y * V * static_cast<int64_t>(sizeof(Best<wide_t<T>, Index>));
  launch("argmax_pixels", argmax_pixels<T, V, Index, kMirrored>, grid, p);
}

template <typename T, typename Launch>
void launch_heatmap_argmax(ArgmaxArguments<T> p, const Launch& launch) {
  const Map<T>& maps = p.maps;
  const int64_t area = int64_t{maps.h} * maps.w;
  p.even = maps.h == 1 || maps.y == maps.w * maps.x;
  // A step past the last pixel, and past the last map, must fit too.
  constexpr int64_t kMany = int64_t{1} << 30;
  const bool wide =
      needs_wide_index(maps) || needs_wide_index(p.mirrored) || area >= kMany || p.batch * p.channels >= kMany;
  if (p.mirrored.data != nullptr) {
    return wide ? launch_argmax_pixels<T, 1, int64_t, true>(p, launch)
                : launch_argmax_pixels<T, 1, int32_t, true>(p, launch);
  }
  if (wide) return launch_argmax_pixels<T, 1, int64_t, false>(p, launch);
  if (p.even && (maps.x == 1 || area == 1)) return launch_argmax_planes(p, launch);
  const int vec = widest(maps, p.channels, whole_access<T>());
  if (vec == whole_access<T>()) return launch_argmax_pixels<T, whole_access<T>(), int32_t, false>(p, launch);
  if constexpr (whole_access<T>() > 2) {
    if (vec >= 2) return launch_argmax_pixels<T, 2, int32_t, false>(p, launch);
  }
  launch_argmax_pixels<T, 1, int32_t, false>(p, launch);
}

template <typename T, typename Launch>
void launch_heatmap_argmax_backward(ArgmaxBackwardArguments<T> p, const Launch& launch) {
  const Grid grid = plane_grid(p.maps, ceil_div(p.area, whole_access<T>()), kArgmaxAhead);
  p.tasks = ceil_div(p.maps, grid.threads_y);
  launch("argmax_backward", argmax_backward<T>, grid, p);
}

}  // namespace pyranet_fast::gpu
