// 3x3 convolution, stride 1, padding 1, of channels_last float32 maps by Winograd's minimal filtering (Lavin and Gray,
// CVPR 2016), F(4x4, 3x3): a quarter of the products of the direct method. Blocks of tiles go through the three steps
// (input transform, 36 matrix products, output transform) in one thread's cache.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/checks.h"
#include "cpu/convert.h"

namespace pyranet_fast::cpu {

struct WinogradJob {
  const float* x;
  const float* bias;
  const float* other;
  float* y;
  int64_t height, width, rows, columns;  // of the map, and in tiles
  int64_t inputs, outputs, padded;       // channels; outputs up to whole panels
  bool relu;
};

}  // namespace pyranet_fast::cpu

#define PF_KERNEL_FILE "cpu/winograd_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

using torch::stable::parallel_for;

int64_t padded(int64_t outputs) {
  const int64_t columns = PF_CHOOSE(winograd_columns)();
  return (outputs + columns - 1) / columns * columns;
}

// (K, C, 3, 3) to (36, padded K / columns, C, columns). For the gradient of the input the filter is turned by half a
// turn and inputs and outputs change places.
Tensor winograd_pack(Tensor weight, bool backward) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.scalar_type() == ScalarType::Float,
                  "winograd_pack: weight must be (K, C, 3, 3) in float32");
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(backward ? 1 : 0), c = weight.size(backward ? 0 : 1);
  const int64_t columns = PF_CHOOSE(winograd_columns)(), panels = padded(k) / columns;
  Tensor result = empty_nchw(weight, {36, panels, c, columns}, false, ScalarType::Float);
  const float* w = weight.const_data_ptr<float>();
  float* u = result.mutable_data_ptr<float>();
  static constexpr double g[6][3] = {{1. / 4, 0, 0},          {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                                     {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
  parallel_for(0, panels * c, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t panel = row / c, i = row % c;
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t o = panel * columns + column;
        double half[6][3] = {};
        if (o < k) {
          const float* filter = w + (backward ? (i * k + o) : (o * c + i)) * 9;
          for (int a = 0; a < 6; ++a) {
            for (int b = 0; b < 3; ++b) {
              for (int d = 0; d < 3; ++d) half[a][b] += g[a][d] * filter[backward ? 8 - (3 * d + b) : 3 * d + b];
            }
          }
        }
        for (int a = 0; a < 6; ++a) {
          for (int b = 0; b < 6; ++b) {
            double value = 0;
            for (int d = 0; d < 3; ++d) value += half[a][d] * g[b][d];
            u[(6 * a + b) * panels * c * columns + row * columns + column] = static_cast<float>(value);
          }
        }
      }
    }
  });
  return result;
}

Tensor winograd_conv3x3(Tensor x, Tensor packed, std::optional<Tensor> bias, std::optional<Tensor> other,
                        int64_t outputs, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float,
                  "winograd_conv3x3: x must be (N, C, H, W) in float32");
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), wide = padded(outputs);
  STD_TORCH_CHECK(packed.dim() == 4 && packed.size(0) == 36 && packed.size(2) == c &&
                      packed.size(1) * packed.size(3) == wide && packed.scalar_type() == ScalarType::Float &&
                      packed.is_contiguous(),
                  "winograd_conv3x3: packed must come from winograd_pack on this machine, for the channels of x");
  Tensor y = empty_nchw(x, {n, outputs, h, w}, true, ScalarType::Float);
  if (y.numel() == 0) return y;
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->numel() == outputs && bias->scalar_type() == ScalarType::Float,
                    "winograd_conv3x3: bias must be (K,) in float32");
    bias = torch::stable::contiguous(*bias);
  }
  if (other.has_value()) {
    STD_TORCH_CHECK(other->dim() == 4 && other->size(0) == n && other->size(1) == outputs && other->size(2) == h &&
                        other->size(3) == w && other->scalar_type() == ScalarType::Float,
                    "winograd_conv3x3: other must have the output's shape, in float32");
    other = torch::stable::contiguous(*other, MemoryFormat::ChannelsLast);
  }
  const WinogradJob job{x.const_data_ptr<float>(),
                        bias.has_value() ? bias->const_data_ptr<float>() : nullptr,
                        other.has_value() ? other->const_data_ptr<float>() : nullptr,
                        y.mutable_data_ptr<float>(),
                        h,
                        w,
                        (h + 3) / 4,
                        (w + 3) / 4,
                        c,
                        outputs,
                        wide,
                        relu};
  const float* u = packed.const_data_ptr<float>();
  const int64_t tiles = n * job.rows * job.columns;
  constexpr int64_t kBlock = 48;
  // Equal blocks: a short last one would leave threads waiting.
  const int64_t blocks = std::max<int64_t>((tiles + kBlock - 1) / kBlock, std::min<int64_t>(tiles / 12, 2));
  const int64_t block = blocks == 0 ? tiles : (tiles + blocks - 1) / blocks;
  parallel_for(0, (tiles + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[36 * block * (c + wide) + 64]);
    float* v = scratch.get() + (16 - reinterpret_cast<uintptr_t>(scratch.get()) / 4 % 16) % 16;
    float* m = v + 36 * block * c;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t t0 = b * block, t1 = std::min(tiles, t0 + block);
      PF_CHOOSE(winograd_gather)(job, t0, t1, v);
      for (int64_t p = 0; p < 36; ++p) {
        PF_CHOOSE(winograd_product)
        (v + p * (t1 - t0) * c, u + p * c * wide, t1 - t0, c, wide, m + p * (t1 - t0) * wide);
      }
      PF_CHOOSE(winograd_scatter)(job, t0, t1, m);
    }
  });
  return y;
}

}  // namespace
}  // namespace pyranet_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("winograd_pack", TORCH_BOX(&pyranet_fast::cpu::winograd_pack));
  m.impl("winograd_conv3x3", TORCH_BOX(&pyranet_fast::cpu::winograd_conv3x3));
}
