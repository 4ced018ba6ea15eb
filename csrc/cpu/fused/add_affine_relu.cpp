// The end of a residual unit and the beginning of the next ones, in one pass: a sum (of a map and of another that may
// have half its size), and relu(sum * scale + shift) for every folded batch norm that reads it. For inference.
#include "common/add_affine_relu_checks.h"
#include "cpu/fused/add_affine_relu_job.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/fused/add_affine_relu_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

template <typename T>
void run(const Tensor& x, const std::optional<Tensor>& other, const Tensor& scale, const Tensor& shift,
         std::vector<Tensor>& results, bool keep, bool half) {
  using W = wide_t<T>;
  AddAffineJob<T> job{x.size(1), half, scale.const_data_ptr<W>(), shift.const_data_ptr<W>(), nullptr, {}};
  for (Tensor& result : results) job.outs.push_back(write_pointer<T>(result));
  if (keep) {
    job.sum = job.outs.front();
    job.outs.erase(job.outs.begin());
  }
  const int64_t h = results[0].size(2), w = results[0].size(3), row = w * job.channels;
  const T* px = read_pointer<T>(x);
  const T* po = other.has_value() ? read_pointer<T>(*other) : nullptr;
  parallel_for(0, results[0].size(0) * h, std::max<int64_t>(1, 16384 / row), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t source = half ? (r / h * (h / 2) + r % h / 2) * (row / 2) : r * row;
      PF_CHOOSE(add_affine_relu_row<T>)(job, px + source, po == nullptr ? nullptr : po + r * row, r * row, w);
    }
  });
}

std::vector<Tensor> add_affine_relu(Tensor x, std::optional<Tensor> other, Tensor scale, Tensor shift, bool keep) {
  const bool half = check_add_affine_relu(x, other, scale, shift, keep);
  const int64_t n = x.size(0), c = x.size(1), times = half ? 2 : 1, h = times * x.size(2), w = times * x.size(3);
  if (other.has_value()) other = torch::stable::contiguous(*other, MemoryFormat::ChannelsLast);
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  scale = torch::stable::contiguous(scale), shift = torch::stable::contiguous(shift);
  const int64_t count = scale.size(0) + (keep ? 1 : 0);
  std::vector<Tensor> results;
  for (int64_t i = 0; i < count; ++i) results.push_back(empty_nchw(x, {n, c, h, w}, true));
  if (results[0].numel() == 0) return results;
  dispatch_float("add_affine_relu: x", x.scalar_type(),
                 [&](auto type) { run<decltype(type)>(x, other, scale, shift, results, keep, half); });
  return results;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) { m.impl("add_affine_relu", TORCH_BOX(&add_affine_relu)); }

}  // namespace
}  // namespace pyranet_fast::cpu
