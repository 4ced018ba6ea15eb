// Operator add_affine_relu on CUDA tensors.
#include "cuda/add_affine_relu.cuh"

#include "common/add_affine_relu_checks.h"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

std::vector<Tensor> add_affine_relu(Tensor x, std::optional<Tensor> other, Tensor scale, Tensor shift, bool keep) {
  const bool half = check_add_affine_relu(x, other, scale, shift, keep);
  const Launcher launch(x);
  const int64_t outputs = scale.size(0);
  const std::vector<int64_t> sizes = sizes_of(other.has_value() ? *other : x);
  std::vector<Tensor> results;
  for (int64_t i = 0; i < outputs + (keep ? 1 : 0); ++i) results.push_back(empty_nchw(x, sizes, true));
  if (results[0].numel() == 0) return results;
  scale = torch::stable::contiguous(scale), shift = torch::stable::contiguous(shift);
  dispatch_float("add_affine_relu: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    AddAffineArguments<T> p{};
    p.x = read_map<T>(x), p.half = half;
    if (other.has_value()) p.other = read_map<T>(*other);
    if (keep) p.sum = write_map<T>(results[0]);
    p.height = static_cast<int32_t>(sizes[2]), p.width = static_cast<int32_t>(sizes[3]);
    p.batch = sizes[0], p.channels = sizes[1];
    int64_t done = 0;
    do {  // more norms than a launch has room for form the sum again
      p.outputs = static_cast<int32_t>(least<int64_t>(outputs - done, kAffineOutputs));
      p.scale = read_pointer<wide_t<T>>(scale) + done * p.channels;
      p.shift = read_pointer<wide_t<T>>(shift) + done * p.channels;
      for (int32_t j = 0; j < kAffineOutputs; ++j) {
        p.outs[j] = j < p.outputs ? write_map<T>(results[done + j + (keep ? 1 : 0)]) : Map<T>{};
      }
      launch_add_affine_relu(p, launch);
      p.sum = Map<T>{};
      done += p.outputs;
    } while (done < outputs);
  });
  return results;
}

CUDA_OPERATORS(m) { m.impl("add_affine_relu", TORCH_BOX(&add_affine_relu)); }

}  // namespace
}  // namespace pyranet_fast::gpu
