// Operators of upsample_sum on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "cuda/host.h"
#include "cuda/upsample_sum_launch.cuh"

namespace pyranet_fast::gpu {
namespace {

constexpr const char* kName = "upsample_sum";

Tensor upsample_sum_affine(std::vector<Tensor> maps, int64_t height, int64_t width, std::optional<Tensor> base,
                           bool align_corners, std::optional<Tensor> scale, std::optional<Tensor> shift, bool relu) {
  STD_TORCH_CHECK(!maps.empty(), "upsample_sum: maps is empty; at least one (N, C, h, w) tensor is accepted");
  check_levels(kName, maps.size());
  check_extent(kName, height), check_extent(kName, width);
  const ScalarType dtype = maps[0].scalar_type();
  for (const Tensor& map : maps) {
    STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == maps[0].size(0) && map.size(1) == maps[0].size(1) &&
                        map.size(2) >= 1 && map.size(3) >= 1,
                    "upsample_sum: maps must be (N, C, h, w) with one N and C, h and w at least 1");
    STD_TORCH_CHECK(map.scalar_type() == dtype, "upsample_sum: maps must have one dtype");
    STD_TORCH_CHECK(map.get_device_index() == maps[0].get_device_index(), "upsample_sum: maps must be on one device");
    check_extent(kName, map.size(2)), check_extent(kName, map.size(3));
  }
  const int64_t n = maps[0].size(0), c = maps[0].size(1);
  STD_TORCH_CHECK(
      !base.has_value() || (base->dim() == 4 && base->size(0) == n && base->size(1) == c && base->size(2) == height &&
                            base->size(3) == width && base->scalar_type() == dtype),
      "upsample_sum: base must be (N, C, H, W) in the maps' dtype");
  const Launcher launch(maps[0]);
  Tensor out = empty_nchw(maps[0], {n, c, height, width}, is_channels_last(maps[0]), dtype);
  if (out.numel() == 0) return out;
  for (std::optional<Tensor>* vector : {&scale, &shift}) {
    if (!vector->has_value()) continue;
    STD_TORCH_CHECK((*vector)->dim() == 1 && (*vector)->size(0) == c, "upsample_sum: scale and shift must be (C,)");
    *vector = as_dense(**vector, wide_type(dtype));
  }
  dispatch_float("upsample_sum: maps", dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(maps.size());
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = write_map<T>(out);
    if (base.has_value()) p.base = read_map<T>(*base);
    if (scale.has_value()) p.scale = read_pointer<wide_t<T>>(*scale);
    if (shift.has_value()) p.shift = read_pointer<wide_t<T>>(*shift);
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
  STD_TORCH_CHECK(grad.dim() == 4 && !sizes.empty() && sizes.size() % 2 == 0,
                  "upsample_sum_backward: grad must be (N, C, H, W) and sizes (h, w) of every map");
  check_levels(kName, sizes.size() / 2);
  for (const int64_t size : sizes) check_extent(kName, size);
  check_extent(kName, grad.size(2)), check_extent(kName, grad.size(3));
  const Launcher launch(grad);
  const bool channels_last = is_channels_last(grad);
  const int64_t n = grad.size(0), c = grad.size(1);
  std::vector<Tensor> grads;
  for (size_t l = 0; l < sizes.size(); l += 2) {
    grads.push_back(empty_nchw(grad, {n, c, sizes[l], sizes[l + 1]}, channels_last, grad.scalar_type()));
  }
  if (n * c == 0) return grads;
  dispatch_float("upsample_sum: grad", grad.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
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
  STD_TORCH_CHECK(maps.dim() == 4, "upsample_sum_canvas: maps must be (N, C, H, W)");
  check_places("upsample_sum_canvas", places, maps.size(2), maps.size(3));
  check_levels(kName, places.size() / 4);
  check_extent(kName, height), check_extent(kName, width);
  const int64_t n = maps.size(0), c = maps.size(1);
  STD_TORCH_CHECK(
      !base.has_value() || (base->dim() == 4 && base->size(0) == n && base->size(1) == c && base->size(2) == height &&
                            base->size(3) == width && base->scalar_type() == maps.scalar_type()),
      "upsample_sum_canvas: base must be (N, C, H, W) in the dtype of maps");
  const Launcher launch(maps);
  Tensor out = empty_nchw(maps, {n, c, height, width}, is_channels_last(maps), maps.scalar_type());
  if (out.numel() == 0) return out;
  dispatch_float("upsample_sum_canvas: maps", maps.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
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
  STD_TORCH_CHECK(grad.dim() == 4, "upsample_sum_canvas_backward: grad must be (N, C, H, W)");
  check_places("upsample_sum_canvas_backward", places, height, width);
  check_levels(kName, places.size() / 4);
  check_extent(kName, grad.size(2)), check_extent(kName, grad.size(3));
  const Launcher launch(grad);
  const int64_t n = grad.size(0), c = grad.size(1);
  Tensor canvas = empty_nchw(grad, {n, c, height, width}, is_channels_last(grad), grad.scalar_type());
  torch::stable::zero_(canvas);
  if (n * c == 0) return canvas;
  dispatch_float("upsample_sum_canvas: grad", grad.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(places.size() / 4);
    p.batch = n, p.channels = c, p.align_corners = align_corners;
    p.whole = read_map<T>(grad);
    for (int32_t l = 0; l < p.count; ++l) p.levels[l].map = place_of(write_map<T>(canvas), places.data() + 4 * l);
    launch_upsample(p, true, launch);
  });
  return canvas;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CUDA, m) {
  m.impl("upsample_sum", TORCH_BOX(&upsample_sum));
  m.impl("upsample_sum_canvas", TORCH_BOX(&upsample_sum_canvas));
  m.impl("upsample_sum_canvas_backward", TORCH_BOX(&upsample_sum_canvas_backward));
  m.impl("upsample_sum_affine", TORCH_BOX(&upsample_sum_affine));
  m.impl("upsample_sum_backward", TORCH_BOX(&upsample_sum_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
