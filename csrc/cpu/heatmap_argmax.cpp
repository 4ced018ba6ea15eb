// Joint positions from score maps: argmax and refinement in one pass.
#include "common/argmax.h"
#include "common/heatmap_argmax_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/heatmap_argmax_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

struct Maps {
  int64_t n, k, height, width;
  bool channels_last;
  int64_t area() const { return height * width; }
  int64_t offset(int64_t map) const { return channels_last ? map / k * k * area() + map % k : map * area(); }
  int64_t step() const { return channels_last ? k : 1; }
};

// Coordinates and score of one map from the position of its maximum.
template <typename T>
void finish(const T* map, const Maps& maps, bool quarter, int64_t index, float* coords, T* score) {
  const int64_t x = index % maps.width, y = index / maps.width, step = maps.step();
  const T* at = map + index * step;
  *score = *at;
  coords[0] = static_cast<float>(x);
  coords[1] = static_cast<float>(y);
  if (!quarter) return;
  const int64_t row = maps.width * step;
  if (x > 0 && x < maps.width - 1) coords[0] += quarter_step(load(at[step]), load(at[-step]));
  if (y > 0 && y < maps.height - 1) coords[1] += quarter_step(load(at[row]), load(at[-row]));
}

template <typename T>
void run(const T* data, const Maps& maps, bool quarter, float* coords, T* scores, int64_t* indices) {
  const int64_t grain = std::max<int64_t>(1, 32768 / maps.area());
  const auto finish_map = [&](int64_t m) {
    finish(data + maps.offset(m), maps, quarter, indices[m], coords + 2 * m, scores + m);
  };
  if (!maps.channels_last) {
    parallel_for(0, maps.n * maps.k, grain, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        indices[m] = PF_CHOOSE(argmax_plane<T>)(data + m * maps.area(), maps.area());
        finish_map(m);
      }
    });
    return;
  }
  const int64_t lanes = PF_CHOOSE(argmax_lanes<T>)(), groups = (maps.k + lanes - 1) / lanes;
  const int64_t image = maps.k * maps.area();
  parallel_for(0, maps.n * groups, std::max<int64_t>(1, grain / lanes), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / groups, c0 = task % groups * lanes;
      PF_CHOOSE(argmax_channels<T>)
      (data + n * image, (maps.n - n) * image, maps.area(), maps.k, c0, indices + n * maps.k);
      for (int64_t c = c0; c < std::min(c0 + lanes, maps.k); ++c) finish_map(n * maps.k + c);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> heatmap_argmax(Tensor heatmaps, bool quarter) {
  check_heatmap_argmax(heatmaps);
  heatmaps = dense(heatmaps);
  const Maps maps{heatmaps.size(0), heatmaps.size(1), heatmaps.size(2), heatmaps.size(3), is_channels_last(heatmaps)};
  // Blocks of positions are numbered with 32 bits there.
  STD_TORCH_CHECK(!maps.channels_last || maps.area() < int64_t{1} << 35, "heatmap_argmax: a map is too large");
  Tensor coords = empty_nchw(heatmaps, {maps.n, maps.k, 2}, false, ScalarType::Float);
  Tensor scores = empty_nchw(heatmaps, {maps.n, maps.k});
  Tensor indices = empty_nchw(heatmaps, {maps.n, maps.k}, false, ScalarType::Long);
  if (maps.n * maps.k == 0) return {coords, scores, indices};
  dispatch_float("heatmap_argmax: heatmaps", heatmaps.scalar_type(), [&](auto type) {
    using T = decltype(type);
    run(read_pointer<T>(heatmaps), maps, quarter, write_pointer<float>(coords), write_pointer<T>(scores),
        write_pointer<int64_t>(indices));
  });
  return {coords, scores, indices};
}

Tensor heatmap_argmax_backward(Tensor grad_scores, Tensor indices, int64_t height, int64_t width) {
  check_heatmap_argmax_backward(grad_scores, indices, height, width);
  const int64_t n = indices.size(0), k = indices.size(1), area = height * width;
  grad_scores = torch::stable::contiguous(grad_scores);
  indices = torch::stable::contiguous(indices);
  Tensor grad = empty_nchw(grad_scores, {n, k, height, width});
  const int64_t* at = read_pointer<int64_t>(indices);
  for (int64_t m = 0; m < n * k; ++m) {
    STD_TORCH_CHECK(at[m] >= 0 && at[m] < area, "heatmap_argmax_backward: an index is outside its map");
  }
  dispatch_float("heatmap_argmax_backward: grad_scores", grad_scores.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* from = read_pointer<T>(grad_scores);
    T* to = write_pointer<T>(grad);
    parallel_for(0, n * k, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, area)), [&](int64_t begin, int64_t end) {
      std::fill(to + begin * area, to + end * area, T(0));
      for (int64_t m = begin; m < end; ++m) to[m * area + at[m]] = from[m];
    });
  });
  return grad;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("heatmap_argmax", TORCH_BOX(&heatmap_argmax));
  m.impl("heatmap_argmax_backward", TORCH_BOX(&heatmap_argmax_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
