// Operators of heatmap_argmax on CUDA tensors.
#include "common/heatmap_argmax_checks.h"
#include "cuda/heatmap_argmax.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

template <typename T>
ArgmaxArguments<T> arguments_of(const Tensor& maps, bool quarter, Tensor& coords) {
  ArgmaxArguments<T> p{};
  p.maps = read_map<T>(maps);
  p.quarter = quarter;
  p.batch = maps.size(0), p.channels = maps.size(1);
  p.coords = write_pointer<float>(coords);
  return p;
}

std::tuple<Tensor, Tensor, Tensor> argmax(Tensor heatmaps, bool quarter) {
  check_heatmap_argmax(heatmaps);
  const Launcher launch(heatmaps);
  const int64_t n = heatmaps.size(0), k = heatmaps.size(1);
  Tensor coords = empty_nchw(heatmaps, {n, k, 2}, false, ScalarType::Float);
  Tensor scores = empty_nchw(heatmaps, {n, k});
  Tensor indices = empty_nchw(heatmaps, {n, k}, false, ScalarType::Long);
  if (n * k == 0) return {coords, scores, indices};
  dispatch_float("heatmap_argmax: heatmaps", heatmaps.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ArgmaxArguments<T> p = arguments_of<T>(heatmaps, quarter, coords);
    p.scores = write_pointer<T>(scores);
    p.indices = write_pointer<int64_t>(indices);
    launch_heatmap_argmax(p, launch);
  });
  return {coords, scores, indices};
}

std::tuple<Tensor, Tensor> argmax_mirrored(Tensor heatmaps, Tensor mirrored, Tensor swap, bool quarter) {
  check_heatmap_argmax_mirrored(heatmaps, mirrored, swap);
  const int64_t n = heatmaps.size(0), k = heatmaps.size(1);
  const Launcher launch(heatmaps);
  Tensor coords = empty_nchw(heatmaps, {n, k, 2}, false, ScalarType::Float);
  Tensor scores = empty_nchw(heatmaps, {n, k}, false, wide_type(heatmaps));
  if (n * k == 0) return {coords, scores};
  swap = torch::stable::contiguous(swap);
  dispatch_float("heatmap_argmax_mirrored: heatmaps", heatmaps.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ArgmaxArguments<T> p = arguments_of<T>(heatmaps, quarter, coords);
    p.mirrored = read_map<T>(mirrored);
    p.swap = read_pointer<int64_t>(swap);
    p.means = write_pointer<wide_t<T>>(scores);
    launch_heatmap_argmax(p, launch);
  });
  return {coords, scores};
}

Tensor argmax_backward(Tensor grad_scores, Tensor indices, int64_t height, int64_t width) {
  check_heatmap_argmax_backward(grad_scores, indices, height, width);
  const Launcher launch(grad_scores);
  const int64_t n = indices.size(0), k = indices.size(1);
  Tensor grad = empty_nchw(grad_scores, {n, k, height, width});
  if (grad.numel() == 0) return grad;
  indices = torch::stable::contiguous(indices);
  dispatch_float("heatmap_argmax_backward: grad_scores", grad_scores.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ArgmaxBackwardArguments<T> p{};
    p.grad_scores = read_pointer<T>(grad_scores);
    p.n = grad_scores.stride(0), p.c = grad_scores.stride(1);
    p.indices = read_pointer<int64_t>(indices);
    p.grad = write_pointer<T>(grad);
    p.maps = n * k, p.channels = k, p.area = height * width;
    launch_heatmap_argmax_backward(p, launch);
  });
  return grad;
}

CUDA_OPERATORS(m) {
  m.impl("heatmap_argmax", TORCH_BOX(&argmax));
  m.impl("heatmap_argmax_mirrored", TORCH_BOX(&argmax_mirrored));
  m.impl("heatmap_argmax_backward", TORCH_BOX(&argmax_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
