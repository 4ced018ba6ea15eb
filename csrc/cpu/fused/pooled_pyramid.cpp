// The pooled pyramid of a residual unit, from what its first 1x1 convolution makes to the ReLU before the unit's last
// one, with windows of evaluation: pool, 3x3 filters, upsample, add, ReLU, 1x1, add, ReLU. Pooled and upsampled maps
// exist only row by row in a cache, and small maps cost no call of their own. float32, channels_last, for inference.
#include <deque>

#include "common/window.h"
#include "cpu/fused/pooled_pyramid_job.h"
#include "cpu/host.h"
#include "cpu/upsample_sum_job.h"

#define PF_KERNEL_FILE "cpu/fused/pooled_pyramid_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

constexpr const char* kName = "pooled_pyramid_";

// Dense NHWC, whether or not it is dense NCHW too.
bool is_nhwc(const Tensor& x) {
  return x.numel() == 0 || is_channels_last(x) || (x.is_contiguous() && (x.size(1) == 1 || x.size(2) * x.size(3) == 1));
}

bool is_vector(const Tensor& x, int64_t n) {
  return x.scalar_type() == ScalarType::Float && x.dim() == 1 && x.is_contiguous() && x.numel() == n;
}

int64_t padded_filters(int64_t filters) {
  const int64_t columns = PF_CHOOSE(pyramid_columns)(filters);
  return (filters + columns - 1) / columns * columns;
}

// (K, C, 3, 3) to panels of columns: (panels, 9 * C, columns), row (3 * dy + dx) * C + c, zeros behind the last filter.
Tensor pyramid_pack(Tensor weight) {
  STD_TORCH_CHECK(
      weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.scalar_type() == ScalarType::Float,
      "pyramid_pack: weight must be (K, C, 3, 3) in float32");
  weight = torch::stable::contiguous(weight);
  const int64_t k = weight.size(0), c = weight.size(1), columns = PF_CHOOSE(pyramid_columns)(k);
  const int64_t panels = padded_filters(k) / columns;
  Tensor result = empty_nchw(weight, {panels, 9 * c, columns}, false, ScalarType::Float);
  const float* from = weight.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      for (int64_t i = 0; i < c; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t o = panel * columns + j;
          *to++ = o < k ? from[(o * c + i) * 9 + tap] : 0.f;
        }
      }
    }
  }
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
std::vector<std::vector<Band>> groups_of(const PyramidJob& job, int64_t count) {
  std::vector<std::vector<Band>> groups(count);
  std::vector<int64_t> work(count, 0);
  for (int64_t n = 0; n < job.batch; ++n) {
    for (size_t l = 0; l < job.levels.size(); ++l) {
      const PyramidLevel& level = job.levels[l];
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

void run(const PyramidJob& job) {
  const int64_t widest = job.levels.empty() ? 0 : job.width + 2, room = 64;
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const auto groups = groups_of(job, threads);
  parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[(kPyramidRows + 2) * widest * job.channels + room]);
    for (int64_t g = begin; g < end; ++g) {
      for (const Band& band : groups[g]) {
        PF_CHOOSE(pyramid_filter)(job, job.levels[band.level], band.n, band.i0, band.i1, scratch.get());
      }
    }
  });
  const int64_t rows = (static_cast<int64_t>(job.levels.size()) + 1) * (job.width + 1);
  parallel_for(0, job.batch * job.height, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[rows * job.padded + room]);
    for (int64_t i = begin; i < end; ++i) {
      PF_CHOOSE(pyramid_join)(job, i / job.height, i % job.height, scratch.get());
    }
  });
}

void pooled_pyramid_(Tensor x, std::vector<int64_t> sizes, std::vector<Tensor> filters, std::vector<Tensor> biases,
                     Tensor expand, Tensor expand_bias, Tensor y) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, kName, ": x must be (N, C, H, W) in float32");
  x = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3), count = static_cast<int64_t>(filters.size());
  STD_TORCH_CHECK(count > 0 && biases.size() == filters.size(), kName, ": filters must not be empty, with a bias each");
  STD_TORCH_CHECK(!sizes.empty() && sizes.size() % 2 == 0, kName, ": sizes must be h and w of every level");
  STD_TORCH_CHECK(y.dim() == 4 && y.scalar_type() == ScalarType::Float && y.size(0) == x.size(0) && y.size(2) == h &&
                      y.size(3) == w && is_nhwc(y),
                  kName, ": y must be (N, K, H, W) of the size of x in float32, channels_last");
  const int64_t k = biases[0].numel(), padded = padded_filters(k), outputs = y.size(1);
  const int64_t columns = PF_CHOOSE(pyramid_columns)(k), panel = PF_CHOOSE(pointwise_panel)();
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(filters[i].dim() == 3 && filters[i].size(0) * columns == padded && filters[i].size(1) == 9 * c &&
                        filters[i].size(2) == columns && filters[i].scalar_type() == ScalarType::Float &&
                        filters[i].is_contiguous() && is_vector(biases[i], k),
                    kName,
                    ": filters must come from pyramid_pack on this machine, all with as many filters, a bias each");
  }
  STD_TORCH_CHECK(expand.dim() == 3 && expand.size(0) == (outputs + panel - 1) / panel && expand.size(1) == k &&
                      expand.size(2) == panel && expand.scalar_type() == ScalarType::Float && expand.is_contiguous() &&
                      is_vector(expand_bias, outputs),
                  kName, ": expand must come from pointwise_pack on this machine, with a bias for each channel of y");
  if (y.numel() == 0) return;
  PyramidJob job{x.const_data_ptr<float>(),
                 x.size(0),
                 h,
                 w,
                 c,
                 {},
                 0,
                 k,
                 padded,
                 nullptr,
                 expand.const_data_ptr<float>(),
                 expand_bias.const_data_ptr<float>(),
                 y.mutable_data_ptr<float>(),
                 outputs};
  std::vector<float> padded_bias(count * padded, 0.f);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(padded_bias.data() + i * padded, biases[i].const_data_ptr<float>(), k * sizeof(float));
  }
  std::deque<Taps<float>> taps;
  for (size_t l = 0; l < sizes.size() / 2; ++l) {
    const int64_t lh = sizes[2 * l], lw = sizes[2 * l + 1];
    STD_TORCH_CHECK(lh >= 1 && lw >= 1 && lh < h && lw < w, kName, ": sizes must be between 1 and the input size - 1");
    const Taps<float>& rows = taps.emplace_back(lh, h, true, 1);
    const Taps<float>& of_columns = taps.emplace_back(lw, w, true, 1);
    const int64_t i = static_cast<int64_t>(l) % count;
    job.levels.push_back({lh, lw, job.pixels, window_starts(h, lh), window_starts(w, lw),
                          filters[i].const_data_ptr<float>(), padded_bias.data() + i * padded, &rows, &of_columns});
    job.pixels += lh * lw;
  }
  const std::unique_ptr<float[]> maps(new float[job.batch * job.pixels * padded]);
  job.maps = maps.get();
  run(job);
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("pyramid_pack", TORCH_BOX(&pyramid_pack));
  m.impl("pooled_pyramid_", TORCH_BOX(&pooled_pyramid_));
}

}  // namespace
}  // namespace pyranet_fast::cpu
