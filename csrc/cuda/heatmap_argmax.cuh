// Position and value of every map's maximum, refined by a quarter pixel, in one pass and one launch; the same for the
// mean with a mirrored stack; and the gradient of the value. The order of maxima is total (common/argmax.h), so
// threads may meet in any order and the result is the same.
#pragma once

#include <limits>

#include "common/argmax.h"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

template <typename T>
struct ArgmaxArguments {
  Map<T> maps;
  Map<T> mirrored;      // without data where there is no mirrored stack
  const int64_t* swap;  // with it: the mirrored stack's joint for every joint
  float* coords;        // [map][x, y]
  T* scores;            // [map], without a mirrored stack
  wide_t<T>* means;     // [map], with one
  int64_t* indices;     // [map], or null
  bool quarter;
  int64_t batch, channels, groups, tasks;
  bool even;  // pixels of a map lie equally far apart, rows included
};

// The maximum of what was seen so far. Without a pixel: -inf beyond every index, which every pixel comes before.
template <typename W, typename Index>
struct Best {
  W value;
  Index index;

  static __device__ constexpr Index none() { return std::numeric_limits<Index>::max(); }

  // `first` is the first pixel that will be seen, or none(): -inf there is what the maximum starts as.
  static __device__ Best before(Index first) { return {-std::numeric_limits<W>::infinity(), first}; }

  // A pixel behind all those seen before, or the last one again: only a greater one, or the first NaN, wins.
  __device__ void see(W v, Index at) {
    if (!(v <= value) && value == value) {
      value = v;
      index = at;
    }
  }
  __device__ void merge(const Best& other) {
    if (argmax_before<W>(other.value, other.index, value, index)) *this = other;
  }
};

// The values of one map: its own, or their mean with a mirrored map.
template <typename T, typename Index, bool kMirrored>
struct ArgmaxValues {
  using W = wide_t<T>;
  const T* map;
  const T* last;  // the mirrored map's last column, which lies on column 0; null where `swap` names no joint
  Index down, right, mirrored_down, mirrored_right, width;
  bool even;

  __device__ ArgmaxValues(const ArgmaxArguments<T>& p, int64_t sample, int64_t channel)
      : map(p.maps.at(sample, channel)),
        last(nullptr),
        down(static_cast<Index>(p.maps.y)),
        right(static_cast<Index>(p.maps.x)),
        mirrored_down(static_cast<Index>(p.mirrored.y)),
        mirrored_right(static_cast<Index>(p.mirrored.x)),
        width(p.maps.w),
        even(p.even) {
    if constexpr (kMirrored) {
      const int64_t joint = p.swap[channel];
      if (joint >= 0 && joint < p.channels) last = p.mirrored.at(sample, joint) + (p.maps.w - 1) * p.mirrored.x;
    }
  }

  // Pixel `at` of V neighboring channels.
  template <int V>
  __device__ Pack<W, V> read(Index at) const {
    Pack<W, V> values;
    if constexpr (kMirrored) {
      const Index row = at / width, column = at - row * width;
      // A joint that does not exist is an error that a kernel cannot raise: it gives NaN, and reads nothing.
      const W mirrored = last == nullptr ? std::numeric_limits<W>::quiet_NaN()
                                         : load(last[row * mirrored_down - column * mirrored_right]);
      values.v[0] = (load(map[row * down + column * right]) + mirrored) * W(0.5);
    } else {
      const Index row = even ? Index(0) : at / width;
      const Pack<T, V> pack = load_pack<V>(map + row * down + (at - row * width) * right);
#pragma unroll
      for (int k = 0; k < V; ++k) values.v[k] = load(pack.v[k]);
    }
    return values;
  }
  __device__ W at(Index pixel) const { return read<1>(pixel).v[0]; }
};

// Writes what one map's maximum is; refinement reads the neighbors through `values`.
template <typename T, typename Index, bool kMirrored>
__device__ inline void write_maximum(const ArgmaxArguments<T>& p, int64_t sample, int64_t channel,
                                     const Best<wide_t<T>, Index>& best) {
  const int32_t w = p.maps.w, row = static_cast<int32_t>(best.index / w), column = static_cast<int32_t>(best.index % w);
  Pack<float, 2> place{{static_cast<float>(column), static_cast<float>(row)}};
  if (p.quarter) {
    const ArgmaxValues<T, Index, kMirrored> values(p, sample, channel);
    if (column > 0 && column < w - 1) {
      place.v[0] += quarter_step(values.at(best.index + 1), values.at(best.index - 1));
    }
    if (row > 0 && row < p.maps.h - 1) {
      place.v[1] += quarter_step(values.at(best.index + w), values.at(best.index - w));
    }
  }
  const int64_t map = sample * p.channels + channel;
  store_pack(p.coords + 2 * map, place);
  if constexpr (kMirrored) {
    p.means[map] = best.value;
  } else {
    p.scores[map] = store<T>(best.value);
  }
  if (p.indices != nullptr) p.indices[map] = best.index;
}

// A run of elements of which the packs [head, head + packs * V) are aligned, whatever its address.
template <typename T, typename Index>
struct AlignedRun {
  static constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  Index head, packs, tail, size;

  __device__ AlignedRun(const T* from, Index size) : size(size) {
    const auto past = static_cast<Index>(reinterpret_cast<uintptr_t>(from) / sizeof(T) % kPack);
    head = least<Index>(size, (kPack - past) % kPack);
    packs = (size - head) / kPack;
    tail = head + packs * kPack;
  }
};

constexpr int kArgmaxAhead = 4;  // loads that a thread has under way

// Dense maps. A block works on blockDim.y of them; the threads of a row share one, a warp or several.
template <typename T>
__global__ void argmax_planes(const __grid_constant__ ArgmaxArguments<T> p) {
  using Candidate = Best<wide_t<T>, int32_t>;
  constexpr int V = AlignedRun<T, int32_t>::kPack;
  PF_SHARED_MEMORY(memory);
  Candidate* shared = reinterpret_cast<Candidate*>(memory);  // [threads_y][warps]
  const int32_t thread = threadIdx.x, step = blockDim.x, warps = step / kWarp;
  const int32_t maps = static_cast<int32_t>(p.batch * p.channels), channels = static_cast<int32_t>(p.channels);
  for (int64_t task = blockIdx.x; task < p.tasks; task += gridDim.x) {
    const int32_t map = static_cast<int32_t>(task * blockDim.y + threadIdx.y);
    const int32_t sample = map / channels, channel = map - sample * channels;
    Candidate best = Candidate::before(Candidate::none());
    if (map < maps) {
      const T* values = p.maps.at(sample, channel);
      const AlignedRun<T, int32_t> run(values, p.maps.h * p.maps.w);
      if (run.tail + thread < run.size) best.index = run.tail + thread;
      if (thread < run.packs) best.index = run.head + thread * V;
      if (thread < run.head) best.index = thread;
      if (thread < run.head) best.see(load(values[thread]), thread);  // fewer than a pack: never more than threads
      for (int32_t i = thread; i < run.packs; i += kArgmaxAhead * step) {
        Pack<T, V> packs[kArgmaxAhead];
#pragma unroll
        for (int a = 0; a < kArgmaxAhead; ++a) {  // past the end the last one again, which changes nothing
          packs[a] = load_pack<V>(values + run.head + least(i + a * step, run.packs - 1) * V);
        }
#pragma unroll
        for (int a = 0; a < kArgmaxAhead; ++a) {
          const int32_t at = run.head + least(i + a * step, run.packs - 1) * V;
#pragma unroll
          for (int k = 0; k < V; ++k) best.see(load(packs[a].v[k]), at + k);
        }
      }
      if (run.tail + thread < run.size) best.see(load(values[run.tail + thread]), run.tail + thread);
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      best.merge({__shfl_xor_sync(0xffffffffu, best.value, lanes), __shfl_xor_sync(0xffffffffu, best.index, lanes)});
    }
    if (warps > 1) {
      if (thread % kWarp == 0) shared[threadIdx.y * warps + thread / kWarp] = best;
      __syncthreads();
      for (int32_t i = 1; thread == 0 && i < warps; ++i) best.merge(shared[threadIdx.y * warps + i]);
      __syncthreads();  // the next maps' candidates take the same place
    }
    if (map < maps && thread == 0) write_maximum<T, int32_t, false>(p, sample, channel, best);
  }
}

// Maps of any strides. A block works on one sample's blockDim.x packs of channels; threadIdx.y counts the workers that
// share the pixels.
template <typename T, int V, typename Index, bool kMirrored>
__global__ void __launch_bounds__(512) argmax_pixels(const __grid_constant__ ArgmaxArguments<T> p) {
  using Candidate = Best<wide_t<T>, Index>;
  PF_SHARED_MEMORY(memory);
  Candidate* shared = reinterpret_cast<Candidate*>(memory);  // [V][threads_y][threads_x]
  const int32_t threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
  const Index area = static_cast<Index>(p.maps.h) * p.maps.w, worker = threadIdx.y, step = blockDim.y;
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const Index sample = static_cast<Index>(number) / static_cast<Index>(p.groups);
    const int64_t first = (number - sample * p.groups) * blockDim.x * V;  // channel
    const int64_t channel = first + threadIdx.x * V;
    Candidate best[V];
#pragma unroll
    for (int k = 0; k < V; ++k) best[k] = Candidate::before(worker < area ? worker : Candidate::none());
    if (channel < p.channels) {
      const ArgmaxValues<T, Index, kMirrored> values(p, sample, channel);
      for (Index i = worker; i < area; i += kArgmaxAhead * step) {
        Pack<wide_t<T>, V> packs[kArgmaxAhead];
#pragma unroll
        for (int a = 0; a < kArgmaxAhead; ++a) {  // past the end the last one again, which changes nothing
          packs[a] = values.template read<V>(least<Index>(i + a * step, area - 1));
        }
#pragma unroll
        for (int a = 0; a < kArgmaxAhead; ++a) {
          const Index at = least<Index>(i + a * step, area - 1);
#pragma unroll
          for (int k = 0; k < V; ++k) best[k].see(packs[a].v[k], at);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < V; ++k) shared[k * threads + thread] = best[k];
    for (int32_t left = blockDim.y; left > 1;) {
      const int32_t half = (left + 1) / 2, other = threadIdx.y + half;
      __syncthreads();
      for (int k = 0; k < V && other < left; ++k) {
        shared[k * threads + thread].merge(shared[k * threads + other * blockDim.x + threadIdx.x]);
      }
      left = half;
    }
    __syncthreads();
    // The first worker's row holds the maxima: a thread writes one channel's.
    for (int32_t i = thread; i < static_cast<int32_t>(blockDim.x) * V; i += threads) {
      if (first + i < p.channels) {
        write_maximum<T, Index, kMirrored>(p, sample, first + i, shared[i % V * threads + i / V]);
      }
    }
    __syncthreads();  // the next task's candidates take the same place
  }
}

template <typename T>
struct ArgmaxBackwardArguments {
  const T* grad_scores;
  int64_t n, c;            // its strides
  const int64_t* indices;  // [map]
  T* grad;                 // dense
  int64_t maps, channels, area, tasks;
};

// Every element once: the score's gradient where the maximum was, 0 elsewhere. A block works on blockDim.y maps.
template <typename T>
__global__ void argmax_backward(const __grid_constant__ ArgmaxBackwardArguments<T> p) {
  constexpr int V = AlignedRun<T, int64_t>::kPack;
  const int64_t thread = threadIdx.x;
  for (int64_t task = blockIdx.x; task < p.tasks; task += gridDim.x) {
    const int64_t map = task * blockDim.y + threadIdx.y;
    if (map >= p.maps) continue;  // there is no barrier here
    const int64_t index = p.indices[map];
    const T zero = store<T>(wide_t<T>(0)), value = p.grad_scores[map / p.channels * p.n + map % p.channels * p.c];
    T* grad = p.grad + map * p.area;
    const AlignedRun<T, int64_t> run(grad, p.area);
    if (thread < run.head) grad[thread] = thread == index ? value : zero;
    for (int64_t i = thread; i < run.packs; i += blockDim.x) {
      const int64_t at = run.head + i * V;
      Pack<T, V> pack;
#pragma unroll
      for (int k = 0; k < V; ++k) pack.v[k] = at + k == index ? value : zero;
      store_pack(grad + at, pack);
    }
    if (run.tail + thread < run.size) grad[run.tail + thread] = run.tail + thread == index ? value : zero;
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels above. The caller fills maps, results, `quarter`, batch and channels.

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
