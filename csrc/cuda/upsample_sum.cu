// Operators of upsample_sum on CUDA tensors.
#include "common/upsample_sum_checks.h"
#include "cuda/host.h"
#include "cuda/upsample_sum.cuh"

namespace pyranet_fast::gpu {
namespace {

constexpr const char* kName = "upsample_sum";

Tensor upsample_sum_affine(std::vector<Tensor> maps, int64_t height, int64_t width, std::optional<Tensor> base,
                           bool align_corners, std::optional<Tensor> scale, std::optional<Tensor> shift, bool relu) {
  check_upsample_sum(maps, height, width, base);
  check_channel_vectors(kName, maps[0], scale, shift);
  check_levels(kName, maps.size());
  const int64_t n = maps[0].size(0), c = maps[0].size(1);
  const Launcher launch(maps[0]);
  Tensor out = empty_nchw(maps[0], {n, c, height, width}, is_channels_last(maps[0]));
  if (out.numel() == 0) return out;
  scale = as_dense(scale, wide_type(maps[0])), shift = as_dense(shift, wide_type(maps[0]));
  dispatch_float("upsample_sum: maps", maps[0].scalar_type(), [&](auto type) {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(maps.size());
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = write_map<T>(out);
    if (base.has_value()) p.base = read_map<T>(*base);
    p.scale = read_pointer<wide_t<T>>(scale), p.shift = read_pointer<wide_t<T>>(shift);
    p.relu = relu;
    for (size_t l = 0; l < maps.size(); ++l) p.levels[l].map = read_map<T>(maps[l]);
    launch_upsample(p, false, launch);
  });
  return out;
}

Tensor upsample_sum(std::vector<Tensor> maps, int64_t height, int64_t width, std::optional<Tensor> base,
                    bool align_corners) {
  return upsample_sum_affine(maps, height, width, base, align_corners, std::nullopt, std::nullopt, false);
}

std::vector<Tensor> upsample_sum_backward(Tensor grad, std::vector<int64_t> sizes, bool align_corners) {
  check_upsample_sum_backward(grad, sizes);
  check_levels(kName, sizes.size() / 2);
  const Launcher launch(grad);
  const bool channels_last = is_channels_last(grad);
  const int64_t n = grad.size(0), c = grad.size(1);
  std::vector<Tensor> grads;
  for (size_t l = 0; l < sizes.size(); l += 2) {
    grads.push_back(empty_nchw(grad, {n, c, sizes[l], sizes[l + 1]}, channels_last));
  }
  if (n * c == 0) return grads;
  dispatch_float("upsample_sum: grad", grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(grads.size());
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = read_map<T>(grad);
    for (size_t l = 0; l < grads.size(); ++l) p.levels[l].map = write_map<T>(grads[l]);
    launch_upsample(p, true, launch);
  });
  return grads;
}

Tensor upsample_sum_canvas(Tensor maps, std::vector<int64_t> places, int64_t height, int64_t width,
                           std::optional<Tensor> base, bool align_corners) {
  check_upsample_sum_canvas(maps, places, height, width, base);
  check_levels(kName, places.size() / 4);
  const int64_t n = maps.size(0), c = maps.size(1);
  const Launcher launch(maps);
  Tensor out = empty_nchw(maps, {n, c, height, width}, is_channels_last(maps));
  if (out.numel() == 0) return out;
  dispatch_float("upsample_sum_canvas: maps", maps.scalar_type(), [&](auto type) {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(places.size() / 4);
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = write_map<T>(out);
    if (base.has_value()) p.base = read_map<T>(*base);
    for (int32_t l = 0; l < p.count; ++l) p.levels[l].map = place_of(read_map<T>(maps), places.data() + 4 * l);
    launch_upsample(p, false, launch);
  });
  return out;
}

Tensor upsample_sum_canvas_backward(Tensor grad, std::vector<int64_t> places, int64_t height, int64_t width,
                                    bool align_corners) {
  check_upsample_sum_canvas_backward(grad, places, height, width);
  check_levels(kName, places.size() / 4);
  const Launcher launch(grad);
  const int64_t n = grad.size(0), c = grad.size(1);
  Tensor canvas = empty_nchw(grad, {n, c, height, width}, is_channels_last(grad));
  torch::stable::zero_(canvas);
  if (n * c == 0) return canvas;
  dispatch_float("upsample_sum_canvas: grad", grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(places.size() / 4);
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = read_map<T>(grad);
    for (int32_t l = 0; l < p.count; ++l) p.levels[l].map = place_of(write_map<T>(canvas), places.data() + 4 * l);
    launch_upsample(p, true, launch);
  });
  return canvas;
}

CUDA_OPERATORS(m) {
  m.impl("upsample_sum", TORCH_BOX(&upsample_sum));
  m.impl("upsample_sum_canvas", TORCH_BOX(&upsample_sum_canvas));
  m.impl("upsample_sum_canvas_backward", TORCH_BOX(&upsample_sum_canvas_backward));
  m.impl("upsample_sum_affine", TORCH_BOX(&upsample_sum_affine));
  m.impl("upsample_sum_backward", TORCH_BOX(&upsample_sum_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
