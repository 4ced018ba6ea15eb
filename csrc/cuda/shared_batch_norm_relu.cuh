// Several batch norms with ReLU of one map, as the branches of a residual unit read it: batch_norm_relu.cuh's two
// launches in either direction for all of them. Statistics are found once, every map is read once a launch, and the
// gradient of an identity skip joins in as grad_x is written.
#pragma once

#include "cuda/batch_norm_relu.cuh"

namespace pyranet_fast::gpu {

constexpr int kSharedNorms = 3;  // of a launch: what a unit has, and what registers hold
constexpr int kSharedPack = 4;   // channels of a pack at most, for the same reason

// weight, bias, grad_weight and grad_bias are (norms, channels); `out` is grad_x, `first` and `second` are
// [norm][part][channel].
template <typename T>
struct SharedNormArguments : NormArguments<T> {
  int32_t norms;
  T* outs[kSharedNorms];
  const T* grads[kSharedNorms];  // or null: zero
  const T* extra;                // added to grad_x, or null
};

template <typename T, int V, int kNorms>
__global__ void shared_norm_values(const __grid_constant__ SharedNormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const NormTable<W> table(memory, threads * V);
  const W count = static_cast<W>(p.batch * p.area);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    task.template total<true>(table);
    W mean[V] = {}, scale[kNorms][V] = {}, bias[kNorms][V] = {};
    for (int k = 0; k < V && task.active; ++k) {
      mean[k] = table.first[task.lane(k)];
      const W inverse = W(1) / sqrt(table.second[task.lane(k)] / count + p.eps);
#pragma unroll
      for (int j = 0; j < kNorms; ++j) {
        if (j >= p.norms) continue;
        scale[j][k] = p.weight[j * p.channels + task.of(k)] * inverse;
        bias[j][k] = p.bias[j * p.channels + task.of(k)];
      }
    }
    for (int32_t e = thread; task.strip == 0 && e < task.lanes && task.base + e < p.channels; e += threads) {
      p.mean[task.base + e] = table.first[e], p.var[task.base + e] = table.second[e] / count;
    }
    task.template for_each_pack<false>([&](int64_t at, const Pack<T, V>& x, const Pack<T, V>&) {
#pragma unroll
      for (int j = 0; j < kNorms; ++j) {
        if (j >= p.norms) continue;
        Pack<T, V> y;
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const W v = (load(x.v[k]) - mean[k]) * scale[j][k] + bias[j][k];
          y.v[k] = store<T>(v < W(0) ? W(0) : v);  // NaN stays
        }
        store_pack(p.outs[j] + at, y);
      }
    });
  }
}

// Scale and bias of every norm for this thread's channels.
template <typename T, int V, int kNorms>
struct SharedNorms {
  using W = wide_t<T>;
  W mean[V] = {}, inverse[V] = {}, scale[kNorms][V] = {}, bias[kNorms][V] = {};

  __device__ SharedNorms(const SharedNormArguments<T>& p, const NormTask<T, V>& task) {
    for (int k = 0; k < V && task.active; ++k) {
      mean[k] = p.mean[task.of(k)], inverse[k] = W(1) / sqrt(p.var[task.of(k)] + p.eps);
#pragma unroll
      for (int j = 0; j < kNorms; ++j) {
        if (j >= p.norms) continue;
        scale[j][k] = p.weight[j * p.channels + task.of(k)] * inverse[k];
        bias[j][k] = p.bias[j * p.channels + task.of(k)];
      }
    }
  }
  // Of the gradient of norm j what its ReLU lets pass; NaN passes, as in PyTorch.
  __device__ W passed(W grad, W x, int j, int k) const {
    return (x - mean[k]) * scale[j][k] + bias[j][k] <= W(0) ? W(0) : grad;
  }
};

template <typename T, int V, int kNorms>
__global__ void shared_norm_sums(const __grid_constant__ SharedNormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const NormTable<W> table(memory, blockDim.x * blockDim.y * V);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    const SharedNorms<T, V, kNorms> norms(p, task);
    W sum[kNorms][V] = {}, sum_x[kNorms][V] = {};
    task.template for_each_pack<false>([&](int64_t at, const Pack<T, V>& x, const Pack<T, V>&) {
#pragma unroll
      for (int j = 0; j < kNorms; ++j) {
        if (j >= p.norms || p.grads[j] == nullptr) continue;
        const Pack<T, V> grad = load_pack<V>(p.grads[j] + at);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const W v = load(x.v[k]), g = norms.passed(load(grad.v[k]), v, j, k);
          sum[j][k] += g;
          sum_x[j][k] += g * (v - norms.mean[k]);
        }
      }
    });
#pragma unroll
    for (int j = 0; j < kNorms; ++j) {
      if (j < p.norms) task.template leave_part<false>(table, W(0), sum[j], sum_x[j], j);
    }
  }
}

template <typename T, int V, int kNorms>
__global__ void shared_norm_gradient(const __grid_constant__ SharedNormArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const NormTable<W> table(memory, threads * V);
  const W count = static_cast<W>(p.batch * p.area);
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const NormTask<T, V> task(p, number);
    const SharedNorms<T, V, kNorms> norms(p, task);
    W slope[V] = {}, offset[V] = {};  // of all norms together
#pragma unroll
    for (int j = 0; j < kNorms; ++j) {
      if (j >= p.norms) continue;
      task.template total<false>(table, j);
      for (int k = 0; k < V && task.active; ++k) {
        const W square = norms.inverse[k] * norms.inverse[k];
        slope[k] -= norms.scale[j][k] * square * (table.second[task.lane(k)] / count);
        offset[k] -= norms.scale[j][k] * (table.first[task.lane(k)] / count);
      }
      for (int32_t e = thread; task.strip == 0 && e < task.lanes && task.base + e < p.channels; e += threads) {
        const int64_t c = task.base + e;
        p.grad_bias[j * p.channels + c] = table.first[e];
        p.grad_weight[j * p.channels + c] = table.second[e] / sqrt(p.var[c] + p.eps);
      }
    }
    task.template for_each_pack<false>([&](int64_t at, const Pack<T, V>& x, const Pack<T, V>&) {
      W sum[V];
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = (load(x.v[k]) - norms.mean[k]) * slope[k] + offset[k];
#pragma unroll
      for (int j = 0; j < kNorms; ++j) {
        if (j >= p.norms || p.grads[j] == nullptr) continue;
        const Pack<T, V> grad = load_pack<V>(p.grads[j] + at);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          sum[k] += norms.passed(load(grad.v[k]), load(x.v[k]), j, k) * norms.scale[j][k];
        }
      }
      if (p.extra != nullptr) {
        const Pack<T, V> extra = load_pack<V>(p.extra + at);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += load(extra.v[k]);
      }
      Pack<T, V> result;
#pragma unroll
      for (int k = 0; k < V; ++k) result.v[k] = store<T>(sum[k]);
      store_pack(p.out + at, result);
    });
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------

template <typename T>
Plan shared_norm_plan(SharedNormArguments<T>& p) {
  Plan plan = norm_plan<T>(p, least(kSharedPack, whole_access<T>()));
  const auto fits = [&](const T* data) {
    return reinterpret_cast<uintptr_t>(data) % (plan.vec * sizeof(T)) == 0;  // of null too
  };
  bool aligned = fits(p.extra);
  for (int j = 0; j < kSharedNorms; ++j) aligned = aligned && fits(p.outs[j]) && fits(p.grads[j]);
  return aligned ? plan : norm_plan<T>(p, 1);  // maps are whole tensors: off alignment in rare cases alone
}

// Values of the partial results, of each of the two.
template <typename T>
int64_t shared_norm_partials(SharedNormArguments<T> p) {
  shared_norm_plan(p);
  return p.norms * p.parts * p.channels;
}

template <typename T, typename Launch>
void launch_shared_batch_norm_relu(SharedNormArguments<T> p, const Launch& launch) {
  const Plan plan = shared_norm_plan(p);
  with_plan<T, 2, 4>(plan, [&](auto vec, auto) {
    constexpr int V = vec;
    launch("norm_statistics", norm_statistics<T, V>, plan.grid, static_cast<const NormArguments<T>&>(p));
    const auto start = [&](auto kernel) { launch("shared_norm_values", kernel, plan.grid, p); };
    p.norms <= 2 ? start(shared_norm_values<T, V, 2>) : start(shared_norm_values<T, V, kSharedNorms>);
  });
}

template <typename T, typename Launch>
void launch_shared_batch_norm_relu_backward(SharedNormArguments<T> p, const Launch& launch) {
  const Plan plan = shared_norm_plan(p);
  with_plan<T, 2, 4>(plan, [&](auto vec, auto) {
    constexpr int V = vec;
    const auto start = [&](const char* name, auto kernel) { launch(name, kernel, plan.grid, p); };
    if (p.norms <= 2) {
      start("shared_norm_sums", shared_norm_sums<T, V, 2>);
      start("shared_norm_gradient", shared_norm_gradient<T, V, 2>);
    } else {
      start("shared_norm_sums", shared_norm_sums<T, V, kSharedNorms>);
      start("shared_norm_gradient", shared_norm_gradient<T, V, kSharedNorms>);
    }
  });
}

}  // namespace pyranet_fast::gpu
