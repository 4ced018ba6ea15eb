#include "cpu/upsample_sum_job.h"

#include "parity.h"

#define PF_KERNEL_FILE "cpu/upsample_sum_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

struct Size {
  int64_t h, w;
};

template <typename T>
void check(int64_t channels, int64_t height, int64_t width, const std::vector<Size>& sizes, bool align_corners) {
  using W = wide_t<T>;
  const std::string of = std::string(" of ") + kTypeName<T> + " with " + std::to_string(channels) + " channels";
  const int64_t lanes = PF_CHOOSE(lanes<W>)(), n = height * width * channels;
  std::vector<std::vector<T>> maps, grads;
  const auto base = numbers<T>(n, 31), grad = numbers<T>(n, 32);
  std::vector<T> out(n);
  UpsampleJob<W> job{{}, channels, height, width, base.data(), out.data()};
  UpsampleBackwardJob<W> backward{{}, grad.data(), channels, height, width, {}};
  std::vector<double> wanted(n);
  std::vector<std::vector<double>> wanted_grads;
  for (int64_t i = 0; i < n; ++i) wanted[i] = wide(base[i]);
  for (const Size& size : sizes) {
    maps.push_back(numbers<T>(size.h * size.w * channels, static_cast<uint32_t>(33 + maps.size())));
    grads.emplace_back(maps.back().size());
    wanted_grads.emplace_back(maps.back().size(), 0.0);
  }
  for (size_t l = 0; l < sizes.size(); ++l) {
    const auto [h, w] = sizes[l];
    const Taps<W> rows(h, height, align_corners, lanes), columns(w, width, align_corners, lanes);
    job.levels.push_back({maps[l].data(), static_cast<int64_t>(maps[l].size()), rows, columns});
    backward.levels.push_back({grads[l].data(), Sources<W>(rows, lanes), Sources<W>(columns, lanes)});
    const W row_ratio = bilinear_ratio<W>(h, height, align_corners);
    const W column_ratio = bilinear_ratio<W>(w, width, align_corners);
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        const auto row = bilinear_tap<W>(y, h, height, row_ratio, align_corners);
        const auto column = bilinear_tap<W>(x, w, width, column_ratio, align_corners);
        const double row_weights[] = {static_cast<double>(row.weight_first), static_cast<double>(row.weight_second)};
        const double column_weights[] = {static_cast<double>(column.weight_first),
                                         static_cast<double>(column.weight_second)};
        const int64_t row_of[] = {row.first, row.second}, column_of[] = {column.first, column.second};
        for (int a = 0; a < 2; ++a) {
          for (int b = 0; b < 2; ++b) {
            for (int64_t c = 0; c < channels; ++c) {
              const double weight = row_weights[a] * column_weights[b];
              const int64_t from = (row_of[a] * w + column_of[b]) * channels + c;
              const int64_t to = (y * width + x) * channels + c;
              wanted[to] += weight * wide(maps[l][from]);
              wanted_grads[l][from] += weight * wide(grad[to]);
            }
          }
        }
      }
    }
  }
  UpsampleScratch<T> scratch(sizes.size());
  for (int64_t block = 0; block < job.blocks(); ++block) {
    PF_CHOOSE(upsample_strip<T>)(job, 0, block, 0, height, scratch);
  }
  expect("upsample_strip" + of, out.data(), wanted);
  backward.sort_rows();
  LineAligned<W> memory;
  std::vector<const T*> pointers(backward.most());
  PF_CHOOSE(upsample_backward<T>)
  (backward, 0, 0, static_cast<int64_t>(backward.order.size()), memory, pointers);
  for (size_t l = 0; l < sizes.size(); ++l) {
    expect("upsample_backward" + of, grads[l].data(), wanted_grads[l], std::is_same_v<T, float> ? 1e-4 : kTolerance<T>);
  }
}

}  // namespace

void upsample_sum() {
  for_each_type([](auto type) {
    using T = decltype(type);
    for (const int64_t channels : {1, 2, 5, 16, 21, 70, 150}) {
      for (const bool align_corners : {false, true}) {
        check<T>(channels, 12, 37, {{5, 9}, {12, 37}, {3, 33}, {1, 1}}, align_corners);
        check<T>(channels, 6, 5, {{12, 37}}, align_corners);
      }
    }
  });
}

}  // namespace pyranet_fast::cpu::parity
