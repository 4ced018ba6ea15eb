// Fractional max-pooling of one map to several sizes, forward and backward. The method: the kernel file's head.
#include <new>

#include "common/fractional_max_pool_pyramid_checks.h"
#include "cpu/fractional_max_pool_pyramid_job.h"
#include "cpu/host.h"

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

// --- operands as the kernels take them, memory, threads --------------------------------------------------------------

constexpr const char* kName = "fractional_max_pool_pyramid";

// Calls f with a value of the C++ type of a dtype.
template <typename F>
void for_dtype(ScalarType dtype, const F& f) {
  dispatch_float(kName, dtype, f);
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

// A map's slabs.
template <typename T>
class Slabs {
 public:
  Slabs(const Tensor& x, bool channels_last) {
    const auto sizes = x.sizes(), strides = x.strides();
    T* data;
    if constexpr (std::is_const_v<T>) {
      data = static_cast<T*>(x.const_data_ptr());
    } else {
      data = static_cast<T*>(x.mutable_data_ptr());
    }
    map_ = {data, sizes[2], sizes[3], strides[2], strides[3], strides[1]};
    channels_ = channels_last ? 1 : sizes[1];
    sample_ = strides[0];
  }

  PoolMap<T> operator[](int64_t slab) const {
    PoolMap<T> map = map_;
    map.data += slab / channels_ * sample_ + slab % channels_ * map.channel;
    return map;
  }

 private:
  PoolMap<T> map_;
  int64_t channels_, sample_;
};

template <typename T>
std::vector<Slabs<T>> slabs_of(const std::vector<Tensor>& maps, bool channels_last) {
  std::vector<Slabs<T>> result;
  for (const Tensor& map : maps) result.emplace_back(map, channels_last);
  return result;
}

// Samples in the precision of the windows, dense: (levels, n, c, 2), n and c as in `samples`.
template <typename W>
struct Samples {
  int64_t n, c;
  std::vector<W> values;

  explicit Samples(const Tensor& samples) : n(samples.size(1)), c(samples.size(2)), values(samples.numel()) {
    const Tensor dense_samples = torch::stable::contiguous(samples);
    dispatch_wide(samples, [&](auto type) {
      std::copy_n(read_pointer<decltype(type)>(dense_samples), values.size(), values.begin());
    });
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
    const Tensor dense_vector = torch::stable::contiguous(*vector);
    const int64_t repeats = x.channels_last ? 1 : kRepeats;
    values.resize(x.channels_last ? lanes : x.c * kRepeats, W(0));
    for_dtype(vector->scalar_type(), [&](auto t) {
      const auto* data = read_pointer<decltype(t)>(dense_vector);
      for (int64_t i = 0; i < x.c * repeats; ++i) values[i] = static_cast<W>(load(data[i / repeats]));
    });
  }

  const W* of(const Layout& x, int64_t slab) const {
    return values.empty() ? nullptr : values.data() + (x.channels_last ? 0 : slab % x.c * kRepeats);
  }

 private:
  static constexpr int64_t kRepeats = 16;  // a vector of one channel's value
};

// The starts of a slab's windows, in one thread's memory.
template <typename W>
class Windows {
 public:
  Windows(const Layout& layout, const PoolShape& shape, const std::vector<int64_t>& sizes, const Samples<W>& samples)
      : shape(shape), starts(shape.levels), layout_(layout), sizes_(sizes), samples_(samples) {}

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

 protected:
  void divide(PoolScratch& scratch) {
    const bool by_lane = layout_.channels_last && samples_.c > 1;
    for (int64_t l = 0; l < shape.levels; ++l) {
      const int64_t h = sizes_[2 * l], w = sizes_[2 * l + 1];
      PoolStarts<W>& start = starts[l];
      start.row_low = scratch.take<int32_t>(h);
      start.column_low = scratch.take<int32_t>(w);
      start.row_high = by_lane ? scratch.take<int32_t>(h) : start.row_low;
      start.column_high = by_lane ? scratch.take<int32_t>(w) : start.column_low;
      start.row_distance = by_lane ? scratch.take<integer_t<W>>(h * shape.lanes) : nullptr;
      start.column_distance = by_lane ? scratch.take<integer_t<W>>(w * shape.lanes) : nullptr;
      start.column_mask = scratch.take<uint16_t>((layout_.w + 15) / 16);
    }
    lane_samples_ = scratch.take<W>(2 * shape.lanes);
  }

 private:
  const Layout& layout_;
  const std::vector<int64_t>& sizes_;
  const Samples<W>& samples_;
  W* lane_samples_ = nullptr;
  int64_t current_ = -1;
};

// One thread's memory: the windows, and the kernels' buffers.
template <typename T>
class Worker : public Windows<wide_t<T>> {
 public:
  using W = wide_t<T>;

  Worker(const Layout& layout, const PoolShape& shape, const std::vector<int64_t>& sizes, const Samples<W>& samples)
      : Windows<W>(layout, shape, sizes, samples), out(shape.levels), grads(shape.levels) {
    PoolScratch count{0};
    divide(count);
    memory_.reset(static_cast<char*>(::operator new(count.at + 64, std::align_val_t(64))));
    PoolScratch scratch{reinterpret_cast<uintptr_t>(memory_.get())};
    divide(scratch);
  }

  std::vector<PoolMap<T>> out;          // of the slab: for the caller
  std::vector<PoolMap<const T>> grads;  // the same
  PoolBuffers<T, W> buffers;

 private:
  void divide(PoolScratch& scratch) {
    Windows<W>::divide(scratch);
    buffers = pool_buffers<T, W>(this->shape, scratch);
  }

  struct Free {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
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

// --- the operators ---------------------------------------------------------------------------------------------------

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// With larger maps rounding could make window starts differ by more than kPoolMostRows.
constexpr int64_t kMostPoolExtent = (int64_t{1} << 22) - 1;

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
  const Slabs<const T> ins(x, layout.channels_last);
  const auto outs = slabs_of<T>(values, layout.channels_last);
  for_each_band<T>(
      layout, shape, sizes, samples, layout.h - 1, [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
        worker.begin(slab, 1);
        for (int64_t l = 0; l < levels; ++l) worker.out[l] = outs[l][slab];
        const PoolMap<const T> in = ins[slab];
        const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
        uint8_t* position =
            positions == nullptr ? nullptr : positions + slab * layout.interleaved() * layout.h * layout.w;
        const PoolShape& s = worker.shape;
        const PoolStarts<W>* starts = worker.starts.data();
        if (!layout.channels_last) {
          PF_CHOOSE(pool_plane<T>)(s, starts, in, worker.out.data(), affine, position, y0, y1, worker.buffers);
        } else {
          PF_CHOOSE(pool_sample<T>)(s, starts, in, worker.out.data(), affine, position, y0, y1, worker.buffers);
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
  const auto from = slabs_of<const T>(grads, layout.channels_last);
  const Slabs<const T> ins(x.has_value() ? *x : grads[0], layout.channels_last);
  const Slabs<T> tos(grad_x, layout.channels_last);
  const uint8_t* winners = read_pointer<uint8_t>(positions);
  // Sums of every row, added up below in a fixed order: the same bits with any number of threads.
  const int64_t c = layout.interleaved(), sums_of_slab = 2 * layout.h * c;
  std::vector<W> sums(scale.has_value() || shift.has_value() ? layout.slabs() * sums_of_slab : 0);
  for_each_band<T>(layout, shape, sizes, samples, layout.h,
                   [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
                     worker.begin(slab, 2);
                     for (int64_t l = 0; l < levels; ++l) worker.grads[l] = from[l][slab];
                     const PoolMap<const T> in = x.has_value() ? ins[slab] : PoolMap<const T>{};
                     const PoolMap<T> to = tos[slab];
                     const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
                     const uint8_t* position = winners + slab * c * layout.h * layout.w;
                     W* sum = sums.empty() ? nullptr : sums.data() + slab * sums_of_slab;
                     const PoolShape& s = worker.shape;
                     const PoolStarts<W>* starts = worker.starts.data();
                     if (!layout.channels_last) {
                       PF_CHOOSE(pool_plane_backward<T>)
                       (s, starts, worker.grads.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
                     } else {
                       PF_CHOOSE(pool_sample_backward<T>)
                       (s, starts, worker.grads.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
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

std::tuple<std::vector<Tensor>, Tensor> pool(const Tensor& x, const Tensor& samples, Sizes output_sizes,
                                             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                                             bool relu, bool with_positions) {
  const std::vector<int64_t> sizes(output_sizes.begin(), output_sizes.end());
  const int64_t levels = sizes.size() / 2;
  check_pool(x, samples, sizes, scale, shift, kMostPoolExtent);
  const bool channels_last = is_channels_last(x);
  std::vector<Tensor> values;
  for (int64_t l = 0; l < levels; ++l) {
    values.push_back(empty_nchw(x, {x.size(0), x.size(1), sizes[2 * l], sizes[2 * l + 1]}, channels_last));
  }
  Tensor positions = empty_nchw(x, with_positions ? sizes_of(x) : std::vector<int64_t>{0, 0, 0, 0},
                                with_positions && channels_last, ScalarType::Byte);
  if (x.numel() > 0 && levels > 0) {
    uint8_t* to = with_positions ? write_pointer<uint8_t>(positions) : nullptr;
    for_dtype(x.scalar_type(),
              [&](auto t) { forward<decltype(t)>(x, samples, sizes, scale, shift, relu, values, to); });
  }
  return {values, positions};
}

template <typename T>
void fill_totals(const std::vector<double>& totals, Tensor& to) {
  T* data = write_pointer<T>(to);
  for (size_t i = 0; i < totals.size(); ++i) data[i] = store<T>(static_cast<wide_t<T>>(totals[i]));
}

Tensor channel_gradient(const Tensor& like, const std::optional<Tensor>& vector, const std::vector<double>& totals) {
  const int64_t n = vector.has_value() ? static_cast<int64_t>(totals.size()) : 0;
  Tensor grad = torch::stable::new_empty(like, {n}, vector.has_value() ? vector->scalar_type() : like.scalar_type());
  if (n > 0) for_dtype(vector->scalar_type(), [&](auto t) { fill_totals<decltype(t)>(totals, grad); });
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(const std::vector<Tensor>& grads, const Tensor& positions,
                                                 const Tensor& samples, const std::optional<Tensor>& x,
                                                 const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                                                 bool relu) {
  check_pool_backward(grads, positions, samples, x, scale, shift, relu, kMostPoolExtent);
  const ScalarType dtype = grads[0].scalar_type();
  const Tensor where = dense(positions);
  Tensor grad_x = empty_nchw(where, sizes_of(where), is_channels_last(where), dtype);
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
