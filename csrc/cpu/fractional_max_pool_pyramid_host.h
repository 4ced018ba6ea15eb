// The host side of the pool, apart from the operators themselves: operands as the kernels take them, memory, threads.
// Part of fractional_max_pool_pyramid.cpp.
#pragma once

namespace pyranet_fast::cpu {
namespace {

using torch::stable::parallel_for;

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
      : shape(shape),
        starts(shape.levels),
        out(shape.levels),
        grads(shape.levels),
        layout_(layout),
        sizes_(sizes),
        samples_(samples) {
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
  std::vector<PoolMap<T>> out;          // of the slab: for the caller
  std::vector<PoolMap<const T>> grads;  // the same
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

}  // namespace
}  // namespace pyranet_fast::cpu
