// relu(batch_norm(x)) with batch statistics in two launches: statistics, values; and two backward: sums, gradient. The
// first of each leaves partial results of every part of the batch, which all blocks of the second merge for their
// channels in the same order: the same bits every time, and no block waits for another. The second moves the running
// statistics and their counter too.
#pragma once

#include "cuda/plan.cuh"

namespace pyranet_fast::gpu {

// Arguments of all four kernels. Maps are dense, all in one layout, and are read in packs: of channels of a pixel
// (channels_last) or of pixels of a channel (contiguous). A block works on a part of the packs of its channels:
// `blockDim.x` packs side by side, threadIdx.y counts the workers.
template <typename T>
struct NormArguments {
  const T* x;
  const T* grad;            // of y, in the backward
  T* out;                   // y or grad_x
  const wide_t<T>* weight;  // or null: 1
  const wide_t<T>* bias;    // or null: 0
  wide_t<T>* mean;          // written in the forward, read in the backward
  wide_t<T>* var;           // biased
  wide_t<T>* running_mean;  // or null, with the two that follow
  wide_t<T>* running_var;
  int64_t* batches;
  wide_t<T>* grad_weight;
  wide_t<T>* grad_bias;
  wide_t<T>* first;   // [part][channel]: mean, or sum of the gradient
  wide_t<T>* second;  // squared distances from the mean; sum of the gradient times the distance from the mean
  wide_t<T> momentum, eps;
  int64_t batch, channels, area;
  int64_t packs, across;  // of one channel, or group side by side: all; those before the next sample
  int64_t groups, parts, tasks;
  bool channels_last;
};

// Count, mean and sum of squared distances from it, merged without cancellation (Chan); or plain sums.
template <bool kMoments, typename W>
__device__ inline void merge(W& count, W& first, W& second, W other_count, W other_first, W other_second) {
  if constexpr (kMoments) {
    if (other_count == W(0)) return;
    const W all = count + other_count, delta = other_first - first, share = other_count / all;
    first = count == W(0) ? other_first : first + delta * share;  // an infinity is not its distance from 0
    second = count == W(0) ? other_second : second + other_second + delta * delta * count * share;
    count = all;
  } else {
    first += other_first, second += other_second;
  }
}

// What the threads of a block have found of its channels, in shared memory: [slice][lane] of three arrays.
template <typename W>
struct NormTable {
  W *count, *first, *second;

  __device__ NormTable(unsigned char* memory, int32_t entries)
      : count(reinterpret_cast<W*>(memory)), first(count + entries), second(first + entries) {}
  __device__ void put(int32_t entry, W a, W b, W c) const { count[entry] = a, first[entry] = b, second[entry] = c; }

  // Slices become one, by halves. All threads must call; on return the sums are there for all of them.
  template <bool kMoments>
  __device__ void merge_slices(int32_t slices, int32_t lanes) const {
    const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    __syncthreads();
    while (slices > 1) {
      const int32_t half = (slices + 1) / 2;
      for (int32_t e = thread; e < (slices - half) * lanes; e += threads) {
        const int32_t from = e + half * lanes;
        merge<kMoments>(count[e], first[e], second[e], count[from], first[from], second[from]);
      }
      __syncthreads();
      slices = half;
    }
  }
};

template <typename T, int V>
struct NormTask : Task<int64_t> {
  using W = wide_t<T>;
  const NormArguments<T>& p;
  int64_t base, channel;  // the block's first channel; the first of this thread's packs
  int64_t begin, end;     // packs of this part
  int32_t lanes;          // channels of the block
  bool active;

  __device__ NormTask(const NormArguments<T>& p, int64_t number)
      : Task<int64_t>(number, p.parts, p.groups),
        p(p),
        base(this->group * (p.channels_last ? blockDim.x * V : 1)),
        channel(base + (p.channels_last ? threadIdx.x * V : 0)),
        begin(first_pack(this->strip)),
        end(first_pack(this->strip + 1)),
        lanes(p.channels_last ? blockDim.x * V : 1),
        active(channel < p.channels) {}

  __device__ int64_t first_pack(int64_t part) const { return p.packs * part / p.parts; }
  __device__ W values(int64_t part) const {  // of a channel in a part
    return static_cast<W>((first_pack(part + 1) - first_pack(part)) * (p.channels_last ? 1 : V));
  }
  __device__ int32_t lane(int k) const { return p.channels_last ? threadIdx.x * V + k : 0; }
  __device__ int64_t of(int k) const { return channel + (p.channels_last ? k : 0); }

  // Calls body(offset, x, grad) for the packs of this worker, several of which are on their way at a time.
  template <bool kGrad, typename Body>
  __device__ void for_each_pack(const Body& body) const {
    constexpr int kAtOnce = kGrad ? 2 : 4;  // of 16 bytes at most, from one map or two: what registers hold
    if (!active) return;
    const int64_t workers = blockDim.y, step = p.channels_last ? p.channels : V;
    const int64_t sample_step = p.channels * p.area;
    const int64_t start = p.channels_last ? channel : channel * p.area;
    int64_t i = begin + threadIdx.y;
    int64_t sample = i / p.across, place = i - sample * p.across;
    const int64_t samples_ahead = workers / p.across, places_ahead = workers - samples_ahead * p.across;
    while (i < end) {
      int64_t offsets[kAtOnce];
      Pack<T, V> x[kAtOnce], grad[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        offsets[u] = start + sample * sample_step + place * step;
        if (i + u * workers < end) {
          x[u] = load_pack<V>(p.x + offsets[u]);
          if constexpr (kGrad) grad[u] = load_pack<V>(p.grad + offsets[u]);
        }
        sample += samples_ahead, place += places_ahead;
        if (place >= p.across) place -= p.across, ++sample;
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (i + u * workers < end) body(offsets[u], x[u], grad[u]);
      }
      i += kAtOnce * workers;
    }
  }

  // The block's results of this part, from its threads'. `norm`: which of several that share their passes.
  template <bool kMoments>
  __device__ void leave_part(const NormTable<W>& table, W count, const W* first, const W* second,
                             int32_t norm = 0) const {
    const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const int32_t side_by_side = blockDim.x * V;
    __syncthreads();  // the table of the task before may still be read
#pragma unroll
    for (int k = 0; k < V; ++k) {
      table.put(threadIdx.y * side_by_side + threadIdx.x * V + k, count, first[k], second[k]);
    }
    table.template merge_slices<kMoments>(blockDim.y, side_by_side);
    if (!p.channels_last) table.template merge_slices<kMoments>(side_by_side, 1);
    for (int32_t e = thread; e < lanes && base + e < p.channels; e += threads) {
      const int64_t at = (norm * p.parts + this->strip) * p.channels + base + e;
      p.first[at] = table.first[e], p.second[at] = table.second[e];
    }
  }

  // The totals of all parts for every lane, in the first entries of the table.
  template <bool kMoments>
  __device__ void total(const NormTable<W>& table, int32_t norm = 0) const {
    const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const int32_t slices = static_cast<int32_t>(least<int64_t>(p.parts, most(1, threads / lanes)));
    __syncthreads();
    for (int32_t e = thread; e < slices * lanes; e += threads) {
      const int64_t c = base + e % lanes;
      W count = 0, first = 0, second = 0;
      for (int64_t part = e / lanes; c < p.channels && part < p.parts; part += slices) {
        const int64_t at = (norm * p.parts + part) * p.channels + c;
        merge<kMoments>(count, first, second, values(part), p.first[at], p.second[at]);
      }
      table.put(e, count, first, second);
    }
    table.template merge_slices<kMoments>(slices, lanes);
  }
};

// The norm of this thread's channels: (x - mean) * scale + bias, which is exact where x is close to the mean.
template <typename T, int V>
struct Normalized {
  using W = wide_t<T>;
  W mean[V], scale[V], bias[V], inverse[V];

  __device__ void set(const NormArguments<T>& p, int k, int64_t channel, W channel_mean, W var) {
    mean[k] = channel_mean;
    inverse[k] = W(1) / sqrt(var + p.eps);
    scale[k] = p.weight != nullptr ? p.weight[channel] * inverse[k] : inverse[k];
    bias[k] = p.bias != nullptr ? p.bias[channel] : W(0);
  }
  __device__ W operator()(W x, int k) const { return (x - mean[k]) * scale[k] + bias[k]; }
  // Of the gradient what the ReLU lets pass; NaN passes, as in PyTorch.
  __device__ W passed(W grad, W x, int k) const { return (*this)(x, k) <= W(0) ? W(0) : grad; }
};

template <typename T, int V>
__global__ void norm_statistics(const __grid_constant__ NormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const NormTable<W> table(memory, blockDim.x * blockDim.y * V);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    W count = 0, mean[V] = {}, squares[V] = {};
    task.template for_each_pack<false>([&](int64_t, const Pack<T, V>& x, const Pack<T, V>&) {
      count += 1;
      const W share = W(1) / count;
#pragma unroll
      for (int k = 0; k < V; ++k) {  // Welford
        const W v = load(x.v[k]), delta = v - mean[k];
        mean[k] += delta * share;
        squares[k] += delta * (v - mean[k]);
      }
    });
    task.template leave_part<true>(table, count, mean, squares);
  }
}

template <typename T, int V>
__global__ void norm_values(const __grid_constant__ NormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const NormTable<W> table(memory, threads * V);
  const W count = static_cast<W>(p.batch * p.area);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    task.template total<true>(table);
    Normalized<T, V> norm;
    for (int k = 0; k < V && task.active; ++k) {
      norm.set(p, k, task.of(k), table.first[task.lane(k)], table.second[task.lane(k)] / count);
    }
    for (int32_t e = thread; task.strip == 0 && e < task.lanes && task.base + e < p.channels; e += threads) {
      const int64_t c = task.base + e;
      const W mean = table.first[e], var = table.second[e] / count;
      p.mean[c] = mean, p.var[c] = var;
      if (p.running_mean == nullptr) continue;
      const W unbiased = count > W(1) ? var * (count / (count - W(1))) : var;
      p.running_mean[c] = (W(1) - p.momentum) * p.running_mean[c] + p.momentum * mean;
      p.running_var[c] = (W(1) - p.momentum) * p.running_var[c] + p.momentum * unbiased;
      if (c == 0) *p.batches += 1;
    }
    task.template for_each_pack<false>([&](int64_t at, const Pack<T, V>& x, const Pack<T, V>&) {
      Pack<T, V> y;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const W v = norm(load(x.v[k]), k);
        y.v[k] = store<T>(v < W(0) ? W(0) : v);  // NaN stays
      }
      store_pack(p.out + at, y);
    });
  }
}

template <typename T, int V>
__global__ void norm_sums(const __grid_constant__ NormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const NormTable<W> table(memory, blockDim.x * blockDim.y * V);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    Normalized<T, V> norm;
    for (int k = 0; k < V && task.active; ++k) norm.set(p, k, task.of(k), p.mean[task.of(k)], p.var[task.of(k)]);
    W sum[V] = {}, sum_x[V] = {};
    task.template for_each_pack<true>([&](int64_t, const Pack<T, V>& x, const Pack<T, V>& grad) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const W v = load(x.v[k]), g = norm.passed(load(grad.v[k]), v, k);
        sum[k] += g;
        sum_x[k] += g * (v - norm.mean[k]);
      }
    });
    task.template leave_part<false>(table, W(0), sum, sum_x);
  }
}

template <typename T, int V>
__global__ void norm_gradient(const __grid_constant__ NormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const NormTable<W> table(memory, threads * V);
  const W count = static_cast<W>(p.batch * p.area);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    task.template total<false>(table);
    Normalized<T, V> norm;
    W slope[V] = {}, offset[V] = {};
    for (int k = 0; k < V && task.active; ++k) {
      norm.set(p, k, task.of(k), p.mean[task.of(k)], p.var[task.of(k)]);
      slope[k] = -norm.inverse[k] * norm.inverse[k] * (table.second[task.lane(k)] / count);
      offset[k] = -table.first[task.lane(k)] / count;
    }
    for (int32_t e = thread; task.strip == 0 && e < task.lanes && task.base + e < p.channels; e += threads) {
      const int64_t c = task.base + e;
      p.grad_bias[c] = table.first[e];
      p.grad_weight[c] = table.second[e] / sqrt(p.var[c] + p.eps);
    }
    task.template for_each_pack<true>([&](int64_t at, const Pack<T, V>& x, const Pack<T, V>& grad) {
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const W v = load(x.v[k]), g = norm.passed(load(grad.v[k]), v, k);
        // Scale last, as in PyTorch, so that an infinite one gives infinities and not their difference.
        result.v[k] = store<T>((g + (v - norm.mean[k]) * slope[k] + offset[k]) * norm.scale[k]);
      }
      store_pack(p.out + at, result);
    });
  }
}

// Moving averages alone, where the statistics were found by another call.
template <typename W>
struct AverageArguments {
  const W* mean;
  const W* var;
  W* running_mean;
  W* running_var;
  int64_t* batches;
  W momentum, unbiased;  // what makes the variance so
  int64_t channels;
};

template <typename W>
__global__ void norm_averages(const __grid_constant__ AverageArguments<W> p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < p.channels; c += step) {
    p.running_mean[c] = (W(1) - p.momentum) * p.running_mean[c] + p.momentum * p.mean[c];
    p.running_var[c] = (W(1) - p.momentum) * p.running_var[c] + p.momentum * (p.unbiased * p.var[c]);
    if (c == 0) *p.batches += 1;
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels. The caller fills everything up to `area`, and `channels_last`.

constexpr int64_t kNormBlocks = 264;  // two for each multiprocessor of the largest GPUs: more have more to merge
constexpr int64_t kNormPacks = 4;     // of a part, for every worker
constexpr int32_t kNormSideBySide = 8;

template <typename T>
Plan norm_plan(NormArguments<T>& p, int widest_pack = whole_access<T>()) {
  Plan plan{};
  const auto aligned = [](const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
  const int64_t inner = p.channels_last ? p.channels : p.area;
  plan.vec = widest_pack;
  for (const void* data :
       {static_cast<const void*>(p.x), static_cast<const void*>(p.grad), static_cast<const void*>(p.out)}) {
    while (plan.vec > 1 && (inner % plan.vec != 0 || !aligned(data, plan.vec * static_cast<int64_t>(sizeof(T))))) {
      plan.vec /= 2;
    }
  }
  const int64_t across = p.channels / plan.vec;
  plan.grid.threads_x = p.channels_last ? static_cast<int32_t>(least<int64_t>(across, kNormSideBySide)) : 1;
  plan.grid.threads_y = threads_of_a_block() / plan.grid.threads_x;
  p.across = p.channels_last ? p.area : p.area / plan.vec;
  p.packs = p.batch * p.across;
  p.groups = p.channels_last ? ceil_div(across, plan.grid.threads_x) : p.channels;
  p.parts = least(ceil_div(kNormBlocks, p.groups), ceil_div(p.packs, plan.grid.threads_y * kNormPacks));
  p.tasks = p.groups * p.parts;
  plan.grid.blocks = least(most_blocks(), p.tasks);
  plan.grid.shared = 3 * static_cast<int64_t>(sizeof(wide_t<T>)) * plan.grid.threads_x * plan.grid.threads_y * plan.vec;
  return plan;
}

// Values of the partial results, of each of the two.
template <typename T>
int64_t norm_partials(NormArguments<T> p) {
  norm_plan(p);
  return p.parts * p.channels;
}

template <typename T, typename Launch>
void launch_batch_norm_relu(NormArguments<T> p, const Launch& launch) {
  const Plan plan = norm_plan(p);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto) {
    launch("norm_statistics", norm_statistics<T, decltype(vec)::value>, plan.grid, p);
    launch("norm_values", norm_values<T, decltype(vec)::value>, plan.grid, p);
  });
}

template <typename T, typename Launch>
void launch_batch_norm_relu_backward(NormArguments<T> p, const Launch& launch) {
  const Plan plan = norm_plan(p);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto) {
    launch("norm_sums", norm_sums<T, decltype(vec)::value>, plan.grid, p);
    launch("norm_gradient", norm_gradient<T, decltype(vec)::value>, plan.grid, p);
  });
}

template <typename W, typename Launch>
void launch_norm_averages(AverageArguments<W> p, int64_t count, const Launch& launch) {
  p.unbiased = count > 1 ? static_cast<W>(static_cast<double>(count) / static_cast<double>(count - 1)) : W(1);
  launch("norm_averages", norm_averages<W>, Grid{least<int64_t>(1024, ceil_div(p.channels, 128)), 128, 1, 0}, p);
}

}  // namespace pyranet_fast::gpu
