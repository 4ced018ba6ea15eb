// Position of the maximum of every score map, refined by a quarter pixel, in one pass.
#include "cpu/heatmap.h"

#define PF_KERNEL_FILE "cpu/heatmap_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

using torch::stable::parallel_for;

// One step toward the larger neighbour; equal neighbours, or a NaN, do not move.
template <typename T>
float quarter_step(const T* at, int64_t stride) {
  const auto ahead = load(at[stride]), behind = load(at[-stride]);
  return ahead > behind ? 0.25f : ahead < behind ? -0.25f : 0.0f;
}

template <typename T>
void argmax(const Tensor& maps, bool quarter, Tensor& coords, Tensor& scores, Tensor& indices) {
  using W = wide_t<T>;
  const int64_t n = maps.size(0), c = maps.size(1), h = maps.size(2), w = maps.size(3), area = h * w;
  const bool channels_last = is_channels_last(maps);
  const T* data = static_cast<const T*>(maps.const_data_ptr());
  float* xy = static_cast<float*>(coords.mutable_data_ptr());
  T* score = static_cast<T*>(scores.mutable_data_ptr());
  int64_t* index = static_cast<int64_t*>(indices.mutable_data_ptr());
  const int64_t pixel = channels_last ? c : 1;
  const auto finish = [&](int64_t sample, int64_t k, int64_t i) {
    const T* map = data + sample * c * area + (channels_last ? k : k * area);
    const int64_t x = i % w, y = i / w, at = sample * c + k;
    const T* top = map + i * pixel;
    index[at] = i;
    score[at] = *top;
    xy[2 * at] = static_cast<float>(x) + (quarter && x > 0 && x < w - 1 ? quarter_step(top, pixel) : 0.0f);
    xy[2 * at + 1] = static_cast<float>(y) + (quarter && y > 0 && y < h - 1 ? quarter_step(top, w * pixel) : 0.0f);
  };
  const int64_t grain = std::max<int64_t>(1, 16384 / area);
  if (!channels_last) {
    parallel_for(0, n * c, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) finish(i / c, i % c, PF_CHOOSE(argmax_plane<T>)(data + i * area, area));
    });
    return;
  }
  const int64_t pixels = tile_pixels(c), tile = pixels * c, tiles = area / pixels;
  parallel_for(0, n, std::max<int64_t>(1, grain / c), [&](int64_t begin, int64_t end) {
    std::vector<W> best(tile);
    std::vector<int32_t> group(tile);
    for (int64_t sample = begin; sample < end; ++sample) {
      const T* map = data + sample * c * area;
      if (tiles > 0) PF_CHOOSE(argmax_tiles<T>)(map, tiles, tile, best.data(), group.data());
      for (int64_t k = 0; k < c; ++k) {
        int64_t winner = -1;
        W top = 0;
        const auto offer = [&](W v, int64_t i) {
          const bool both = winner >= 0, nan = v != v, top_nan = top != top;
          const bool same = (nan && top_nan) || v == top;
          if (!both || (nan && !top_nan) || v > top || (same && i < winner)) top = v, winner = i;
        };
        for (int64_t p = 0; p < (tiles > 0 ? pixels : 0); ++p) offer(best[p * c + k], group[p * c + k] * pixels + p);
        for (int64_t i = tiles * pixels; i < area; ++i) offer(load(map[i * c + k]), i);
        finish(sample, k, winner);
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> heatmap_argmax(Tensor maps, bool quarter) {
  STD_TORCH_CHECK(maps.dim() == 4 && maps.size(2) > 0 && maps.size(3) > 0 && maps.size(2) * maps.size(3) < (1LL << 31),
                  "heatmap_argmax: heatmaps must be (N, K, H, W) with 1 to 2^31 - 1 pixels");
  maps = dense(maps);
  const int64_t n = maps.size(0), c = maps.size(1);
  Tensor coords = empty_nchw(maps, {n, c, 2}, false, ScalarType::Float);
  Tensor scores = empty_nchw(maps, {n, c}, false, maps.scalar_type());
  Tensor indices = empty_nchw(maps, {n, c}, false, ScalarType::Long);
  if (n * c > 0) {
    for_float_type(maps.scalar_type(), "heatmap_argmax",
                   [&](auto t) { argmax<decltype(t)>(maps, quarter, coords, scores, indices); });
  }
  return {coords, scores, indices};
}

Tensor heatmap_argmax_backward(const Tensor& grad_scores, const Tensor& indices, int64_t height, int64_t width) {
  const Tensor grad = torch::stable::contiguous(grad_scores), index = torch::stable::contiguous(indices);
  const int64_t n = index.size(0), c = index.size(1), area = height * width;
  Tensor out = empty_nchw(grad, {n, c, height, width}, false, grad.scalar_type());
  torch::stable::zero_(out);
  for_float_type(grad.scalar_type(), "heatmap_argmax", [&](auto t) {
    using T = decltype(t);
    T* to = static_cast<T*>(out.mutable_data_ptr());
    const T* from = static_cast<const T*>(grad.const_data_ptr());
    const int64_t* at = static_cast<const int64_t*>(index.const_data_ptr());
    for (int64_t i = 0; i < n * c; ++i) to[i * area + at[i]] = from[i];
  });
  return out;
}

}  // namespace
}  // namespace pyranet_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("heatmap_argmax", TORCH_BOX(&pyranet_fast::cpu::heatmap_argmax));
  m.impl("heatmap_argmax_backward", TORCH_BOX(&pyranet_fast::cpu::heatmap_argmax_backward));
}
