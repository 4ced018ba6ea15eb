// Fractional max-pooling of one map to several sizes, forward and backward. The method: the kernel file's head.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/checks.h"
#include "common/window.h"
#include "cpu/convert.h"
#include "cpu/fractional_max_pool_pyramid.h"

// x * scale + shift is rounded twice, as PyTorch does: which element of a window wins, and which passes the ReLU,
// must not depend on the instruction set.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define PF_KERNEL_FILE "cpu/fractional_max_pool_pyramid_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

using torch::stable::parallel_for;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

constexpr const char* kName = "fractional_max_pool_pyramid";

// Calls f with a value of the C++ type of a dtype.
template <typename F>
void for_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    default:
      STD_TORCH_CHECK(false, kName, ": float32, float64, bfloat16 and float16 are accepted");
  }
}

void check_shapes(const Tensor& like, const Tensor& samples, int64_t levels) {
  STD_TORCH_CHECK(like.dim() == 4, kName, ": x must have 4 dimensions");
  STD_TORCH_CHECK(like.size(2) < (1 << 22) && like.size(3) < (1 << 22), kName, ": x must be less than 2^22 wide and high");
  STD_TORCH_CHECK(
      samples.dim() == 4 && samples.size(0) == levels && samples.size(3) == 2 &&
          (samples.size(1) == like.size(0) || samples.size(1) == 1) &&
          (samples.size(2) == like.size(1) || samples.size(2) == 1),
      kName, ": samples must be (levels, N or 1, C or 1, 2)");
}

struct Layout {
  bool channels_last;
  int64_t n, c, h, w;
  int64_t slabs() const { return channels_last ? n : n * c; }
  int64_t interleaved() const { return channels_last ? c : 1; }
};

Layout layout_of(const Tensor& x) { return {is_channels_last(x), x.size(0), x.size(1), x.size(2), x.size(3)}; }

// Few channels: vectors of 8, else of 16.
PoolShape shape_of(const Layout& x, int64_t levels) {
  const int64_t vector = x.c > 8 ? 16 : 8;
  if (x.channels_last) return {x.c, x.h, x.w, (x.c + vector - 1) / vector * vector, levels, kPoolMostRows};
  return {1, x.h, x.w, 1, levels, std::max<int64_t>(1, 1024 / x.w)};
}

template <typename T>
PoolMap<T> map_of(const Tensor& x, bool channels_last, int64_t slab) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t c = sizes[1];
  const int64_t at = channels_last ? slab * strides[0] : slab / c * strides[0] + slab % c * strides[1];
  using Raw = std::remove_const_t<T>;
  T* data;
  if constexpr (std::is_const_v<T>) {
    data = static_cast<const Raw*>(x.const_data_ptr());
  } else {
    data = static_cast<Raw*>(x.mutable_data_ptr());
  }
  return {data + at, sizes[2], sizes[3], strides[2], strides[3], strides[1]};
}

// Samples in the precision of the windows, dense: (levels, n, c, 2), n and c as in `samples`.
template <typename W>
struct Samples {
  int64_t n, c;
  std::vector<W> values;

  explicit Samples(const Tensor& samples) : n(samples.size(1)), c(samples.size(2)), values(samples.numel()) {
    const Tensor dense_samples = torch::stable::contiguous(samples);
    if (samples.scalar_type() == ScalarType::Double) {
      std::copy_n(static_cast<const double*>(dense_samples.const_data_ptr()), values.size(), values.begin());
    } else {
      std::copy_n(static_cast<const float*>(dense_samples.const_data_ptr()), values.size(), values.begin());
    }
  }

  W at(int64_t level, int64_t sample, int64_t channel, int64_t axis) const {
    return values[((level * n + (n > 1 ? sample : 0)) * c + (c > 1 ? channel : 0)) * 2 + axis];
  }
};

// scale or shift as the kernels read it, see PoolAffine; null where there is none.
template <typename W>
struct ChannelVector {
  std::vector<W> values;

  ChannelVector(const std::optional<Tensor>& vector, const Layout& x, int64_t lanes) {
    if (!vector.has_value()) return;
    STD_TORCH_CHECK(vector->dim() == 1 && vector->size(0) == x.c, kName, ": scale and shift must be (C,)");
    const Tensor dense_vector = torch::stable::contiguous(*vector);
    values.resize(x.channels_last ? lanes : x.c * kRepeats, W(0));
    for_dtype(vector->scalar_type(), [&](auto t) {
      const auto* data = static_cast<const decltype(t)*>(dense_vector.const_data_ptr());
      for (int64_t i = 0; i < x.c; ++i) {
        const W value = static_cast<W>(load(data[i]));
        if (x.channels_last) {
          values[i] = value;
        } else {
          std::fill_n(values.begin() + i * kRepeats, kRepeats, value);
        }
      }
    });
  }

  const W* of(const Layout& x, int64_t slab) const {
    return values.empty() ? nullptr : values.data() + (x.channels_last ? 0 : slab % x.c * kRepeats);
  }

 private:
  static constexpr int64_t kRepeats = 16;  // a vector of one channel's value
};

// One thread's memory: the starts of a slab's windows, and the kernels' buffers.
template <typename T>
class Worker {
 public:
  using W = wide_t<T>;

  Worker(const Layout& layout, const PoolShape& shape, const std::vector<int64_t>& sizes, const Samples<W>& samples)
      : shape(shape), starts(shape.levels), layout_(layout), sizes_(sizes), samples_(samples) {
    PoolScratch count{0};
    divide(count);
    memory_.reset(static_cast<char*>(::operator new(count.at + 64, std::align_val_t(64))));
    PoolScratch scratch{reinterpret_cast<uintptr_t>(memory_.get())};
    divide(scratch);
  }

  // Prepares for a slab; kept while the windows are the same.
  void begin(int64_t slab, int64_t more_rows) {
    const int64_t n = layout_.channels_last ? slab : slab / layout_.c;
    const int64_t c = layout_.channels_last || samples_.c == 1 ? 0 : slab % layout_.c;
    const int64_t windows = (samples_.n > 1 ? n : 0) * samples_.c + c;
    if (windows == current_) return;
    current_ = windows;
    int64_t spread = 0;
    for (int64_t l = 0; l < shape.levels; ++l) {
      PoolStarts<W>& start = starts[l];
      const int64_t h = sizes_[2 * l], w = sizes_[2 * l + 1];
      if (start.row_distance == nullptr) {
        PF_CHOOSE(shared_starts<W>)(layout_.w, w, samples_.at(l, n, c, 0), start.column_low);
        start.increasing = PF_CHOOSE(mask_starts)(start.column_low, w, layout_.w, start.column_mask);
        PF_CHOOSE(shared_starts<W>)(layout_.h, h, samples_.at(l, n, c, 1), start.row_low);
        continue;
      }
      for (int64_t k = 0; k < shape.lanes; ++k) {
        lane_samples_[k] = window_sample(samples_.at(l, n, k < shape.channels ? k : 0, 0));
        lane_samples_[shape.lanes + k] = window_sample(samples_.at(l, n, k < shape.channels ? k : 0, 1));
      }
      PF_CHOOSE(starts_by_lane<W>)
      (layout_.w, w, lane_samples_, shape.lanes, start.column_low, start.column_high, start.column_distance);
      PF_CHOOSE(starts_by_lane<W>)
      (layout_.h, h, lane_samples_ + shape.lanes, shape.lanes, start.row_low, start.row_high, start.row_distance);
      for (int64_t i = 0; i < h; ++i) spread = std::max<int64_t>(spread, start.row_high[i] - start.row_low[i]);
    }
    if (layout_.channels_last) shape.rows = spread + more_rows;
  }

  PoolShape shape;
  std::vector<PoolStarts<W>> starts;
  PoolBuffers<T, W> buffers;

 private:
  void divide(PoolScratch& scratch) {
    const bool by_lane = layout_.channels_last && samples_.c > 1;
    for (int64_t l = 0; l < shape.levels; ++l) {
      const int64_t h = sizes_[2 * l], w = sizes_[2 * l + 1];
      PoolStarts<W>& start = starts[l];
      start.row_low = scratch.take<int32_t>(h);
      start.column_low = scratch.take<int32_t>(w);
      start.row_high = by_lane ? scratch.take<int32_t>(h) : start.row_low;
      start.column_high = by_lane ? scratch.take<int32_t>(w) : start.column_low;
      start.row_distance = by_lane ? scratch.take<pool_integer_t<W>>(h * shape.lanes) : nullptr;
      start.column_distance = by_lane ? scratch.take<pool_integer_t<W>>(w * shape.lanes) : nullptr;
      start.column_mask = scratch.take<uint16_t>((layout_.w + 15) / 16);
    }
    lane_samples_ = scratch.take<W>(2 * shape.lanes);
    buffers = pool_buffers<T, W>(shape, scratch);
  }

  struct Free {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  const Layout& layout_;
  const std::vector<int64_t>& sizes_;
  const Samples<W>& samples_;
  W* lane_samples_ = nullptr;
  int64_t current_ = -1;
  std::unique_ptr<char, Free> memory_;
};

// Calls work(worker, slab, first row, last row + 1) for all slabs, each cut into bands of rows where there are
// fewer slabs than threads would like.
template <typename T, typename Work>
void for_each_band(const Layout& layout, const PoolShape& shape, const std::vector<int64_t>& sizes,
                   const Samples<wide_t<T>>& samples, int64_t rows, const Work& work) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slabs = layout.slabs();
  int64_t bands = 1;
  if (threads > 1 && slabs < 2 * threads) {
    bands = std::clamp<int64_t>(rows / 8, 1, (2 * threads + slabs - 1) / slabs);
  }
  const int64_t elements = shape.h * shape.w * shape.channels / bands;
  parallel_for(0, slabs * bands, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements)),
               [&](int64_t begin, int64_t end) {
                 Worker<T> worker(layout, shape, sizes, samples);
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t band = i % bands;
                   work(worker, i / bands, rows * band / bands, rows * (band + 1) / bands);
                 }
               });
}

template <typename T>
void forward(const Tensor& x, const Tensor& samples_tensor, const std::vector<int64_t>& sizes,
             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, bool relu,
             std::vector<Tensor>& values, uint8_t* positions) {
  using W = wide_t<T>;
  const Layout layout = layout_of(x);
  const int64_t levels = values.size();
  const PoolShape shape = shape_of(layout, levels);
  const Samples<W> samples(samples_tensor);
  const ChannelVector<W> scales(scale, layout, shape.lanes), shifts(shift, layout, shape.lanes);
  for_each_band<T>(
      layout, shape, sizes, samples, layout.h - 1, [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
        worker.begin(slab, 1);
        std::vector<PoolMap<T>> out;
        for (const Tensor& value : values) out.push_back(map_of<T>(value, layout.channels_last, slab));
        const auto in = map_of<const T>(x, layout.channels_last, slab);
        const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
        uint8_t* position =
            positions == nullptr ? nullptr : positions + slab * layout.interleaved() * layout.h * layout.w;
        const PoolShape& s = worker.shape;
        const PoolStarts<W>* starts = worker.starts.data();
        if (!layout.channels_last) {
          PF_CHOOSE(pool_plane<T>)(s, starts, in, out.data(), affine, position, y0, y1, worker.buffers);
        } else if (shape.lanes == 8) {
          PF_CHOOSE(pool_sample<8, T>)(s, starts, in, out.data(), affine, position, y0, y1, worker.buffers);
        } else {
          PF_CHOOSE(pool_sample<16, T>)(s, starts, in, out.data(), affine, position, y0, y1, worker.buffers);
        }
      });
}

template <typename T>
void backward(const std::vector<Tensor>& grads, const Tensor& positions, const Tensor& samples_tensor,
              const std::optional<Tensor>& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
              bool relu, Tensor& grad_x, std::vector<double>& total_scale, std::vector<double>& total_shift) {
  using W = wide_t<T>;
  const Layout layout = layout_of(positions);
  const int64_t levels = grads.size();
  const PoolShape shape = shape_of(layout, levels);
  std::vector<int64_t> sizes;
  for (const Tensor& grad : grads) sizes.insert(sizes.end(), {grad.size(2), grad.size(3)});
  const Samples<W> samples(samples_tensor);
  const ChannelVector<W> scales(scale, layout, shape.lanes), shifts(shift, layout, shape.lanes);
  // Sums of every row, added up below in a fixed order: the same bits with any number of threads.
  const int64_t c = layout.interleaved(), sums_of_slab = 2 * layout.h * c;
  std::vector<W> sums(scale.has_value() || shift.has_value() ? layout.slabs() * sums_of_slab : 0);
  for_each_band<T>(
      layout, shape, sizes, samples, layout.h, [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
        worker.begin(slab, 2);
        std::vector<PoolMap<const T>> from;
        for (const Tensor& grad : grads) from.push_back(map_of<const T>(grad, layout.channels_last, slab));
        const auto in = x.has_value() ? map_of<const T>(*x, layout.channels_last, slab) : PoolMap<const T>{};
        const auto to = map_of<T>(grad_x, layout.channels_last, slab);
        const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
        const uint8_t* position =
            static_cast<const uint8_t*>(positions.const_data_ptr()) + slab * c * layout.h * layout.w;
        W* sum = sums.empty() ? nullptr : sums.data() + slab * sums_of_slab;
        const PoolShape& s = worker.shape;
        const PoolStarts<W>* starts = worker.starts.data();
        if (!layout.channels_last) {
          PF_CHOOSE(pool_plane_backward<T>)
          (s, starts, from.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
        } else if (shape.lanes == 8) {
          PF_CHOOSE(pool_sample_backward<8, T>)
          (s, starts, from.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
        } else {
          PF_CHOOSE(pool_sample_backward<16, T>)
          (s, starts, from.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
        }
      });
  total_shift.assign(layout.c, 0.0);
  total_scale.assign(layout.c, 0.0);
  for (int64_t slab = 0; slab < (sums.empty() ? 0 : layout.slabs()); ++slab) {
    const W* sum = sums.data() + slab * sums_of_slab;
    for (int64_t y = 0; y < layout.h; ++y) {
      for (int64_t k = 0; k < c; ++k) {
        const int64_t channel = layout.channels_last ? k : slab % layout.c;
        total_shift[channel] += sum[2 * y * c + k];
        total_scale[channel] += sum[(2 * y + 1) * c + k];
      }
    }
  }
}

std::tuple<std::vector<Tensor>, Tensor> pool(
    const Tensor& x, const Tensor& samples, Sizes output_sizes, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, bool relu, bool with_positions) {
  const std::vector<int64_t> sizes(output_sizes.begin(), output_sizes.end());
  const int64_t levels = sizes.size() / 2;
  check_shapes(x, samples, levels);
  const bool channels_last = is_channels_last(x);
  std::vector<Tensor> values;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t h = sizes[2 * l], w = sizes[2 * l + 1];
    STD_TORCH_CHECK(h >= 1 && w >= 1 && h < x.size(2) && w < x.size(3), kName,
                    ": output sizes must be between 1 and the input size - 1");
    values.push_back(empty_nchw(x, {x.size(0), x.size(1), h, w}, channels_last, x.scalar_type()));
  }
  const std::vector<int64_t> all{x.size(0), x.size(1), x.size(2), x.size(3)};
  Tensor positions = empty_nchw(x, with_positions ? all : std::vector<int64_t>{0, 0, 0, 0},
                                with_positions && channels_last, ScalarType::Byte);
  if (x.numel() > 0 && levels > 0) {
    uint8_t* to = with_positions ? static_cast<uint8_t*>(positions.mutable_data_ptr()) : nullptr;
    for_dtype(x.scalar_type(), [&](auto t) { forward<decltype(t)>(x, samples, sizes, scale, shift, relu, values, to); });
  }
  return {values, positions};
}

template <typename T>
void fill_totals(const std::vector<double>& totals, Tensor& to) {
  T* data = static_cast<T*>(to.mutable_data_ptr());
  for (size_t i = 0; i < totals.size(); ++i) data[i] = store<T>(static_cast<wide_t<T>>(totals[i]));
}

Tensor channel_gradient(const Tensor& like, const std::optional<Tensor>& vector, const std::vector<double>& totals) {
  const int64_t n = vector.has_value() ? static_cast<int64_t>(totals.size()) : 0;
  Tensor grad = torch::stable::new_empty(like, {n}, vector.has_value() ? vector->scalar_type() : like.scalar_type());
  if (n > 0) for_dtype(vector->scalar_type(), [&](auto t) { fill_totals<decltype(t)>(totals, grad); });
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(
    const std::vector<Tensor>& grads, const Tensor& positions, const Tensor& samples, const std::optional<Tensor>& x,
    const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, bool relu) {
  STD_TORCH_CHECK(!grads.empty(), kName, "_backward: grads must not be empty");
  check_shapes(positions, samples, grads.size());
  STD_TORCH_CHECK(x.has_value() || !(scale.has_value() || shift.has_value() || relu), kName,
                  "_backward: x is needed where scale, shift or relu is given");
  const ScalarType dtype = grads[0].scalar_type();
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(grad.scalar_type() == dtype && grad.dim() == 4 && grad.size(0) == positions.size(0) &&
                        grad.size(1) == positions.size(1) && grad.size(2) >= 1 && grad.size(3) >= 1 &&
                        grad.size(2) < positions.size(2) && grad.size(3) < positions.size(3),
                    kName, "_backward: grads must be (N, C, h, w) of one dtype");
  }
  STD_TORCH_CHECK(!x.has_value() || (x->scalar_type() == dtype && x->numel() == positions.numel()), kName,
                  "_backward: x must have the shape of positions and the gradients' dtype");
  const Tensor where = dense(positions);
  const std::vector<int64_t> all{where.size(0), where.size(1), where.size(2), where.size(3)};
  Tensor grad_x = empty_nchw(where, all, is_channels_last(where), dtype);
  std::vector<double> total_scale(where.size(1), 0.0), total_shift(where.size(1), 0.0);
  if (where.numel() > 0) {
    for_dtype(dtype, [&](auto t) {
      backward<decltype(t)>(grads, where, samples, x, scale, shift, relu, grad_x, total_scale, total_shift);
    });
  }
  return {grad_x, channel_gradient(grad_x, scale, total_scale), channel_gradient(grad_x, shift, total_shift)};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("fractional_max_pool_pyramid", TORCH_BOX(&pool));
  m.impl("fractional_max_pool_pyramid_backward", TORCH_BOX(&pool_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
