// Fractional max-pooling of one map to several sizes: every level and the winners in one launch, and the backward in
// one that gathers. The idea is the CPU kernel's: a level's windows are a choice among the windows of stride 1, so one
// byte a pixel says for all levels which element of the window that starts there is its maximum.
#pragma once

#include "common/window.h"
#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

template <typename T>
struct PoolLevel {
  Map<T> map;                // values, or their gradient
  const wide_t<T>* samples;  // of this level: [sample][channel][x, y]
  wide_t<T> alpha_y, alpha_x;
};

// Arguments of both directions. A block works on a strip of rows of one sample for `blockDim.x` packs of channels;
// threadIdx.y counts the workers that share the strip's pixels.
template <typename T>
struct PoolArguments {
  PoolLevel<T> levels[kMaxLevels];
  int32_t count;
  int64_t samples_n, samples_c;  // strides of the samples; 0: shared
  Map<T> x;                      // read; in the backward only where there is an affine part
  Map<uint8_t> positions;        // without data where nobody wants them
  Map<T> grad_x;
  const wide_t<T>* scale;  // or null
  const wide_t<T>* shift;  // or null
  bool relu;
  wide_t<T>* partial_scale;  // [strips * batch][channels], or null
  wide_t<T>* partial_shift;
  int64_t batch, channels, groups, strips, tasks;
  int32_t h, w;
};

template <typename T, typename Index>
struct PoolTask : Task<Index> {
  int64_t channel;
  bool active;

  __device__ PoolTask(const PoolArguments<T>& p, int64_t number, int vec)
      : Task<Index>(number, p.strips, p.groups),
        channel((this->group * blockDim.x + threadIdx.x) * vec),
        active(channel < p.channels) {}
  __device__ int32_t first_row(int32_t rows, int64_t strips) const {
    return static_cast<int32_t>(rows * this->strip / strips);
  }
  __device__ int32_t last_row(int32_t rows, int64_t strips) const {
    return static_cast<int32_t>(rows * (this->strip + 1) / strips);
  }
};

// Start of window i of one axis, the last one included.
template <typename W>
__device__ inline int32_t any_window_start(int32_t i, int32_t in, int32_t out, W u, W alpha) {
  return i < out - 1 ? window_start<W>(i, in, u, alpha) : in - 2;
}

// The first window that starts at `start` or after it; `out` if none does.
template <typename W>
__device__ inline int32_t first_window_from(int32_t start, int32_t in, int32_t out, W u, W alpha) {
  if (start > in - 2) return out;
  // About where it is, then exactly: starts never decrease.
  int32_t i = alpha > W(0) ? static_cast<int32_t>(static_cast<W>(start) / alpha) : 0;
  i = most(0, least(i, out - 1));
  while (i > 0 && any_window_start(i - 1, in, out, u, alpha) >= start) --i;
  while (any_window_start(i, in, out, u, alpha) < start) ++i;  // the last one starts at in - 2
  return i;
}

template <typename T, int V>
struct Affine {
  wide_t<T> scale[V], shift[V];
  bool any, relu;

  __device__ Affine(const PoolArguments<T>& p, int64_t channel, bool active)
      : any(p.scale != nullptr || p.shift != nullptr || p.relu), relu(p.relu) {
    for (int k = 0; k < V; ++k) {
      scale[k] = active && p.scale != nullptr ? p.scale[channel + k] : wide_t<T>(1);
      shift[k] = active && p.shift != nullptr ? p.shift[channel + k] : wide_t<T>(0);
    }
  }
  __device__ wide_t<T> linear(wide_t<T> v, int k) const { return v * scale[k] + shift[k]; }
  __device__ wide_t<T> operator()(T raw, int k) const {
    wide_t<T> v = load(raw);
    if (!any) return v;
    v = linear(v, k);
    return relu && v < wide_t<T>(0) ? wide_t<T>(0) : v;  // NaN stays
  }
};

// Maximum and winner (2 * row + column) of the 2x2 windows at `corner`. ATen's rule, in reading order: a later element
// wins if it is greater or NaN.
template <typename T, int V, typename Index>
__device__ inline void window_maximum(const T* corner, Index down, Index right, const Affine<T, V>& affine,
                                      wide_t<T>* best, uint8_t* winner) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const Pack<T, V> values = load_pack<V>(corner + (e >= 2 ? down : Index(0)) + (e % 2 == 1 ? right : Index(0)));
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const wide_t<T> v = affine(values.v[k], k);
      if (e == 0 || v > best[k] || v != v) {
        best[k] = v;
        winner[k] = static_cast<uint8_t>(e);
      }
    }
  }
}

template <typename T, int V, typename Index>
__global__ void pool_forward(const __grid_constant__ PoolArguments<T> p) {
  using W = wide_t<T>;
  const Index down = static_cast<Index>(p.x.y), right = static_cast<Index>(p.x.x);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const PoolTask<T, Index> task(p, number, V);
    if (!task.active) continue;  // there is no barrier here
    const Affine<T, V> affine(p, task.channel, true);
    const T* x = p.x.at(task.sample, task.channel);
    W best[V];
    uint8_t winner[V];
    if (p.positions.data != nullptr) {
      uint8_t* positions = p.positions.at(task.sample, task.channel);
      const int32_t first = task.first_row(p.h, p.strips), last = task.last_row(p.h, p.strips);
      for (Walk at(threadIdx.y, blockDim.y, p.w); first + at.row < last; at.next()) {
        const int32_t row = first + at.row;
        Pack<uint8_t, V> result{};
        if (row < p.h - 1 && at.column < p.w - 1) {
          window_maximum<T, V, Index>(x + row * down + at.column * right, down, right, affine, best, winner);
#pragma unroll
          for (int k = 0; k < V; ++k) result.v[k] = winner[k];
        }
        store_pack(positions + row * static_cast<Index>(p.positions.y) + at.column * static_cast<Index>(p.positions.x),
                   result);
      }
    }
    for (int32_t l = 0; l < p.count; ++l) {
      const PoolLevel<T>& level = p.levels[l];
      const W* u = level.samples + task.sample * p.samples_n + task.channel * p.samples_c;
      const W u_x = window_sample(u[0]), u_y = window_sample(u[1]);
      T* out = level.map.at(task.sample, task.channel);
      const int32_t first = task.first_row(level.map.h, p.strips), last = task.last_row(level.map.h, p.strips);
      for (Walk at(threadIdx.y, blockDim.y, level.map.w); first + at.row < last; at.next()) {
        const int32_t row = first + at.row;
        const Index y = any_window_start(row, p.h, level.map.h, u_y, level.alpha_y);
        const Index left = any_window_start(at.column, p.w, level.map.w, u_x, level.alpha_x);
        window_maximum<T, V, Index>(x + y * down + left * right, down, right, affine, best, winner);
        Pack<T, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) result.v[k] = store<T>(best[k]);
        store_pack(out + row * static_cast<Index>(level.map.y) + at.column * static_cast<Index>(level.map.x), result);
      }
    }
  }
}

// Gradient of the window that starts at (y, x): the sum over all levels of the outputs that take it.
template <typename T, int V, typename Index>
__device__ inline void add_window(const PoolArguments<T>& p, const PoolTask<T, Index>& task, int32_t y, int32_t x,
                                  const bool* won, wide_t<T>* sum) {
  using W = wide_t<T>;
  for (int32_t l = 0; l < p.count; ++l) {
    const PoolLevel<T>& level = p.levels[l];
    const W* u = level.samples + task.sample * p.samples_n + task.channel * p.samples_c;
    const W u_x = window_sample(u[0]), u_y = window_sample(u[1]);
    const T* grad = level.map.at(task.sample, task.channel);
    const int32_t h = level.map.h, w = level.map.w;
    // Two outputs have the same window only where rounding brings their starts together.
    for (int32_t i = first_window_from(y, p.h, h, u_y, level.alpha_y);
         i < h && any_window_start(i, p.h, h, u_y, level.alpha_y) == y; ++i) {
      for (int32_t j = first_window_from(x, p.w, w, u_x, level.alpha_x);
           j < w && any_window_start(j, p.w, w, u_x, level.alpha_x) == x; ++j) {
        const Pack<T, V> values =
            load_pack<V>(grad + i * static_cast<Index>(level.map.y) + j * static_cast<Index>(level.map.x));
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += won[k] ? load(values.v[k]) : W(0);
      }
    }
  }
}

template <typename T, int V, typename Index>
__global__ void pool_backward(const __grid_constant__ PoolArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  W* sums = reinterpret_cast<W*>(memory);  // [2][threads_y][threads_x][V], where scale or shift want a gradient
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const PoolTask<T, Index> task(p, number, V);
    const Affine<T, V> affine(p, task.channel, task.active);
    W by_scale[V] = {}, by_shift[V] = {};
    const int32_t first = task.first_row(p.h, p.strips), last = task.last_row(p.h, p.strips);
    for (Walk at(threadIdx.y, blockDim.y, p.w); task.active && first + at.row < last; at.next()) {
      const int32_t row = first + at.row, column = at.column;
      const uint8_t* positions = p.positions.at(task.sample, task.channel);
      W sum[V] = {};
#pragma unroll
      for (int e = 3; e >= 0; --e) {  // the pixel is element e of the window that starts at (y, x)
        const int32_t y = row - e / 2, x = column - e % 2;
        if (y < 0 || x < 0 || y > p.h - 2 || x > p.w - 2) continue;
        const Pack<uint8_t, V> winners =
            load_pack<V>(positions + y * static_cast<Index>(p.positions.y) + x * static_cast<Index>(p.positions.x));
        bool won[V], any = false;
#pragma unroll
        for (int k = 0; k < V; ++k) any |= won[k] = winners.v[k] == e;
        if (any) add_window<T, V, Index>(p, task, y, x, won, sum);
      }
      if (affine.any) {
        const Pack<T, V> values = load_pack<V>(p.x.at(task.sample, task.channel) + row * static_cast<Index>(p.x.y) +
                                               column * static_cast<Index>(p.x.x));
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const W v = load(values.v[k]);
          if (affine.relu && affine.linear(v, k) <= W(0)) sum[k] = W(0);  // NaN lets the gradient pass
          by_scale[k] += sum[k] * v;
          by_shift[k] += sum[k];
          sum[k] *= affine.scale[k];
        }
      }
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) result.v[k] = store<T>(sum[k]);
      store_pack(p.grad_x.at(task.sample, task.channel) + row * static_cast<Index>(p.grad_x.y) +
                     column * static_cast<Index>(p.grad_x.x),
                 result);
    }
    if (p.partial_scale == nullptr) continue;
    const int32_t lanes = blockDim.x * V, all = lanes * blockDim.y;
    __syncthreads();  // the sums of the task before are still being read
#pragma unroll
    for (int k = 0; k < V; ++k) {
      sums[threadIdx.y * lanes + threadIdx.x * V + k] = by_scale[k];
      sums[all + threadIdx.y * lanes + threadIdx.x * V + k] = by_shift[k];
    }
    __syncthreads();
    if (threadIdx.y == 0 && task.active) {
      for (int k = 0; k < V; ++k) {
        W scale = 0, shift = 0;
        for (int32_t i = 0; i < static_cast<int32_t>(blockDim.y); ++i) {
          scale += sums[i * lanes + threadIdx.x * V + k];
          shift += sums[all + i * lanes + threadIdx.x * V + k];
        }
        const int64_t at = (task.sample * p.strips + task.strip) * p.channels + task.channel + k;
        p.partial_scale[at] = scale;
        p.partial_shift[at] = shift;
      }
    }
  }
}

// Totals of the partial sums of one channel, in order.
template <typename W>
struct PoolTotals {
  const W* partial_scale;
  const W* partial_shift;
  W* grad_scale;
  W* grad_shift;
  int64_t parts, channels;
};

template <typename W>
__global__ void pool_totals(const __grid_constant__ PoolTotals<W> p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < p.channels; c += step) {
    double scale = 0, shift = 0;
    for (int64_t i = 0; i < p.parts; ++i) {
      scale += p.partial_scale[i * p.channels + c];
      shift += p.partial_shift[i * p.channels + c];
    }
    p.grad_scale[c] = static_cast<W>(scale);
    p.grad_shift[c] = static_cast<W>(shift);
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels above. The caller fills maps, samples and sizes; what depends on the plan is filled
// here.

constexpr int64_t kPoolPixels = 8;  // of a strip, for every worker

// Dense samples, (levels, n or 1, c or 1, 2).
template <typename T>
void set_samples(PoolArguments<T>& p, const wide_t<T>* samples, int64_t levels, int64_t n, int64_t c) {
  p.count = static_cast<int32_t>(levels);
  p.samples_n = n == 1 ? 0 : c * 2;
  p.samples_c = c == 1 ? 0 : 2;
  for (int64_t l = 0; l < levels; ++l) p.levels[l].samples = samples + l * n * c * 2;
}

template <typename T>
Plan pool_plan(PoolArguments<T>& p, const Map<T>& touched) {
  Plan plan{};
  // Windows of their own make neighboring channels read different pixels: one thread a channel then.
  const bool shared = p.samples_c == 0;
  int vec = shared ? whole_access<T>() : 1;
  vec = least(widest(touched, p.channels, vec), widest(p.positions, p.channels, vec));
  vec = least(vec, widest(p.x, p.channels, vec));
  plan.wide = needs_wide_index(touched) || needs_wide_index(p.positions) || needs_wide_index(p.x);
  bool inside = touched.c == 1 && p.channels > 1;
  for (int32_t l = 0; l < p.count; ++l) {
    PoolLevel<T>& level = p.levels[l];
    vec = widest(level.map, p.channels, vec);
    plan.wide = plan.wide || needs_wide_index(level.map);
    level.alpha_y = window_alpha<wide_t<T>>(p.h, level.map.h);
    level.alpha_x = window_alpha<wide_t<T>>(p.w, level.map.w);
  }
  const int64_t pixels = int64_t{p.h} * p.w;
  const auto lay_out = [&](int v) {
    plan.vec = v;
    plan.grid.threads_x = channel_threads(p.channels / v, inside);
    plan.grid.threads_y = workers(plan.grid.threads_x, pixels);
    p.groups = ceil_div(p.channels / v, plan.grid.threads_x);
    p.strips = strips_of(p.h, pixels, plan.grid.threads_y, kPoolPixels);
    return p.tasks = p.batch * p.groups * p.strips;
  };
  plan.wide = needs_wide_index(lay_out(vec)) || plan.wide;
  plan.grid.blocks = least(most_blocks(), plan.wide ? lay_out(1) : lay_out(vec));
  return plan;
}

template <typename T, typename Launch>
void launch_pool_forward(PoolArguments<T> p, const Launch& launch) {
  const Plan plan = pool_plan(p, p.x);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto index) {
    launch("pool_forward", pool_forward<T, decltype(vec)::value, decltype(index)>, plan.grid, p);
  });
}

// Partial sums of the gradients of scale and shift: how many per channel.
template <typename T>
int64_t pool_parts(PoolArguments<T> p) {
  pool_plan(p, p.grad_x);
  return p.batch * p.strips;
}

template <typename T, typename Launch>
void launch_pool_backward(PoolArguments<T> p, wide_t<T>* grad_scale, wide_t<T>* grad_shift, const Launch& launch) {
  Plan plan = pool_plan(p, p.grad_x);
  if (p.partial_scale != nullptr) {
    plan.grid.shared =
        2 * static_cast<int64_t>(sizeof(wide_t<T>)) * plan.grid.threads_x * plan.grid.threads_y * plan.vec;
  }
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto index) {
    launch("pool_backward", pool_backward<T, decltype(vec)::value, decltype(index)>, plan.grid, p);
  });
  if (p.partial_scale != nullptr) {
    const PoolTotals<wide_t<T>> totals{p.partial_scale, p.partial_shift,    grad_scale,
                                       grad_shift,      p.batch * p.strips, p.channels};
    launch("pool_totals", pool_totals<wide_t<T>>, Grid{least<int64_t>(1024, ceil_div(p.channels, 128)), 128, 1, 0},
           totals);
  }
}

}  // namespace pyranet_fast::gpu
