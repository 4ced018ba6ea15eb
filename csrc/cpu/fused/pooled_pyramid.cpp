// The pooled pyramid of a residual unit, from what its first 1x1 convolution makes to the ReLU before the unit's last
// one, with windows of evaluation: pool, 3x3 filters, upsample, add, ReLU, 1x1, add, ReLU. Pooled and upsampled maps
// exist only row by row in a cache, and small maps cost no call of their own. float32 or bfloat16, channels_last, for
// inference.
#include <deque>

#include "common/window.h"
#include "cpu/fused/pooled_pyramid_job.h"
#include "cpu/fused/operators.h"
#include "cpu/fused/products.h"
#include "cpu/upsample_sum_job.h"

#define PF_BF16_PRODUCTS_TOO
#define PF_KERNEL_FILE "cpu/fused/pooled_pyramid_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

constexpr const char* kName = "pooled_pyramid_";

// Dense NHWC, whether or not it is dense NCHW too.
bool is_nhwc(const Tensor& x) {
  return x.numel() == 0 || is_channels_last(x) || (x.is_contiguous() && (x.size(1) == 1 || x.size(2) * x.size(3) == 1));
}

int64_t padded_filters(int64_t filters) {
  const int64_t columns = PF_CHOOSE(pyramid_columns)(filters);
  return (filters + columns - 1) / columns * columns;
}

// (K, C, 3, 3) to panels of columns, as gemm.h reads them, of depth (3 * dy + dx) * C + c: float32, or bfloat16 for
// even C.
Tensor pyramid_pack(Tensor weight) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3,
                  "pyramid_pack: weight must be (K, C, 3, 3)");
  check_channels("pyramid_pack", weight.size(0)), check_channels("pyramid_pack", weight.size(1));
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(0), c = weight.size(1), columns = PF_CHOOSE(pyramid_columns)(k);
  Tensor result = empty_nchw(weight, {padded_filters(k) / columns, 9 * c, columns});
  dispatch_product("pyramid_pack", weight, c, [&](auto type) {
    using T = decltype(type);
    const T* from = read_pointer<T>(weight);
    const auto tap = [&](int64_t o, int64_t i) { return from[(o * c + i % c) * 9 + i / c]; };
    pack_panels(k, 9 * c, columns, tap, write_pointer<T>(result));
  });
  return result;
}

// Windows of evaluation: u = 1/2 for all.
std::vector<int32_t> window_starts(int64_t in, int64_t out) {
  std::vector<int32_t> starts(out, static_cast<int32_t>(in - 2));
  const float alpha = window_alpha<float>(in, out);
  for (int64_t i = 0; i + 1 < out; ++i) {
    starts[i] = window_start<float>(static_cast<int32_t>(i), static_cast<int32_t>(in), 0.5f, alpha);
  }
  return starts;
}

// Rows of a level that one thread filters at a time.
struct Band {
  int64_t n, level, i0, i1;
};

// Bands in as many groups of about equal work as there are threads.
template <typename T>
std::vector<std::vector<Band>> groups_of(const PyramidJob<T>& job, int64_t count) {
  std::vector<std::vector<Band>> groups(count);
  std::vector<int64_t> work(count, 0);
  for (int64_t n = 0; n < job.batch; ++n) {
    for (size_t l = 0; l < job.levels.size(); ++l) {
      const PyramidLevel<T>& level = job.levels[l];
      const int64_t least = std::min(kPyramidRows, (level.h + count - 1) / count);
      for (int64_t i = 0; i < level.h; i += least) {
        const size_t g = std::min_element(work.begin(), work.end()) - work.begin();
        groups[g].push_back({n, static_cast<int64_t>(l), i, std::min(level.h, i + least)});
        work[g] += (groups[g].back().i1 - i) * level.w;
      }
    }
  }
  return groups;
}

template <typename T>
void run(const PyramidJob<T>& job) {
  const int64_t widest = job.levels.empty() ? 0 : job.width + 2, room = 64;
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const auto groups = groups_of(job, threads);
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> scratch(new T[(kPyramidRows + 2) * widest * job.channels + room]);
    for (int64_t g = begin; g < end; ++g) {
      for (const Band& band : groups[g]) {
        PF_CHOOSE(pyramid_filter<T>)(job, job.levels[band.level], band.n, band.i0, band.i1, scratch.get());
      }
    }
  });
  const int64_t levels = static_cast<int64_t>(job.levels.size());
  parallel_for(0, job.batch * job.height, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> blended(new float[levels * job.width * job.padded + room]);
    const std::unique_ptr<T[]> joined(new T[(job.width + 1) * job.padded + room]);
    for (int64_t i = begin; i < end; ++i) {
      PF_CHOOSE(pyramid_join<T>)(job, i / job.height, i % job.height, blended.get(), joined.get());
    }
  });
}

}  // namespace

void pooled_pyramid_(Tensor x, std::vector<int64_t> sizes, std::vector<Tensor> filters, std::vector<Tensor> biases,
                     Tensor expand, Tensor expand_bias, Tensor y) {
  check_map(kName, "x", x);
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const ScalarType type = x.scalar_type();
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3), count = static_cast<int64_t>(filters.size());
  STD_TORCH_CHECK(count > 0 && biases.size() == filters.size(), kName, ": filters must not be empty, with a bias each");
  STD_TORCH_CHECK(!sizes.empty() && sizes.size() % 2 == 0, kName, ": sizes must be h and w of every level");
  STD_TORCH_CHECK(y.dim() == 4 && y.scalar_type() == type && y.size(0) == x.size(0) && y.size(2) == h &&
                      y.size(3) == w && is_nhwc(y),
                  kName, ": y must be (N, K, H, W) of the size and dtype of x, channels_last");
  const int64_t k = biases[0].numel(), padded = padded_filters(k), outputs = y.size(1);
  const int64_t columns = PF_CHOOSE(pyramid_columns)(k), panel = PF_CHOOSE(pointwise_panel)();
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(
        filters[i].dim() == 3 && filters[i].size(0) * columns == padded && filters[i].size(1) == 9 * c &&
            filters[i].size(2) == columns && filters[i].scalar_type() == type && filters[i].is_contiguous() &&
            is_float_vector(biases[i], k),
        kName,
        ": filters must come from pyramid_pack on this machine, in the dtype of x, all with as many filters, "
        "a float32 bias each");
  }
  STD_TORCH_CHECK(expand.dim() == 3 && expand.size(0) == (outputs + panel - 1) / panel && expand.size(1) == k &&
                      expand.size(2) == panel && expand.scalar_type() == type && expand.is_contiguous() &&
                      is_float_vector(expand_bias, outputs),
                  kName,
                  ": expand must come from pointwise_pack on this machine, in the dtype of x, with a float32 bias for "
                  "each channel of y");
  for (size_t i = 0; i < sizes.size(); i += 2) {
    STD_TORCH_CHECK(sizes[i] >= 1 && sizes[i + 1] >= 1 && sizes[i] < h && sizes[i + 1] < w, kName,
                    ": sizes must be between 1 and the input size - 1");
  }
  if (y.numel() == 0) return;
  std::vector<float> padded_bias(count * padded, 0.f);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(padded_bias.data() + i * padded, biases[i].const_data_ptr<float>(), k * sizeof(float));
  }
  std::deque<Taps<float>> taps;
  dispatch_product(kName, x, c, [&](auto element) {
    using T = decltype(element);
    STD_TORCH_CHECK(k % kProductStep<T> == 0, kName, ": expected an even number of filters in bfloat16, got ", k);
    PyramidJob<T> job{read_pointer<T>(x),
                      x.size(0),
                      h,
                      w,
                      c,
                      {},
                      0,
                      k,
                      padded,
                      nullptr,
                      read_pointer<T>(expand),
                      expand_bias.const_data_ptr<float>(),
                      write_pointer<T>(y),
                      outputs};
    for (size_t l = 0; l < sizes.size() / 2; ++l) {
      const int64_t lh = sizes[2 * l], lw = sizes[2 * l + 1];
      const Taps<float>& rows = taps.emplace_back(lh, h, true, 1);
      const Taps<float>& of_columns = taps.emplace_back(lw, w, true, 1);
      const int64_t i = static_cast<int64_t>(l) % count;
      job.levels.push_back({lh, lw, job.pixels, window_starts(h, lh), window_starts(w, lw), read_pointer<T>(filters[i]),
                            padded_bias.data() + i * padded, &rows, &of_columns});
      job.pixels += lh * lw;
    }
    const std::unique_ptr<float[]> maps(new float[job.batch * job.pixels * padded]);
    job.maps = maps.get();
    run(job);
  });
}

namespace {

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("pyramid_pack", TORCH_BOX(&pyramid_pack));
  m.impl("pooled_pyramid_", TORCH_BOX(&pooled_pyramid_));
}

}  // namespace
}  // namespace pyranet_fast::cpu
