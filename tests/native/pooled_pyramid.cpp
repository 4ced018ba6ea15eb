#include "cpu/fused/pooled_pyramid_job.h"

#include "common/window.h"
#include "parity.h"

#define PF_KERNEL_FILE "cpu/fused/pooled_pyramid_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

std::vector<int32_t> starts_of(int64_t in, int64_t out) {
  std::vector<int32_t> starts(out, static_cast<int32_t>(in - 2));
  const float alpha = window_alpha<float>(in, out);
  for (int32_t i = 0; i + 1 < out; ++i) starts[i] = window_start<float>(i, static_cast<int32_t>(in), 0.5f, alpha);
  return starts;
}

void check(int64_t channels, int64_t filters, int64_t outputs) {
  constexpr int64_t h = 13, w = 11, batch = 2, levels = 2;
  const int64_t level_h[levels] = {7, 9}, level_w[levels] = {6, 10};
  const int64_t columns = PF_CHOOSE(pyramid_columns)(filters), panel = PF_CHOOSE(pointwise_panel)();
  const int64_t padded = (filters + columns - 1) / columns * columns, panels = (outputs + panel - 1) / panel;
  const auto x = numbers<float>(batch * h * w * channels, 71), expand = numbers<float>(outputs * filters, 72);
  const auto expand_bias = numbers<float>(outputs, 73), before = numbers<float>(batch * h * w * outputs, 74);
  std::vector<float> y = before, packed_expand(panels * filters * panel, 0.f);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t k = 0; k < filters; ++k) {
      packed_expand[(o / panel * filters + k) * panel + o % panel] = expand[o * filters + k];
    }
  }
  const auto weight = numbers<float>(filters * channels * 9, 75);
  auto bias = numbers<float>(filters, 76);
  std::vector<float> packed(padded * channels * 9, 0.f);
  for (int64_t k = 0; k < filters; ++k) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < 9; ++t) {
        packed[((k / columns * 9 + t) * channels + c) * columns + k % columns] = weight[(k * channels + c) * 9 + t];
      }
    }
  }
  bias.resize(padded, 0.f);
  std::vector<Taps<float>> taps;
  taps.reserve(2 * levels);
  PyramidJob job{
      x.data(),           batch,    h,      w, channels, {}, 0, filters, padded, nullptr, packed_expand.data(),
      expand_bias.data(), y.data(), outputs};
  std::vector<double> joined(batch * h * w * filters, 0.0);
  for (int64_t l = 0; l < levels; ++l) {
    const Taps<float>& rows = taps.emplace_back(level_h[l], h, true, 1);
    const Taps<float>& of_columns = taps.emplace_back(level_w[l], w, true, 1);
    job.levels.push_back({level_h[l], level_w[l], job.pixels, starts_of(h, level_h[l]), starts_of(w, level_w[l]),
                          packed.data(), bias.data(), &rows, &of_columns});
    job.pixels += level_h[l] * level_w[l];
    for (int64_t n = 0; n < batch; ++n) {
      const auto pooled = [&](int64_t i, int64_t j, int64_t c) {
        if (i < 0 || j < 0 || i >= level_h[l] || j >= level_w[l]) return 0.0;
        const float* from =
            &x[((n * h + job.levels[l].row_start[i]) * w + job.levels[l].column_start[j]) * channels + c];
        return static_cast<double>(
            std::max(std::max(from[0], from[channels]), std::max(from[w * channels], from[(w + 1) * channels])));
      };
      std::vector<double> map(level_h[l] * level_w[l] * filters);
      for (int64_t at = 0; at < level_h[l] * level_w[l]; ++at) {
        for (int64_t k = 0; k < filters; ++k) {
          double sum = bias[k];
          for (int t = 0; t < 9; ++t) {
            for (int64_t c = 0; c < channels; ++c) {
              sum += weight[(k * channels + c) * 9 + t] *
                     pooled(at / level_w[l] + t / 3 - 1, at % level_w[l] + t % 3 - 1, c);
            }
          }
          map[at * filters + k] = sum;
        }
      }
      for (int64_t at = 0; at < h * w; ++at) {
        const int64_t i = at / w, j = at % w;
        const int32_t row_of[] = {rows.first[i], rows.second[i]};
        const int32_t column_of[] = {of_columns.first[j], of_columns.second[j]};
        const float row_weight[] = {rows.a[i], rows.b[i]}, column_weight[] = {of_columns.a[j], of_columns.b[j]};
        for (int a = 0; a < 2; ++a) {
          for (int b = 0; b < 2; ++b) {
            for (int64_t k = 0; k < filters; ++k) {
              joined[(n * h * w + at) * filters + k] += static_cast<double>(row_weight[a]) * column_weight[b] *
                                                        map[(row_of[a] * level_w[l] + column_of[b]) * filters + k];
            }
          }
        }
      }
    }
  }
  std::vector<float> maps(batch * job.pixels * padded), scratch((levels + 1) * (w + 1) * padded + 64);
  job.maps = maps.data();
  std::vector<float> rows((kPyramidRows + 2) * (w + 2) * channels + 64);
  for (int64_t n = 0; n < batch; ++n) {
    for (const PyramidLevel& level : job.levels) {
      for (int64_t i = 0; i < level.h; i += kPyramidRows) {
        PF_CHOOSE(pyramid_filter)(job, level, n, i, std::min(level.h, i + kPyramidRows), rows.data());
      }
    }
  }
  for (int64_t i = 0; i < batch * h; ++i) PF_CHOOSE(pyramid_join)(job, i / h, i % h, scratch.data());
  std::vector<double> wanted(y.size());
  for (int64_t p = 0; p < batch * h * w; ++p) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = static_cast<double>(expand_bias[o]) + before[p * outputs + o];
      for (int64_t k = 0; k < filters; ++k) sum += expand[o * filters + k] * std::max(0.0, joined[p * filters + k]);
      wanted[p * outputs + o] = std::max(0.0, sum);
    }
  }
  expect("pooled_pyramid of " + std::to_string(channels) + " channels, " + std::to_string(filters) + " filters",
         y.data(), wanted, 1e-4);
}

}  // namespace

void pooled_pyramid() { check(3, 3, 5), check(14, 14, 40), check(16, 32, 64), check(33, 21, 16); }

}  // namespace pyranet_fast::cpu::parity
