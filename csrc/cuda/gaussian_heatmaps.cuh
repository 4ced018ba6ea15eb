// Gaussian maps. A Gaussian is the product of a factor of its column and one of its row, so a block fills a table of
// either axis, one exponential an entry, before it goes over the pixels. The tables serve heatmap_loss too.
#pragma once

#include "cuda/device.cuh"

namespace pyranet_fast::gpu {

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// One axis of a Gaussian at pixel i.
template <typename W>
__device__ inline W gaussian_factor(int32_t i, W centre, W two_sigma_squared) {
  const W d = static_cast<W>(i) - centre;
  return exponential(-(d * d) / two_sigma_squared);
}

// Tables of `lanes` Gaussians side by side: the columns [0, width), then the rows [first, last), an entry of every lane
// each. centre(lane, axis) is a joint's x (axis 0) or y. All threads of the block must call.
template <typename W, typename Centre>
__device__ inline void fill_gaussian_tables(W* table, int32_t lanes, int32_t width, int32_t first, int32_t last,
                                            W two_sigma_squared, const Centre& centre) {
  const int32_t threads = blockDim.x * blockDim.y, entries = (width + last - first) * lanes;
  __syncthreads();  // the tables before these may still be read
  for (int32_t i = threadIdx.y * blockDim.x + threadIdx.x; i < entries; i += threads) {
    const int32_t place = i / lanes, lane = i - place * lanes;
    table[i] = place < width ? gaussian_factor(place, centre(lane, 0), two_sigma_squared)
                             : gaussian_factor(first + place - width, centre(lane, 1), two_sigma_squared);
  }
  __syncthreads();
}

template <typename T>
struct GaussianArguments {
  const T* joints;
  int64_t joints_n, joints_c, joints_axis;  // its strides
  const void* weight;                       // float, or double
  bool weight_is_double;
  int64_t weight_n, weight_c;
  T* out;  // dense
  T two_sigma_squared;
  int32_t h, w;
  int64_t channels, strips, tasks;
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
    const int64_t at_weight = sample * p.weight_n + channel * p.weight_c;
    const bool shown = p.weight_is_double ? static_cast<const double*>(p.weight)[at_weight] > 0
                                          : static_cast<const float*>(p.weight)[at_weight] > 0;
    const T* joint = p.joints + sample * p.joints_n + channel * p.joints_c;
    const auto centre = [&](int32_t, int axis) { return joint[axis * p.joints_axis]; };
    const auto first = static_cast<int32_t>(p.h * strip / p.strips);
    const auto last = static_cast<int32_t>(p.h * (strip + 1) / p.strips);
    if (shown && p.tables) {  // the same for all threads
      fill_gaussian_tables<T>(table, 1, p.w, first, last, p.two_sigma_squared, centre);
    }
    for (Walk at(threadIdx.y, blockDim.y, p.w / V); first + at.row < last; at.next()) {
      const int32_t row = first + at.row, column = at.column * V;
      Pack<T, V> result{};
      if (shown) {
        const T along = p.tables ? table[p.w + at.row] : gaussian_factor(row, centre(0, 1), p.two_sigma_squared);
        if (p.tables) result = load_pack<V>(table + column);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          if (!p.tables) result.v[k] = gaussian_factor(column + k, centre(0, 0), p.two_sigma_squared);
          result.v[k] *= along;
        }
      }
      store_pack(p.out + (map * p.h + row) * p.w + column, result);
    }
  }
}

}  // namespace pyranet_fast::gpu
