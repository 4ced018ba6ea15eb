// Sum of bilinear resizings, and its gradient. Separable: rows are resized horizontally once and kept while they are
// needed, then every output row is one weighted sum of such rows; the backward blends gradient rows first and gathers
// along the row after. Every element is computed by itself in a fixed order, whatever the number of threads.
#include "common/upsample_sum_checks.h"
#include "cpu/host.h"
#include "cpu/upsample_sum_tables.h"

namespace pyranet_fast::cpu {

// Images of one channel (contiguous) or with all channels inside (channels_last) are called planes here.
template <typename T>
struct UpsampleJob {
  using W = wide_t<T>;
  struct Level {
    const T* data;
    int64_t elements;
    Taps<W> rows, columns;
  };
  std::vector<Level> levels;
  int64_t channels, height, width;
  const T* base;
  T* out;

  // Columns of a block: few enough that two resized rows of every level stay in the L1 cache, whole vectors.
  int64_t block() const {
    const int64_t elements = std::max<int64_t>(256, 4096 / static_cast<int64_t>(levels.size()));
    return channels == 1 ? elements / 64 * 64 : std::max<int64_t>(4, elements / channels);
  }
  int64_t blocks() const { return (width + block() - 1) / block(); }
  int64_t row_stride() const { return (std::min(block(), width) * channels + 64 + 15) / 16 * 16; }
};

template <typename T>
struct UpsampleScratch {
  LineAligned<wide_t<T>> rows;  // two resized rows of every level
  LineAligned<T> tail;
  std::vector<int64_t> held;  // which source rows these are
  std::vector<const wide_t<T>*> pointers;
  std::vector<wide_t<T>> weights;
  explicit UpsampleScratch(size_t levels) : held(2 * levels), pointers(2 * levels), weights(2 * levels) {}
};

template <typename T>
struct UpsampleBackwardJob {
  using W = wide_t<T>;
  struct Level {
    T* data;
    Sources<W> rows, columns;
  };
  struct Row {
    int32_t level, row, first;
  };
  std::vector<Level> levels;
  const T* grad;
  int64_t channels, height, width;
  std::vector<Row> order;  // every level's rows by the first gradient row they read: it is read while it is hot

  int64_t most() const {
    int64_t result = 1;
    for (const Level& level : levels) result = std::max(result, level.rows.most);
    return result;
  }

  void sort_rows() {
    for (size_t l = 0; l < levels.size(); ++l) {
      for (int64_t i = 0; i < levels[l].rows.in; ++i) {
        order.push_back({static_cast<int32_t>(l), static_cast<int32_t>(i), levels[l].rows.begin[i]});
      }
    }
    std::stable_sort(order.begin(), order.end(), [](const Row& a, const Row& b) { return a.first < b.first; });
  }

  // Source columns [j0, j1) whose receivers, with their channels, fit the L1 cache; whole vectors.
  static constexpr int64_t kElements = 4096;
  int64_t block_end(const Sources<W>& columns, int64_t j0, int64_t lanes) const {
    if (columns.out * channels <= kElements) return columns.in;
    const int64_t step = channels == 1 ? lanes : 1;
    int64_t j1 = std::min(columns.in, j0 + step);
    while (j1 < columns.in && receivers(columns, j0, std::min(columns.in, j1 + step)) * channels <= kElements) {
      j1 = std::min(columns.in, j1 + step);
    }
    return j1;
  }
  static int64_t receivers(const Sources<W>& columns, int64_t j0, int64_t j1) {
    return columns.begin[j1 - 1] + columns.count[j1 - 1] - columns.begin[j0];
  }
};

}  // namespace pyranet_fast::cpu

#define PF_KERNEL_FILE "cpu/upsample_sum_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

template <typename T>
void run(const UpsampleJob<T>& job, int64_t planes) {
  const int64_t work = std::min(job.block(), job.width) * job.channels * static_cast<int64_t>(job.levels.size());
  const int64_t grain = std::max<int64_t>(1, 32768 / work);
  parallel_for(0, planes * job.blocks() * job.height, grain, [&](int64_t begin, int64_t end) {
    UpsampleScratch<T> scratch(job.levels.size());
    while (begin < end) {
      const int64_t y = begin % job.height, strip = begin / job.height;
      const int64_t rows = std::min(job.height - y, end - begin);
      PF_CHOOSE(upsample_strip<T>)(job, strip / job.blocks(), strip % job.blocks(), y, y + rows, scratch);
      begin += rows;
    }
  });
}

template <typename T>
void run(UpsampleBackwardJob<T>& job, int64_t planes) {
  job.sort_rows();
  const int64_t rows = static_cast<int64_t>(job.order.size());
  const int64_t grain = std::max<int64_t>(1, 16384 / (job.width * job.channels));
  parallel_for(0, planes * rows, grain, [&](int64_t begin, int64_t end) {
    LineAligned<wide_t<T>> scratch;
    std::vector<const T*> pointers(job.most());
    while (begin < end) {
      const int64_t first = begin % rows, count = std::min(rows - first, end - begin);
      PF_CHOOSE(upsample_backward<T>)(job, begin / rows, first, first + count, scratch, pointers);
      begin += count;
    }
  });
}

Tensor upsample_sum(std::vector<Tensor> maps, int64_t height, int64_t width, std::optional<Tensor> base,
                    bool align_corners) {
  check_upsample_sum(maps, height, width, base);
  const bool channels_last = is_channels_last(maps[0]);  // the first map's layout; the others are brought to it
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  for (Tensor& map : maps) map = torch::stable::contiguous(map, format);
  const int64_t n = maps[0].size(0), c = maps[0].size(1);
  Tensor out = empty_nchw(maps[0], {n, c, height, width}, channels_last);
  if (base.has_value()) base = torch::stable::contiguous(*base, format);
  if (out.numel() == 0) return out;
  const int64_t channels = channels_last ? c : 1;
  dispatch_float("upsample_sum: maps", maps[0].scalar_type(), [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    const int64_t lanes = PF_CHOOSE(lanes<W>)();
    UpsampleJob<T> job{{}, channels, height, width, nullptr, write_pointer<T>(out)};
    for (const Tensor& map : maps) {
      job.levels.push_back({read_pointer<T>(map), map.numel(), Taps<W>(map.size(2), height, align_corners, lanes),
                            Taps<W>(map.size(3), width, align_corners, lanes)});
    }
    if (base.has_value()) job.base = read_pointer<T>(*base);
    run(job, channels_last ? n : n * c);
  });
  return out;
}

std::vector<Tensor> upsample_sum_backward(Tensor grad, std::vector<int64_t> sizes, bool align_corners) {
  check_upsample_sum_backward(grad, sizes);
  grad = dense(grad);
  const bool channels_last = is_channels_last(grad);
  const int64_t n = grad.size(0), c = grad.size(1);
  std::vector<Tensor> grads;
  for (size_t l = 0; l < sizes.size(); l += 2) {
    grads.push_back(empty_nchw(grad, {n, c, sizes[l], sizes[l + 1]}, channels_last));
  }
  if (n * c == 0) return grads;
  const int64_t channels = channels_last ? c : 1;
  dispatch_float("upsample_sum: grad", grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    const int64_t lanes = PF_CHOOSE(lanes<W>)();
    UpsampleBackwardJob<T> job{{}, read_pointer<T>(grad), channels, grad.size(2), grad.size(3), {}};
    for (size_t l = 0; l < grads.size(); ++l) {
      job.levels.push_back({write_pointer<T>(grads[l]),
                            Sources<W>(Taps<W>(sizes[2 * l], job.height, align_corners, lanes), lanes),
                            Sources<W>(Taps<W>(sizes[2 * l + 1], job.width, align_corners, lanes), lanes)});
    }
    run(job, channels_last ? n : n * c);
  });
  return grads;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("upsample_sum", TORCH_BOX(&upsample_sum));
  m.impl("upsample_sum_backward", TORCH_BOX(&upsample_sum_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
