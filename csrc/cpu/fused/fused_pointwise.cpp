// Everything that reads the input of a residual unit, in one pass: the sum of two maps (one may have half the size), or
// the maximum of windows of 2x2, folded batch norms and ReLUs, and a 1x1 convolution of each, with bias, ReLU and an
// addition. The normalized maps exist only block by block in a cache. float32 or bfloat16, channels_last, for
// inference.
#include "cpu/fused/fused_pointwise_job.h"
#include "cpu/fused/operators.h"
#include "cpu/fused/products.h"

#define PF_BF16_PRODUCTS_TOO
#define PF_KERNEL_FILE "cpu/fused/fused_pointwise_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

constexpr const char* kName = "fused_pointwise";

// (K, C) to panels of columns, as gemm.h reads them: float32, or bfloat16 for even C.
Tensor pointwise_pack(Tensor weight) {
  STD_TORCH_CHECK(weight.dim() == 2, "pointwise_pack: weight must be (K, C)");
  check_channels("pointwise_pack", weight.size(0)), check_channels("pointwise_pack", weight.size(1));
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(0), c = weight.size(1), columns = PF_CHOOSE(pointwise_columns)();
  const int64_t panels = (k + columns - 1) / columns;
  Tensor result = empty_nchw(weight, {panels, c, columns});
  dispatch_product("pointwise_pack", weight, c, [&](auto type) {
    using T = decltype(type);
    const T* from = read_pointer<T>(weight);
    pack_panels(k, c, columns, [&](int64_t o, int64_t i) { return from[o * c + i]; }, write_pointer<T>(result));
  });
  return result;
}

template <typename T>
void run(PointwiseJob<T>& job, const Tensor& x, const std::optional<Tensor>& other, std::vector<Tensor>& results,
         const std::vector<Tensor>& scale, const std::vector<Tensor>& shift, const std::vector<Tensor>& weight,
         const std::vector<Tensor>& bias, const std::vector<int64_t>& relu, const std::optional<Tensor>& residual,
         bool keep) {
  job.x = read_pointer<T>(x);
  job.other = other.has_value() ? read_pointer<T>(*other) : nullptr;
  job.sum = keep ? write_pointer<T>(results[0]) : nullptr;
  for (size_t j = 0; j < weight.size(); ++j) {
    const bool normalized = scale[j].numel() > 0;
    job.outputs.push_back({normalized ? scale[j].const_data_ptr<float>() : nullptr,
                           normalized ? shift[j].const_data_ptr<float>() : nullptr, read_pointer<T>(weight[j]),
                           bias[j].const_data_ptr<float>(), residual.has_value() ? read_pointer<T>(*residual) : nullptr,
                           write_pointer<T>(results[j + (keep ? 1 : 0)]), bias[j].numel(), relu[j] != 0});
  }
  const int64_t pixels = x.size(0) * job.height * job.width, c = job.inputs;
  // Two blocks of pixels, as read and normalized, stay in a core's cache beside the weights. Threads share whole groups
  // of rows of the product, and each makes equal blocks of its own: a block more for one would leave the others
  // waiting.
  constexpr int64_t kGroup = 12;
  const int64_t most = std::max<int64_t>(1, 98304 / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(c, 1) / kGroup);
  parallel_for(0, (pixels + kGroup - 1) / kGroup, 1, [&](int64_t begin, int64_t end) {
    const int64_t blocks = (end - begin + most - 1) / most, block = (end - begin + blocks - 1) / blocks * kGroup;
    const int64_t last = std::min(pixels, end * kGroup);
    const std::unique_ptr<T[]> scratch(new T[2 * block * c]);
    for (int64_t first = begin * kGroup; first < last; first += block) {
      PF_CHOOSE(pointwise_pixels<T>)(job, first, std::min(last, first + block), scratch.get());
    }
  });
}

}  // namespace

std::vector<Tensor> fused_pointwise(Tensor x, std::optional<Tensor> other, std::vector<Tensor> scale,
                                    std::vector<Tensor> shift, std::vector<Tensor> weight, std::vector<Tensor> bias,
                                    std::vector<int64_t> relu, std::optional<Tensor> residual, bool keep, bool pool) {
  check_map(kName, "x", x);
  const int64_t n = x.size(0), c = x.size(1), count = static_cast<int64_t>(weight.size());
  const ScalarType type = x.scalar_type();
  int64_t h = x.size(2), w = x.size(3);
  bool half = false;
  const int64_t x_height = h, x_width = w;
  if (pool) {
    STD_TORCH_CHECK(!other.has_value() && h >= 2 && w >= 2, kName, ": pool is for an x of at least 2x2 without other");
    h /= 2, w /= 2;
  }
  if (other.has_value()) {
    STD_TORCH_CHECK(other->dim() == 4 && other->size(0) == n && other->size(1) == c && other->scalar_type() == type,
                    kName, ": other must be (N, C, H, W) in the dtype of x");
    half = other->size(2) == 2 * h && other->size(3) == 2 * w;
    STD_TORCH_CHECK(half || (other->size(2) == h && other->size(3) == w), kName,
                    ": other must have the size of x, or twice its height and width");
    if (half) h *= 2, w *= 2;
    other = torch::stable::contiguous(*other, MemoryFormat::ChannelsLast);
  }
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const int64_t columns = PF_CHOOSE(pointwise_columns)();
  STD_TORCH_CHECK(count > 0 && static_cast<int64_t>(scale.size()) == count &&
                      static_cast<int64_t>(shift.size()) == count && static_cast<int64_t>(bias.size()) == count &&
                      static_cast<int64_t>(relu.size()) == count,
                  kName, ": scale, shift, weight, bias and relu must have one entry for every output");
  STD_TORCH_CHECK(!residual.has_value() || count == 1, kName, ": residual is for one output");
  std::vector<Tensor> results;
  if (keep) results.push_back(empty_nchw(x, {n, c, h, w}, true));
  for (int64_t j = 0; j < count; ++j) {
    const int64_t k = bias[j].numel();
    STD_TORCH_CHECK(
        weight[j].scalar_type() == type && weight[j].dim() == 3 && weight[j].size(1) == c &&
            weight[j].size(2) == columns && weight[j].size(0) == (k + columns - 1) / columns &&
            weight[j].is_contiguous() && is_float_vector(bias[j], k),
        kName,
        ": weight must come from pointwise_pack on this machine, in the dtype of x, with a float32 bias for "
        "each row");
    STD_TORCH_CHECK((scale[j].numel() == 0 && shift[j].numel() == 0) ||
                        (is_float_vector(scale[j], c) && is_float_vector(shift[j], c)),
                    kName, ": scale and shift must be (C,) in float32, or both empty");
    results.push_back(empty_nchw(x, {n, k, h, w}, true));
  }
  if (residual.has_value()) {
    STD_TORCH_CHECK(residual->dim() == 4 && residual->size(0) == n && residual->size(1) == bias[0].numel() &&
                        residual->size(2) == h && residual->size(3) == w && residual->scalar_type() == type,
                    kName, ": residual must have the output's shape, in the dtype of x");
    residual = torch::stable::contiguous(*residual, MemoryFormat::ChannelsLast);
  }
  dispatch_product(kName, x, c, [&](auto element) {
    using T = decltype(element);
    PointwiseJob<T> job{nullptr, nullptr, nullptr, h, w, c, x_height, x_width, half, pool, {}};
    if (n * h * w > 0) run(job, x, other, results, scale, shift, weight, bias, relu, residual, keep);
  });
  return results;
}

namespace {

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("pointwise_pack", TORCH_BOX(&pointwise_pack));
  m.impl("fused_pointwise", TORCH_BOX(&fused_pointwise));
}

}  // namespace
}  // namespace pyranet_fast::cpu
