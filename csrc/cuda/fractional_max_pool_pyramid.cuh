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
  wide_t<T> inverse_y, inverse_x;  // of alpha, or 0: about where a window is
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
  int32_t entries;  // of the backward's table, for one level: columns and a strip's rows
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
__device__ inline int32_t first_window_from(int32_t start, int32_t in, int32_t out, W u, W alpha, W inverse) {
  if (start > in - 2) return out;
  // About where it is, then exactly: starts never decrease.
  const W about = (static_cast<W>(start) + static_cast<W>(static_cast<int32_t>(u * alpha))) * inverse - u;
  int32_t i = most(0, least(static_cast<int32_t>(about) + 1, out - 1));
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
      StripWalk<Index> at(p.h, p.w, task.strip, p.strips, threadIdx.y, blockDim.y);
      for (; at.inside(); at.next()) {
        const int32_t row = at.row;
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
      StripWalk<Index> at(level.map.h, level.map.w, task.strip, p.strips, threadIdx.y, blockDim.y);
      for (; at.inside(); at.next()) {
        const int32_t row = at.row;
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

// The windows of a strip by where they start: for every level, axis and place the first that starts there or after it.
// Made by a block for its pixels in shared memory, since a pixel asks for three places of each level and axis. Windows
// of their own make one for each channel. Maps whose offsets need 64 bits go without: their pixels search.
template <typename T, typename Index>
struct WindowTable {
  static constexpr bool kMade = sizeof(Index) == 4;

  const PoolArguments<T>& p;
  const PoolTask<T, Index>& task;
  uint16_t* memory;  // [level][columns -1 ... w, rows from `top` on][channel]
  int32_t top, channels, channel;

  __device__ WindowTable(const PoolArguments<T>& p, const PoolTask<T, Index>& task, uint16_t* memory, int32_t first)
      : p(p),
        task(task),
        memory(memory),
        top(first - 1),
        channels(p.samples_c != 0 ? blockDim.x : 1),
        channel(p.samples_c != 0 ? threadIdx.x : 0) {}

  __device__ int32_t search_row(const PoolLevel<T>& level, int32_t y) const {
    const wide_t<T>* u = level.samples + task.sample * p.samples_n + task.channel * p.samples_c;
    return first_window_from(y, p.h, level.map.h, window_sample(u[1]), level.alpha_y, level.inverse_y);
  }
  __device__ int32_t search_column(const PoolLevel<T>& level, int32_t x) const {
    const wide_t<T>* u = level.samples + task.sample * p.samples_n + task.channel * p.samples_c;
    return first_window_from(x, p.w, level.map.w, window_sample(u[0]), level.alpha_x, level.inverse_x);
  }

  // Called by all threads of a block, between barriers.
  __device__ void make() const {
    const bool own = p.samples_c != 0;
    if (own && !task.active) return;
    const int32_t worker = own ? threadIdx.y : threadIdx.y * blockDim.x + threadIdx.x;
    const int32_t workers = own ? blockDim.y : blockDim.x * blockDim.y;
    for (Walk at(worker, workers, p.entries); at.row < p.count; at.next()) {
      const PoolLevel<T>& level = p.levels[at.row];
      const int32_t row = at.column - (p.w + 2);
      const int32_t first = row < 0 ? search_column(level, at.column - 1) : search_row(level, top + row);
      memory[(at.row * p.entries + at.column) * channels + channel] = static_cast<uint16_t>(first);
    }
  }

  // The first windows from rows y - 1, y and y + 1 on; those that start at y are [first[1], first[2]).
  __device__ void rows(int32_t l, int32_t y, int32_t* first) const {
    if constexpr (kMade) {
      const uint16_t* at = memory + (l * p.entries + p.w + 2 + y - 1 - top) * channels + channel;
      for (int i = 0; i < 3; ++i) first[i] = at[i * channels];
    } else {
      for (int i = 0; i < 3; ++i) first[i] = search_row(p.levels[l], y - 1 + i);
    }
  }
  __device__ void columns(int32_t l, int32_t x, int32_t* first) const {
    if constexpr (kMade) {
      const uint16_t* at = memory + (l * p.entries + x) * channels + channel;
      for (int i = 0; i < 3; ++i) first[i] = at[i * channels];
    } else {
      for (int i = 0; i < 3; ++i) first[i] = search_column(p.levels[l], x - 1 + i);
    }
  }
};

// Gradient of pixel (row, column): the sum over all levels of the outputs whose windows it has won. Bit 4 k + e of
// `won`: in channel k it is the maximum of the windows whose element e it is.
template <typename T, int V, typename Index>
__device__ inline void add_windows(const PoolArguments<T>& p, const PoolTask<T, Index>& task,
                                   const WindowTable<T, Index>& table, int32_t row, int32_t column, uint32_t won,
                                   wide_t<T>* sum) {
  using W = wide_t<T>;
  for (int32_t l = 0; l < p.count; ++l) {
    const PoolLevel<T>& level = p.levels[l];
    const T* grad = level.map.at(task.sample, task.channel);
    int32_t rows[3], columns[3];
    table.rows(l, row, rows);
    table.columns(l, column, columns);
    // Mostly none or one on either side: two have the same start only where rounding brings them together.
    for (int32_t i = rows[0]; i < rows[2]; ++i) {
      for (int32_t j = columns[0]; j < columns[2]; ++j) {
        const uint32_t of = won >> ((i < rows[1] ? 2 : 0) + (j < columns[1] ? 1 : 0));
        if ((of & 0x11111111u) == 0) continue;
        const Pack<T, V> values =
            load_pack<V>(grad + i * static_cast<Index>(level.map.y) + j * static_cast<Index>(level.map.x));
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += (of >> 4 * k & 1) != 0 ? load(values.v[k]) : W(0);
      }
    }
  }
}

template <typename T, int V, typename Index>
__global__ void pool_backward(const __grid_constant__ PoolArguments<T> p) {
  using W = wide_t<T>;
  PF_SHARED_MEMORY(memory);
  W* sums = reinterpret_cast<W*>(memory);  // [2][threads_y][threads_x][V], where scale or shift want a gradient
  uint16_t* windows =
      reinterpret_cast<uint16_t*>(sums + (p.partial_scale != nullptr ? 2 * blockDim.x * blockDim.y * V : 0));
  for (int64_t number = blockIdx.x; number < p.tasks; number += gridDim.x) {
    const PoolTask<T, Index> task(p, number, V);
    const Affine<T, V> affine(p, task.channel, task.active);
    W by_scale[V] = {}, by_shift[V] = {};
    const int32_t first = task.first_row(p.h, p.strips), last = task.last_row(p.h, p.strips);
    const WindowTable<T, Index> table(p, task, windows, first);
    if constexpr (table.kMade) {
      __syncthreads();  // that of the task before may still be in use
      table.make();
      __syncthreads();
    }
    for (Walk at(threadIdx.y, blockDim.y, p.w); task.active && first + at.row < last; at.next()) {
      const int32_t row = first + at.row, column = at.column;
      const uint8_t* positions = p.positions.at(task.sample, task.channel);
      uint32_t won = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // the pixel is element e of the window that starts at (y, x)
        const int32_t y = row - e / 2, x = column - e % 2;
        if (y < 0 || x < 0 || y > p.h - 2 || x > p.w - 2) continue;
        const Pack<uint8_t, V> winners =
            load_pack<V>(positions + y * static_cast<Index>(p.positions.y) + x * static_cast<Index>(p.positions.x));
#pragma unroll
        for (int k = 0; k < V; ++k) won |= (winners.v[k] == e ? 1u : 0u) << (4 * k + e);
      }
      W sum[V] = {};
      if (won != 0) add_windows<T, V, Index>(p, task, table, row, column, won, sum);
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

// Totals of the partial sums, a warp of channels a block; the threads of a channel share its parts. Always in one
// order.
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
  PF_SHARED_MEMORY(memory);
  double* sums = reinterpret_cast<double*>(memory);  // [2][threads_y][threads_x]
  const int32_t all = blockDim.x * blockDim.y, mine = threadIdx.y * blockDim.x + threadIdx.x;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x; first < p.channels;
       first += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = first + threadIdx.x;
    double scale = 0, shift = 0;
    for (int64_t i = threadIdx.y; c < p.channels && i < p.parts; i += blockDim.y) {
      scale += p.partial_scale[i * p.channels + c];
      shift += p.partial_shift[i * p.channels + c];
    }
    __syncthreads();  // the sums of the channels before are still being read
    sums[mine] = scale, sums[all + mine] = shift;
    __syncthreads();
    if (threadIdx.y > 0 || c >= p.channels) continue;
    for (int32_t y = 1; y < static_cast<int32_t>(blockDim.y); ++y) {
      scale += sums[y * blockDim.x + threadIdx.x];
      shift += sums[all + y * blockDim.x + threadIdx.x];
    }
    p.grad_scale[c] = static_cast<W>(scale);
    p.grad_shift[c] = static_cast<W>(shift);
  }
}

// --- launch ----------------------------------------------------------------------------------------------------------
// Plans and starts the kernels above. The caller fills maps, samples and sizes; what depends on the plan is filled
// here.

constexpr int64_t kPoolPixels = 8;  // of a strip, for every worker
// The same in the backward with windows of their own, where a table of columns for each channel is made for a strip.
constexpr int64_t kPoolPixelsOfTables = 16;
constexpr int64_t kFewestOfTables = 4;  // of a thread, where there is too little work to fill a GPU

// Dense samples, (levels, n or 1, c or 1, 2).
template <typename T>
void set_samples(PoolArguments<T>& p, const wide_t<T>* samples, int64_t levels, int64_t n, int64_t c) {
  p.count = static_cast<int32_t>(levels);
  p.samples_n = n == 1 ? 0 : c * 2;
  p.samples_c = c == 1 ? 0 : 2;
  for (int64_t l = 0; l < levels; ++l) p.levels[l].samples = samples + l * n * c * 2;
}

// Bytes of shared memory of the backward: sums, where they are wanted, and the table of windows.
template <typename T>
int64_t pool_memory(const PoolArguments<T>& p, const Plan& plan, bool sums) {
  const int64_t threads = int64_t{plan.grid.threads_x} * plan.grid.threads_y;
  const int64_t own = p.samples_c == 0 ? 1 : plan.grid.threads_x;
  return (sums ? 2 * threads * plan.vec * static_cast<int64_t>(sizeof(wide_t<T>)) : 0) +
         (plan.wide ? 0 : p.count * own * p.entries * static_cast<int64_t>(sizeof(uint16_t)));
}

template <typename T>
Plan pool_plan(PoolArguments<T>& p, const Map<T>& touched, bool backward = false) {
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
    level.inverse_y = level.alpha_y > 0 ? 1 / level.alpha_y : 0;
    level.inverse_x = level.alpha_x > 0 ? 1 / level.alpha_x : 0;
  }
  const int64_t pixels = int64_t{p.h} * p.w;
  const bool tables = backward && !shared && inside;  // of each channel
  const int64_t each = tables ? kPoolPixelsOfTables : kPoolPixels;
  const auto lay_out = [&](int v, int32_t most_side_by_side) {
    plan.vec = v;
    plan.grid.threads_x = least(channel_threads(p.channels / v, inside), most_side_by_side);
    p.groups = ceil_div(p.channels / v, plan.grid.threads_x);
    const int64_t maps = p.batch * p.groups;
    const int64_t strip = pixels_of_a_strip(maps, pixels, plan.grid.threads_x, each, tables ? kFewestOfTables : 1);
    p.strips = backward ? strips_of_rows(p.h, pixels, strip) : ceil_div(pixels, strip);
    plan.grid.threads_y = workers(plan.grid.threads_x, ceil_div(pixels, p.strips));
    return p.tasks = p.batch * p.groups * p.strips;
  };
  plan.wide = needs_wide_index(lay_out(vec, kWarp)) || plan.wide;
  if (backward && !plan.wide) {  // the table of windows, of fewer channels where it is large
    const auto fits = [&] {
      // Windows are numbered with 16 bits.
      if (most(p.h, p.w) > 0xffff) return false;
      p.entries = static_cast<int32_t>(p.w + 2 + ceil_div(p.h, p.strips) + 2);
      return pool_memory(p, plan, true) <= kSharedLimit;
    };
    while (!fits() && !plan.wide) {
      const int32_t fewer = shared ? 0 : plan.grid.threads_x / 2;
      plan.wide = fewer == 0 || needs_wide_index(lay_out(vec, fewer));
    }
  }
  if (plan.wide) lay_out(1, kWarp);
  plan.grid.blocks = least(most_blocks(), p.tasks);
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
  pool_plan(p, p.grad_x, true);
  return p.batch * p.strips;
}

template <typename T, typename Launch>
void launch_pool_backward(PoolArguments<T> p, wide_t<T>* grad_scale, wide_t<T>* grad_shift, const Launch& launch) {
  Plan plan = pool_plan(p, p.grad_x, true);
  plan.grid.shared = pool_memory(p, plan, p.partial_scale != nullptr);
  with_plan<T, 2, 4, 8>(plan, [&](auto vec, auto index) {
    launch("pool_backward", pool_backward<T, decltype(vec)::value, decltype(index)>, plan.grid, p);
  });
  if (p.partial_scale != nullptr) {
    const PoolTotals<wide_t<T>> totals{p.partial_scale, p.partial_shift,    grad_scale,
                                       grad_shift,      p.batch * p.strips, p.channels};
    constexpr int32_t kTogether = 16;  // threads of a channel
    const Grid grid{least<int64_t>(1024, ceil_div(p.channels, kWarp)), kWarp, kTogether,
                    2 * static_cast<int64_t>(sizeof(double)) * kWarp * kTogether};
    launch("pool_totals", pool_totals<wide_t<T>>, grid, totals);
  }
}

}  // namespace pyranet_fast::gpu
