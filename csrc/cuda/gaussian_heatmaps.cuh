// Gaussian maps. A Gaussian is the product of a factor of its column and one of its row, so a block fills a table of
// either axis, one exponential an entry, before it goes over the pixels. The tables serve heatmap_loss too.
#pragma once

#include "common/gaussian.h"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

// One axis of a Gaussian at pixel i.
template <typename W>
__device__ inline W gaussian_factor(int32_t i, W center, W two_sigma_squared) {
  return exponential(gaussian_exponent(i, center, two_sigma_squared));
}

// Tables of `lanes` Gaussians side by side: the columns [0, width), then the rows [first, last), an entry of every lane
// each. center(lane, axis) is a joint's x (axis 0) or y. All threads of the block must call.
template <typename W, typename Center>
__device__ inline void fill_gaussian_tables(W* table, int32_t lanes, int32_t width, int32_t first, int32_t last,
                                            W two_sigma_squared, const Center& center) {
  const int32_t threads = blockDim.x * blockDim.y, entries = (width + last - first) * lanes;
  __syncthreads();  // the tables before these may still be read
  for (int32_t i = threadIdx.y * blockDim.x + threadIdx.x; i < entries; i += threads) {
    const int32_t place = i / lanes, lane = i - place * lanes;
    table[i] = place < width ? gaussian_factor(place, center(lane, 0), two_sigma_squared)
                             : gaussian_factor(first + place - width, center(lane, 1), two_sigma_squared);
  }
  __syncthreads();
}

template <typename T>
struct GaussianArguments {
  Map<T> joints;         // (N, K, 2)
  Map<float> weight;     // (N, K), or without data:
  Map<double> weight64;  // the same as double
  Map<T> out;            // dense
  int64_t batch, channels;
  T two_sigma_squared;
  int64_t strips, tasks;
  bool tables;  // whether they fit into shared memory
};

// A block works on a strip of rows of one map, by packs of V columns.
template <typename T, int V>
__global__ void gaussian_forward(const __grid_constant__ GaussianArguments<T> p) {
  PF_SHARED_MEMORY(memory);
  T* table = reinterpret_cast<T*>(memory);  // [w columns, then the strip's rows]
  for (int64_t task = blockIdx.x; task < p.tasks; task += gridDim.x) {
    const int64_t map = task / p.strips, strip = task - map * p.strips;
    const int64_t sample = map / p.channels, channel = map - sample * p.channels;
    const bool shown =
        p.weight.data != nullptr ? *p.weight.at(sample, channel) > 0 : *p.weight64.at(sample, channel) > 0;
    const T* joint = p.joints.at(sample, channel);
    const auto center = [&](int32_t, int axis) { return joint[axis * p.joints.y]; };
    const int32_t h = p.out.h, w = p.out.w;
    const auto first = static_cast<int32_t>(h * strip / p.strips);
    const auto last = static_cast<int32_t>(h * (strip + 1) / p.strips);
    if (shown && p.tables) {  // the same for all threads
      fill_gaussian_tables<T>(table, 1, w, first, last, p.two_sigma_squared, center);
    }
    for (Walk at(threadIdx.y, blockDim.y, w / V); first + at.row < last; at.next()) {
      const int32_t row = first + at.row, column = at.column * V;
      Pack<T, V> result{};
      if (shown) {
        const T along = p.tables ? table[w + at.row] : gaussian_factor(row, center(0, 1), p.two_sigma_squared);
        if (p.tables) result = load_pack<V>(table + column);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          if (!p.tables) result.v[k] = gaussian_factor(column + k, center(0, 0), p.two_sigma_squared);
          result.v[k] *= along;
        }
      }
      store_pack(p.out.data + (map * h + row) * w + column, result);
    }
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernel above. The caller fills all but strips, tasks and `tables`.

constexpr int64_t kGaussianPixels = 4;          // packs of a strip, for every worker
constexpr int64_t kGaussianTables = 24 * 1024;  // bytes, so that several blocks fit beside each other

template <typename T, typename Launch>
void launch_gaussian_heatmaps(GaussianArguments<T> p, const Launch& launch) {
  const int32_t h = p.out.h, w = p.out.w;
  const bool packed = w % whole_access<T>() == 0 && reinterpret_cast<uintptr_t>(p.out.data) % 16 == 0;
  const int64_t pixels = int64_t{h} * (packed ? w / whole_access<T>() : w);
  Grid grid{};
  grid.threads_x = 1;
  p.strips = strips_of_rows(h, pixels, pixels_of_a_strip(p.batch * p.channels, pixels, 1, kGaussianPixels));
  grid.threads_y = workers(1, ceil_div(pixels, p.strips));
  p.tasks = p.batch * p.channels * p.strips;
  const int64_t bytes = (w + ceil_div(h, p.strips)) * static_cast<int64_t>(sizeof(T));
  p.tables = bytes <= kGaussianTables;
  grid.shared = p.tables ? bytes : 0;
  grid.blocks = least<int64_t>(p.tasks, 8 * threads_of_a_block());  // more strips than these hold are strided over
  launch("gaussian_forward", packed ? gaussian_forward<T, whole_access<T>()> : gaussian_forward<T, 1>, grid, p);
}

}  // namespace pyranet_fast::gpu
