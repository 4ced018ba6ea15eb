// Everything that reads the input of a residual unit, in one pass: the sum of two maps (one may have half the size), or
// the maximum of windows of 2x2, folded batch norms and ReLUs, and a 1x1 convolution of each, with bias, ReLU and an
// addition. The normalized maps exist only block by block in a cache. float32, channels_last, for inference.
#include "cpu/fused/fused_pointwise_job.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/fused/fused_pointwise_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

bool is_float(const Tensor& x) { return x.scalar_type() == ScalarType::Float; }

// (K, C) to panels of columns: (panels, C, columns), zeros behind the last.
Tensor pointwise_pack(Tensor weight) {
  STD_TORCH_CHECK(weight.dim() == 2 && is_float(weight), "pointwise_pack: weight must be (K, C) in float32");
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(0), c = weight.size(1), columns = PF_CHOOSE(pointwise_columns)();
  const int64_t panels = (k + columns - 1) / columns;
  Tensor result = torch::stable::empty({panels, c, columns}, ScalarType::Float, std::nullopt, weight.device(),
                                       std::nullopt, MemoryFormat::Contiguous);
  const float* from = weight.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t o = panel * columns + j;
        *to++ = o < k ? from[o * c + i] : 0.f;
      }
    }
  }
  return result;
}

std::vector<Tensor> fused_pointwise(Tensor x, std::optional<Tensor> other, std::vector<Tensor> scale,
                                    std::vector<Tensor> shift, std::vector<Tensor> weight, std::vector<Tensor> bias,
                                    std::vector<int64_t> relu, std::optional<Tensor> residual, bool keep, bool pool) {
  STD_TORCH_CHECK(x.dim() == 4 && is_float(x), "fused_pointwise: x must be (N, C, H, W) in float32");
  const int64_t n = x.size(0), c = x.size(1), count = static_cast<int64_t>(weight.size());
  int64_t h = x.size(2), w = x.size(3);
  bool half = false;
  const int64_t x_height = h, x_width = w;
  if (pool) {
    STD_TORCH_CHECK(!other.has_value() && h >= 2 && w >= 2,
                    "fused_pointwise: pool is for an x of at least 2x2 without other");
    h /= 2, w /= 2;
  }
  if (other.has_value()) {
    STD_TORCH_CHECK(other->dim() == 4 && other->size(0) == n && other->size(1) == c && is_float(*other),
                    "fused_pointwise: other must be (N, C, H, W) in float32");
    half = other->size(2) == 2 * h && other->size(3) == 2 * w;
    STD_TORCH_CHECK(half || (other->size(2) == h && other->size(3) == w),
                    "fused_pointwise: other must have the size of x, or twice its height and width");
    if (half) h *= 2, w *= 2;
    other = torch::stable::contiguous(*other, MemoryFormat::ChannelsLast);
  }
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const int64_t columns = PF_CHOOSE(pointwise_columns)();
  STD_TORCH_CHECK(count > 0 && static_cast<int64_t>(scale.size()) == count &&
                      static_cast<int64_t>(shift.size()) == count && static_cast<int64_t>(bias.size()) == count &&
                      static_cast<int64_t>(relu.size()) == count,
                  "fused_pointwise: scale, shift, weight, bias and relu must have one entry for every output");
  STD_TORCH_CHECK(!residual.has_value() || count == 1, "fused_pointwise: residual is for one output");
  PointwiseJob job{x.const_data_ptr<float>(),
                   other.has_value() ? other->const_data_ptr<float>() : nullptr,
                   nullptr,
                   h,
                   w,
                   c,
                   x_height,
                   x_width,
                   half,
                   pool,
                   {}};
  std::vector<Tensor> results;
  if (keep) results.push_back(empty_nchw(x, {n, c, h, w}, true, ScalarType::Float));
  for (int64_t j = 0; j < count; ++j) {
    const int64_t k = bias[j].numel();
    STD_TORCH_CHECK(is_float(weight[j]) && weight[j].dim() == 3 && weight[j].size(1) == c &&
                        weight[j].size(2) == columns && weight[j].size(0) == (k + columns - 1) / columns &&
                        weight[j].is_contiguous() && is_float(bias[j]) && bias[j].is_contiguous(),
                    "fused_pointwise: weight must come from pointwise_pack on this machine, with a bias for each row");
    const bool normalized = scale[j].numel() > 0;
    STD_TORCH_CHECK(!normalized || (scale[j].numel() == c && shift[j].numel() == c && is_float(scale[j]) &&
                                    is_float(shift[j]) && scale[j].is_contiguous() && shift[j].is_contiguous()),
                    "fused_pointwise: scale and shift must be (C,) in float32, or empty");
    results.push_back(empty_nchw(x, {n, k, h, w}, true, ScalarType::Float));
    job.outputs.push_back({normalized ? scale[j].const_data_ptr<float>() : nullptr,
                           normalized ? shift[j].const_data_ptr<float>() : nullptr, weight[j].const_data_ptr<float>(),
                           bias[j].const_data_ptr<float>(), nullptr, results.back().mutable_data_ptr<float>(), k,
                           relu[j] != 0});
  }
  if (residual.has_value()) {
    STD_TORCH_CHECK(residual->dim() == 4 && residual->size(0) == n && residual->size(1) == bias[0].numel() &&
                        residual->size(2) == h && residual->size(3) == w && is_float(*residual),
                    "fused_pointwise: residual must have the output's shape, in float32");
    residual = torch::stable::contiguous(*residual, MemoryFormat::ChannelsLast);
    job.outputs[0].residual = residual->const_data_ptr<float>();
  }
  if (keep) job.sum = results[0].mutable_data_ptr<float>();
  const int64_t pixels = n * h * w;
  if (pixels == 0) return results;
  // Two blocks of pixels, as read and normalized, stay in a core's cache beside the weights.
  const int64_t most = std::max<int64_t>(12, 24576 / c / 12 * 12);
  const int64_t blocks = std::max<int64_t>((pixels + most - 1) / most, std::min<int64_t>(pixels / 12, 2));
  const int64_t block = blocks == 0 ? pixels : ((pixels + blocks - 1) / blocks + 11) / 12 * 12;
  parallel_for(0, (pixels + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * block * c]);
    for (int64_t b = begin; b < end; ++b) {
      PF_CHOOSE(pointwise_pixels)(job, b * block, std::min(pixels, (b + 1) * block), scratch.get());
    }
  });
  return results;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("pointwise_pack", TORCH_BOX(&pointwise_pack));
  m.impl("fused_pointwise", TORCH_BOX(&fused_pointwise));
}

}  // namespace
}  // namespace pyranet_fast::cpu
