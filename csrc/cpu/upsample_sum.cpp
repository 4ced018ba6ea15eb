// Sum of bilinear resizings, and its gradient. Separable: rows are resized horizontally once and kept while they are
// needed, then every output row is one weighted sum of such rows; the backward blends gradient rows first and gathers
// along the row after. Every element is computed by itself in a fixed order, whatever the number of threads.
#include "common/upsample_sum_checks.h"
#include "cpu/host.h"
#include "cpu/upsample_sum_job.h"

#define PF_KERNEL_FILE "cpu/upsample_sum_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

template <typename T>
void run(const UpsampleJob<wide_t<T>>& job, int64_t planes) {
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
void run(const UpsampleBackwardJob<wide_t<T>>& job, int64_t planes) {
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
  const auto resize = [&](auto type) {
    using W = decltype(type);
    const int64_t lanes = PF_CHOOSE(lanes<W>)();
    UpsampleJob<W> job{{}, channels, height, width, nullptr, out.mutable_data_ptr()};
    job.levels.reserve(maps.size());
    for (const Tensor& map : maps) {
      job.levels.push_back({map.const_data_ptr(), map.numel(), Taps<W>(map.size(2), height, align_corners, lanes),
                            Taps<W>(map.size(3), width, align_corners, lanes)});
    }
    if (base.has_value()) job.base = base->const_data_ptr();
    dispatch_narrow<W>(out, [&](auto t) { run<decltype(t)>(job, channels_last ? n : n * c); });
  };
  check_float("upsample_sum: maps", maps[0].scalar_type());
  dispatch_wide(out, resize);
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
  const auto resize = [&](auto type) {
    using W = decltype(type);
    const int64_t lanes = PF_CHOOSE(lanes<W>)();
    UpsampleBackwardJob<W> job{{}, grad.const_data_ptr(), channels, grad.size(2), grad.size(3), {}};
    job.levels.reserve(grads.size());
    for (size_t l = 0; l < grads.size(); ++l) {
      job.levels.push_back({grads[l].mutable_data_ptr(),
                            Sources<W>(Taps<W>(sizes[2 * l], job.height, align_corners, lanes), lanes),
                            Sources<W>(Taps<W>(sizes[2 * l + 1], job.width, align_corners, lanes), lanes)});
    }
    job.sort_rows();
    dispatch_narrow<W>(grad, [&](auto t) { run<decltype(t)>(job, channels_last ? n : n * c); });
  };
  check_float("upsample_sum: grad", grad.scalar_type());
  dispatch_wide(grad, resize);
  return grads;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("upsample_sum", TORCH_BOX(&upsample_sum));
  m.impl("upsample_sum_backward", TORCH_BOX(&upsample_sum_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
