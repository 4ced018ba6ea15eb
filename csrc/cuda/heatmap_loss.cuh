// Mean squared error of score maps against Gaussians that are never stored: the scalar in one launch, its gradient in
// another. Sums have a fixed order: a block's partial sum is formed by its threads, and the block that ends last adds
// the partial sums of all.
#pragma once

#include <utility>

#include "cuda/gaussian_heatmaps.cuh"

namespace pyranet_fast::gpu {

// Arguments of both directions. Packs are neighboring channels where those have stride 1 (channels_last), else
// neighboring columns. A block works on a strip of rows of one sample for `lanes` channels, 1 where packs are columns.
template <typename T>
struct LossArguments {
  Map<T> pred;
  Map<T> grad_pred;         // of the backward alone
  const wide_t<T>* joints;  // [map][x, y]
  const wide_t<T>* weight;  // [map]
  wide_t<T> two_sigma_squared;
  wide_t<T>* partial;     // [block]
  unsigned* ticket;       // 0 before the launch: how many blocks have ended
  wide_t<T>* loss;        // the result of the forward
  const wide_t<T>* grad;  // of the loss, in the backward
  int64_t batch, channels, groups, strips, tasks;
  int32_t lanes;
  bool along_channels;
  bool tables;  // whether the Gaussians' tables fit into shared memory; packs of one element where they do not
};

// Shared memory: what block sums need, the flag of the last block, then the tables.
constexpr int kLossLast = 32 * sizeof(double);  // a value a warp
constexpr int kLossTables = kLossLast + 16;

template <typename T, int V, typename Index>
struct LossTask : Task<Index> {
  using W = wide_t<T>;
  const LossArguments<T>& p;
  W* table;
  int64_t channel, first_map;  // this thread's first channel; the block's first map
  int32_t lane, first, last;   // the channel among the block's; rows
  bool active;

  __device__ LossTask(const LossArguments<T>& p, int64_t number, unsigned char* memory)
      : Task<Index>(number, p.strips, p.groups),
        p(p),
        table(reinterpret_cast<W*>(memory + kLossTables)),
        channel(this->group * p.lanes + (p.along_channels ? threadIdx.x * V : 0)),
        first_map(this->sample * p.channels + this->group * p.lanes),
        lane(static_cast<int32_t>(channel - this->group * p.lanes)),
        first(static_cast<int32_t>(p.pred.h * this->strip / p.strips)),
        last(static_cast<int32_t>(p.pred.h * (this->strip + 1) / p.strips)),
        active(channel < p.channels) {}

  __device__ int of(int k) const { return p.along_channels ? k : 0; }  // the channel, after the first, of element k
  __device__ W weight(int k) const { return p.weight[this->sample * p.channels + channel + of(k)]; }
  __device__ W center(int32_t of_lane, int axis) const {
    // Lanes past the last channel have an entry too, which nobody reads.
    const int64_t map = least(first_map + of_lane, (this->sample + 1) * p.channels - 1);
    return p.joints[2 * map + axis];
  }
  // All threads of the block must call.
  __device__ void fill_tables() const {
    if (!p.tables) return;
    fill_gaussian_tables<W>(table, p.lanes, p.pred.w, first, last, p.two_sigma_squared,
                            [&](int32_t of_lane, int axis) { return center(of_lane, axis); });
  }
  // How far the prediction is from the Gaussian, at a row of the strip and the first column of a pack.
  __device__ void errors(int32_t row, int32_t column, const T* pred, W* error) const {
    const Pack<T, V> values =
        load_pack<V>(pred + row * static_cast<Index>(p.pred.y) + column * static_cast<Index>(p.pred.x));
    if constexpr (V == 1) {  // without tables there are no packs
      if (!p.tables) {
        error[0] = load(values.v[0]) - gaussian_factor(column, center(lane, 0), p.two_sigma_squared) *
                                           gaussian_factor(row, center(lane, 1), p.two_sigma_squared);
        return;
      }
    }
    constexpr int kWhole = 16 / static_cast<int>(sizeof(W)), N = V < kWhole ? V : kWhole;
    const W* along_row = table + column * p.lanes + lane;
    const W* down = table + (p.pred.w + row - first) * p.lanes + lane;
#pragma unroll
    for (int k = 0; k < V; k += N) {
      const Pack<W, N> x = load_pack<N>(along_row + k);
      Pack<W, N> y;
      if (p.along_channels) {
        y = load_pack<N>(down + k);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) y.v[i] = down[0];
      }
#pragma unroll
      for (int i = 0; i < N; ++i) error[k + i] = load(values.v[k + i]) - x.v[i] * y.v[i];
    }
  }
  // Calls body(row, column) for every pack of this worker.
  template <typename Body>
  __device__ void for_each_pack(const Body& body) const {
    const int32_t step = p.along_channels ? 1 : V;
    for (Walk at(threadIdx.y, blockDim.y, p.pred.w / step); active && first + at.row < last; at.next()) {
      body(first + at.row, at.column * step);
    }
  }
};

template <typename T, int V, typename Index>
__global__ void __launch_bounds__(512) loss_forward(const __grid_constant__ LossArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  W mine = 0;
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const LossTask<T, V, Index> task(p, number, memory);
    if (!p.along_channels && !(task.weight(0) > W(0))) continue;  // the whole block's map takes no part
    task.fill_tables();
    const T* pred = p.pred.at(task.sample, task.channel);
    W sum[V] = {};
    task.for_each_pack([&](int32_t row, int32_t column) {
      W error[V];
      task.errors(row, column, pred, error);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += error[k] * error[k];
    });
    for (int k = 0; k < V && task.active; ++k) {
      const W weight = task.weight(k);
      if (weight > W(0)) mine += weight * sum[k];  // a choice, not a product with 0: the map may hold NaN
    }
  }
  mine = block_sum(mine, reinterpret_cast<W*>(memory));
  bool* last = reinterpret_cast<bool*>(memory + kLossLast);
  if (thread == 0) {
    p.partial[blockIdx.x] = mine;
    __threadfence();  // whoever sees the ticket sees the partial sum
    *last = atomicAdd(p.ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!*last) return;  // the whole block
  __threadfence();
  double* scratch = reinterpret_cast<double*>(memory);
  const volatile W* partial = p.partial;  // other blocks wrote these: read from memory
  double sum = 0, weights = 0;
  for (int64_t i = thread; i < gridDim.x; i += threads) sum += static_cast<double>(partial[i]);
  for (int64_t i = thread; i < p.batch * p.channels; i += threads) weights += static_cast<double>(p.weight[i]);
  sum = block_sum(sum, scratch);
  weights = block_sum(weights, scratch);
  const double area = static_cast<double>(p.pred.h) * p.pred.w;
  if (thread == 0) *p.loss = static_cast<W>(weights > 0 ? sum / (area * weights) : weights * 0);  // NaN stays
}

template <typename T, int V, typename Index>
__global__ void __launch_bounds__(512) loss_backward(const __grid_constant__ LossArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  W weights = 0;
  for (int64_t i = thread; i < p.batch * p.channels; i += threads) weights += p.weight[i];
  weights = block_sum(weights, reinterpret_cast<W*>(memory));
  const W factor = 2 * *p.grad / (static_cast<W>(p.pred.h) * static_cast<W>(p.pred.w) * weights);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const LossTask<T, V, Index> task(p, number, memory);
    task.fill_tables();
    const T* pred = p.pred.at(task.sample, task.channel);
    T* grad = p.grad_pred.at(task.sample, task.channel);
    W coefficient[V] = {};
    bool counts[V] = {};
    for (int k = 0; k < V && task.active; ++k) {
      coefficient[k] = factor * task.weight(k);
      counts[k] = !(weights <= W(0)) && task.weight(k) > W(0);  // nowhere else is the factor used
    }
    task.for_each_pack([&](int32_t row, int32_t column) {
      W error[V];
      task.errors(row, column, pred, error);
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) result.v[k] = store<T>(counts[k] ? error[k] * coefficient[k] : W(0));
      store_pack(grad + row * static_cast<Index>(p.grad_pred.y) + column * static_cast<Index>(p.grad_pred.x), result);
    });
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels above. The caller fills maps, joints, weight and two_sigma_squared, batch and channels,
// and what the direction needs: partial (loss_parts of them), ticket and loss, or grad.

constexpr int64_t kLossPixels = 4;              // packs of a strip, for every worker
constexpr int64_t kLossTableBytes = 24 * 1024;  // so that several blocks fit beside each other

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
Plan lay_out_loss(LossArguments<T>& p, int vec, int32_t threads_x) {
  using W = wide_t<T>;
  Plan plan{};
  plan.vec = vec;
  const int64_t packs = int64_t{p.pred.h} * (p.along_channels ? p.pred.w : p.pred.w / vec);
  int32_t whole = kWarp;  // workers that make a multiple of a warp
  while (whole > 1 && threads_x * (whole / 2) % kWarp == 0) whole /= 2;
  p.lanes = p.along_channels ? threads_x * vec : 1;
  p.groups = ceil_div(p.channels, p.lanes);
  const int64_t strip = pixels_of_a_strip(p.batch * p.groups, packs, threads_x, kLossPixels);
  p.strips = strips_of_rows(p.pred.h, packs, strip);
  const int64_t wanted = least<int64_t>(threads_of_a_block() / threads_x, ceil_div(packs, p.strips));
  plan.grid.threads_x = threads_x;
  plan.grid.threads_y = static_cast<int32_t>(most<int64_t>(whole, wanted / whole * whole));
  p.tasks = p.batch * p.groups * p.strips;
  const int64_t bytes = (p.pred.w + ceil_div(p.pred.h, p.strips)) * p.lanes * static_cast<int64_t>(sizeof(W));
  p.tables = bytes <= kLossTableBytes;
  plan.grid.shared = kLossTables + (p.tables ? bytes : 0);
  // More strips than these hold are strided over, so that there are few partial sums to add.
  plan.grid.blocks = least<int64_t>(p.tasks, 8 * threads_of_a_block());
  return plan;
}

template <typename T>
Plan loss_plan(LossArguments<T>& p) {
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
  Plan plan = lay_out_loss(p, vec, threads_x);
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
  const Plan plan = loss_plan(p);
  with_plan<T, 2, whole_access<T>()>(plan, [&](auto vec, auto index) {
    constexpr int V = vec;
    using Index = decltype(index);
    if (backward) {
      launch("loss_backward", loss_backward<T, V, Index>, plan.grid, p);
    } else {
      launch("loss_forward", loss_forward<T, V, Index>, plan.grid, p);
    }
  });
}

}  // namespace pyranet_fast::gpu
