// Plans and starts the kernel of gaussian_heatmaps.cuh. The caller fills all but strips, tasks and `tables`.
#pragma once

#include "cuda/gaussian_heatmaps.cuh"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

constexpr int64_t kGaussianPixels = 4;          // packs of a strip, for every worker
constexpr int64_t kGaussianTables = 24 * 1024;  // bytes, so that several blocks fit beside each other

template <typename T, typename Launch>
void launch_gaussian_heatmaps(GaussianArguments<T> p, int64_t maps, const Launch& launch) {
  const bool packed = p.w % whole_access<T>() == 0 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
  const int64_t pixels = int64_t{p.h} * (packed ? p.w / whole_access<T>() : p.w);
  Grid grid{};
  grid.threads_x = 1;
  grid.threads_y = workers(1, pixels);
  p.strips = strips_of(p.h, pixels, grid.threads_y, kGaussianPixels);
  p.tasks = maps * p.strips;
  const int64_t bytes = (p.w + ceil_div(p.h, p.strips)) * static_cast<int64_t>(sizeof(T));
  p.tables = bytes <= kGaussianTables;
  grid.shared = p.tables ? bytes : 0;
  grid.blocks = least<int64_t>(p.tasks, 8 * threads_of_a_block());  // more strips than these hold are strided over
  launch("gaussian_forward", packed ? gaussian_forward<T, whole_access<T>()> : gaussian_forward<T, 1>, grid, p);
}

}  // namespace pyranet_fast::gpu
