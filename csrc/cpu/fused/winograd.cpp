// 3x3 convolution, stride 1, padding 1, of channels_last maps by Winograd's minimal filtering (Lavin and Gray, CVPR
// 2016): F(4x4, 3x3), a quarter of the products of the direct method, in float32; F(2x2, 3x3), 4/9 of them, in float32
// for maps of few tiles, since it reads fewer weights, and in bfloat16, which has too few digits for the other.
// Blocks of tiles go through the three steps (input transform, matrix products, output transform) in one thread's
// cache.
#include <atomic>

#include "cpu/fused/operators.h"
#include "cpu/fused/products.h"
#include "cpu/fused/winograd_job.h"

#define PF_BF16_PRODUCTS_TOO
#define PF_KERNEL_FILE "cpu/fused/winograd_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

constexpr const char* kName = "winograd_conv3x3";

// The sum of three rows, `apart` from each other, with a row of G.
void combine(const double* weights, const float* rows, int64_t apart, int64_t count, float* to) {
  const float a = static_cast<float>(weights[0]), b = static_cast<float>(weights[1]),
              c = static_cast<float>(weights[2]);
  for (int64_t i = 0; i < count; ++i) to[i] = a * rows[i] + b * rows[apart + i] + c * rows[2 * apart + i];
}

void check_float_map(const char* what, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, what, ": ", name,
                  " must be (N, C, H, W) in float32");
  check_map(what, name, x);
}

int64_t padded(int64_t outputs) {
  const int64_t columns = PF_CHOOSE(winograd_columns)();
  return (outputs + columns - 1) / columns * columns;
}

// In bfloat16, for tiles of 2x2: u(p) for all points p of one filter's taps.
void transform_small(const BFloat16* taps, float* u) {
  float half[12];
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 3; ++b) {
      half[3 * a + b] = 0;
      for (int t = 0; t < 3; ++t) half[3 * a + b] += static_cast<float>(kFilter<2>[a][t]) * load(taps[3 * t + b]);
    }
  }
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      u[4 * a + b] = 0;
      for (int t = 0; t < 3; ++t) u[4 * a + b] += static_cast<float>(kFilter<2>[b][t]) * half[3 * a + t];
    }
  }
}

void pack_small(const Tensor& weight, Tensor& result) {
  constexpr int points = kPoints<2>;
  const int64_t k = weight.size(0), c = weight.size(1), columns = result.size(3), plane = result.size(1) * c * columns;
  const BFloat16* w = read_pointer<BFloat16>(weight);
  BFloat16* to = write_pointer<BFloat16>(result);
  parallel_for(0, (k + columns - 1) / columns, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> u(points * columns * c);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * columns, count = std::min(columns, k - first);
      for (int64_t at = 0; at < count * c; ++at) transform_small(w + (first * c + at) * 9, u.data() + at * points);
      for (int p = 0; p < points; ++p) {
        const auto value = [&](int64_t o, int64_t i) { return store<BFloat16>(u[(o * c + i) * points + p]); };
        pack_panels(count, c, columns, value, to + p * plane + first * c);
      }
    }
  });
}

// Columns innermost, so that the compiler makes vectors of them; blocks of rows, so that the places that are written,
// one for every point and far apart, do not push each other out of the cache at every step.
template <int kTile>
void pack_filters(const Tensor& weight, bool backward, Tensor& result) {
  constexpr int side = kTile + 2;
  constexpr int64_t kRows = 8;
  const int64_t k = weight.size(backward ? 1 : 0), c = result.size(2), columns = result.size(3);
  const int64_t panels = result.size(1);
  const float* w = weight.const_data_ptr<float>();
  float* u = result.mutable_data_ptr<float>();
  parallel_for(0, (panels * c + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> taps(9 * columns), half(3 * side * kRows * columns);
    for (int64_t first = begin * kRows; first < std::min(end * kRows, panels * c); first += kRows) {
      const int64_t rows = std::min(kRows, panels * c - first);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t panel = (first + row) / c, i = (first + row) % c;
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t o = panel * columns + j;
          const float* filter = o < k ? w + (backward ? (i * k + o) : (o * c + i)) * 9 : nullptr;
          for (int t = 0; t < 9; ++t) taps[t * columns + j] = filter == nullptr ? 0.f : filter[backward ? 8 - t : t];
        }
        for (int a = 0; a < side; ++a) {
          for (int b = 0; b < 3; ++b) {
            combine(kFilter<kTile>[a], &taps[b * columns], 3 * columns, columns,
                    &half[((3 * a + b) * kRows + row) * columns]);
          }
        }
      }
      for (int a = 0; a < side; ++a) {
        for (int b = 0; b < side; ++b) {
          combine(kFilter<kTile>[b], &half[3 * a * kRows * columns], kRows * columns, rows * columns,
                  u + (side * a + b) * panels * c * columns + first * columns);
        }
      }
    }
  });
}

// (K, C, 3, 3) to (points, padded K / columns, C, columns), as gemm.h reads it, for tiles of 2x2 or, in float32, 4x4
// outputs. For the gradient of the input, in float32, the filter is turned by half a turn and inputs and outputs change
// places.
Tensor winograd_pack(Tensor weight, int64_t tile, bool backward) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3,
                  "winograd_pack: weight must be (K, C, 3, 3)");
  check_channels("winograd_pack", weight.size(0)), check_channels("winograd_pack", weight.size(1));
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(backward ? 1 : 0), c = weight.size(backward ? 0 : 1);
  const int64_t columns = PF_CHOOSE(winograd_columns)();
  dispatch_product("winograd_pack", weight, c, [&](auto) {});
  const bool single = weight.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(tile == 2 || (single && tile == 4), "winograd_pack: tile must be 2, or 4 in float32, got ", tile);
  STD_TORCH_CHECK(single || !backward, "winograd_pack: backward is for float32");
  Tensor result = empty_nchw(weight, {(tile + 2) * (tile + 2), padded(k) / columns, c, columns});
  if (!single) {
    pack_small(weight, result);
  } else if (tile == 2) {
    pack_filters<2>(weight, backward, result);
  } else {
    pack_filters<4>(weight, backward, result);
  }
  return result;
}

// Whether the convolution is finite.
template <int kTile, typename T>
bool convolve(const WinogradJob<T>& job, const T* u, int64_t tiles) {
  constexpr int points = kPoints<kTile>;
  constexpr int64_t kBlock = 36;
  const int64_t c = job.inputs, wide = job.padded;
  std::atomic<bool> finite{true};
  // Each thread makes equal blocks of its tiles: a block more for one, or a short last one, would leave others waiting.
  parallel_for(0, tiles, 8, [&](int64_t begin, int64_t end) {
    const int64_t blocks = (end - begin + kBlock - 1) / kBlock, block = (end - begin + blocks - 1) / blocks;
    const int64_t in_plane = block * c + 64 / sizeof(T), out_plane = block * wide + 16;
    const std::unique_ptr<T[]> inputs(new T[points * in_plane + 64]);
    const std::unique_ptr<float[]> outputs(new float[points * out_plane + 64]);
    const auto aligned = [](auto* from) {
      const uintptr_t size = sizeof(*from), past = reinterpret_cast<uintptr_t>(from) % 64;
      return from + (64 - past) % 64 / size;
    };
    T* v = aligned(inputs.get());
    float* m = aligned(outputs.get());
    for (int64_t first = begin; first < end; first += block) {
      const int64_t past = std::min(end, first + block), count = past - first;
      PF_CHOOSE(winograd_gather<kTile, T>)(job, first, past, first, in_plane, v);
      for (int64_t p = 0; p < points; ++p) {
        PF_CHOOSE(winograd_product<T>)(v + p * in_plane, u + p * c * wide, count, c, wide, m + p * out_plane);
      }
      if (!PF_CHOOSE(winograd_scatter<kTile, T>)(job, first, past, out_plane, m)) finite = false;
    }
  });
  return finite.load();
}

}  // namespace

std::tuple<Tensor, bool> winograd_conv3x3(Tensor x, Tensor packed, std::optional<Tensor> bias,
                                          std::optional<Tensor> other, int64_t outputs, bool relu) {
  check_map(kName, "x", x);
  check_channels(kName, outputs);
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const ScalarType type = x.scalar_type();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), wide = padded(outputs);
  Tensor y = empty_nchw(x, {n, outputs, h, w}, true);
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->numel() == outputs && bias->scalar_type() == ScalarType::Float, kName,
                    ": bias must be (K,) in float32");
    bias = torch::stable::contiguous(*bias);
  }
  if (other.has_value()) {
    STD_TORCH_CHECK(other->dim() == 4 && other->size(0) == n && other->size(1) == outputs && other->size(2) == h &&
                        other->size(3) == w && other->scalar_type() == type,
                    kName, ": other must have the output's shape, in the dtype of x");
    other = torch::stable::contiguous(*other, MemoryFormat::ChannelsLast);
  }
  bool finite = true;
  dispatch_product(kName, x, c, [&](auto element) {
    using T = decltype(element);
    const auto run = [&](auto size) {
      constexpr int tile = decltype(size)::value;
      const WinogradJob<T> job{read_pointer<T>(x),
                               bias.has_value() ? bias->const_data_ptr<float>() : nullptr,
                               other.has_value() ? read_pointer<T>(*other) : nullptr,
                               write_pointer<T>(y),
                               h,
                               w,
                               (h + tile - 1) / tile,
                               (w + tile - 1) / tile,
                               c,
                               outputs,
                               wide,
                               relu};
      if (y.numel() > 0) finite = convolve<tile>(job, read_pointer<T>(packed), n * job.rows * job.columns);
    };
    const int64_t points = packed.dim() == 4 ? packed.size(0) : 0;
    STD_TORCH_CHECK((points == kPoints<2> || (std::is_same_v<T, float> && (points == kPoints<4>))) &&
                        packed.size(2) == c && packed.size(3) == PF_CHOOSE(winograd_columns)() &&
                        packed.size(1) == wide / packed.size(3) && packed.scalar_type() == type &&
                        packed.is_contiguous(),
                    kName, ": packed must come from winograd_pack on this machine, for the channels and dtype of x");
    if (points == kPoints<2>) {
      run(std::integral_constant<int, 2>{});
    } else if constexpr (std::is_same_v<T, float>) {
      run(std::integral_constant<int, 4>{});
    }
  });
  return {y, finite};
}

namespace {

// The gradient of the weight, (K, C, 3, 3): products of transformed inputs and transformed gradients summed over all
// tiles, in one order whatever the number of threads, then transformed back.
std::tuple<Tensor, bool> winograd_weight_gradient(Tensor x, Tensor gradient) {
  check_float_map("winograd_weight_gradient", "x", x);
  check_float_map("winograd_weight_gradient", "gradient", gradient);
  STD_TORCH_CHECK(x.size(0) == gradient.size(0) && x.size(2) == gradient.size(2) && x.size(3) == gradient.size(3),
                  "winograd_weight_gradient: x and gradient must be float32 maps of one batch and size");
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  gradient = torch::stable::contiguous(gradient, MemoryFormat::ChannelsLast);
  const int64_t n = x.size(0), c = x.size(1), k = gradient.size(1), h = x.size(2), w = x.size(3), wide = padded(k);
  Tensor result = empty_nchw(x, {k, c, 3, 3}, false, ScalarType::Float);
  const WinogradJob<float> job{
      x.const_data_ptr<float>(), nullptr, nullptr, nullptr, h, w, (h + 3) / 4, (w + 3) / 4, c, k, wide, false};
  const float* g = gradient.const_data_ptr<float>();
  const int64_t tiles = n * job.rows * job.columns;
  const int64_t chunk = std::min<int64_t>(tiles, 256);  // both transforms of a chunk stay in a shared cache
  const int64_t in_plane = chunk * c + 16, out_plane = chunk * wide + 16;
  Tensor scratch = empty_nchw(x, {36 * (in_plane + out_plane + c * wide)}, false, ScalarType::Float);
  float* v = scratch.mutable_data_ptr<float>();
  float* d = v + 36 * in_plane;
  float* u = d + 36 * out_plane;
  std::fill(u, u + 36 * c * wide, 0.f);
  for (int64_t first = 0; first < tiles; first += chunk) {
    const int64_t count = std::min(chunk, tiles - first);
    parallel_for(first, first + count, 8, [&](int64_t begin, int64_t end) {
      PF_CHOOSE(winograd_gather<4, float>)(job, begin, end, first, in_plane, v);
      PF_CHOOSE(winograd_gather_gradient)(job, g, begin, end, first, out_plane, d);
    });
    parallel_for(0, 36, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        PF_CHOOSE(winograd_outer)(v + p * in_plane, d + p * out_plane, count, c, wide, u + p * c * wide);
      }
    });
  }
  float* to = result.mutable_data_ptr<float>();
  std::atomic<bool> finite{true};
  parallel_for(0, c, 8, [&](int64_t begin, int64_t end) {
    std::vector<double> half(18 * wide);
    double spoilt = 0;  // or NaN
    for (int64_t i = begin; i < end; ++i) {
      for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 6; ++b) {
          double* sum = half.data() + (6 * a + b) * wide;
          std::fill(sum, sum + wide, 0.0);
          for (int e = 0; e < 6; ++e) {
            const float* from = u + (6 * e + b) * c * wide + i * wide;
            for (int64_t o = 0; o < wide; ++o) sum[o] += kFilter<4>[e][a] * static_cast<double>(from[o]);
          }
        }
      }
      for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) {
          for (int64_t o = 0; o < k; ++o) {
            double sum = 0;
            for (int e = 0; e < 6; ++e) sum += kFilter<4>[e][b] * half[(6 * a + e) * wide + o];
            to[(o * c + i) * 9 + 3 * a + b] = static_cast<float>(sum);
            spoilt += to[(o * c + i) * 9 + 3 * a + b] * 0.0;
          }
        }
      }
    }
    if (spoilt != 0) finite = false;
  });
  return {result, finite.load()};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("winograd_pack", TORCH_BOX(&winograd_pack));
  m.impl("winograd_weight_gradient", TORCH_BOX(&winograd_weight_gradient));
  m.impl("winograd_conv3x3", TORCH_BOX(&winograd_conv3x3));
}

}  // namespace
}  // namespace pyranet_fast::cpu
