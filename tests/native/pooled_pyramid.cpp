#include "cpu/fused/packing.h"
#include "cpu/fused/pooled_pyramid_job.h"

#include "common/window.h"
#include "parity.h"

#define PF_BF16_PRODUCTS_TOO
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

template <typename T>
void check(int64_t channels, int64_t filters, int64_t outputs) {
  constexpr int64_t h = 13, w = 11, batch = 2, levels = 2;
  const int64_t level_h[levels] = {7, 9}, level_w[levels] = {6, 10};
  const int64_t columns = PF_CHOOSE(pyramid_columns)(filters), panel = PF_CHOOSE(pointwise_panel)();
  const int64_t padded = (filters + columns - 1) / columns * columns, panels = (outputs + panel - 1) / panel;
  const auto x = numbers<T>(batch * h * w * channels, 71), expand = numbers<T>(outputs * filters, 72);
  const auto before = numbers<T>(batch * h * w * outputs, 74), weight = numbers<T>(filters * channels * 9, 75);
  const auto expand_bias = numbers<float>(outputs, 73);
  auto bias = numbers<float>(filters, 76);
  std::vector<T> y = before, packed_expand(panels * filters * panel), packed(padded * channels * 9);
  const auto end = [&](int64_t o, int64_t k) { return expand[o * filters + k]; };
  const auto tap = [&](int64_t k, int64_t i) { return weight[(k * channels + i % channels) * 9 + i / channels]; };
  pack_panels(outputs, filters, panel, end, packed_expand.data());
  pack_panels(filters, 9 * channels, columns, tap, packed.data());
  bias.resize(padded, 0.f);
  std::vector<Taps<float>> taps;
  taps.reserve(2 * levels);
  PyramidJob<T> job{
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
        const T* from = &x[((n * h + job.levels[l].row_start[i]) * w + job.levels[l].column_start[j]) * channels + c];
        return std::max(std::max(wide(from[0]), wide(from[channels])),
                        std::max(wide(from[w * channels]), wide(from[(w + 1) * channels])));
      };
      std::vector<double> map(level_h[l] * level_w[l] * filters);
      for (int64_t at = 0; at < level_h[l] * level_w[l]; ++at) {
        for (int64_t k = 0; k < filters; ++k) {
          double sum = bias[k];
          for (int t = 0; t < 9; ++t) {
            for (int64_t c = 0; c < channels; ++c) {
              sum += wide(weight[(k * channels + c) * 9 + t]) *
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
  std::vector<float> maps(batch * job.pixels * padded), blended(levels * w * padded + 64);
  std::vector<T> row((w + 1) * padded + 64);
  job.maps = maps.data();
  std::vector<T> rows((kPyramidRows + 2) * (w + 2) * channels + 64);
  for (int64_t n = 0; n < batch; ++n) {
    for (const PyramidLevel<T>& level : job.levels) {
      for (int64_t i = 0; i < level.h; i += kPyramidRows) {
        PF_CHOOSE(pyramid_filter<T>)(job, level, n, i, std::min(level.h, i + kPyramidRows), rows.data());
      }
    }
  }
  for (int64_t i = 0; i < batch * h; ++i) {
    PF_CHOOSE(pyramid_join<T>)(job, i / h, i % h, blended.data(), row.data());
  }
  std::vector<double> wanted(y.size());
  for (int64_t p = 0; p < batch * h * w; ++p) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = static_cast<double>(expand_bias[o]) + wide(before[p * outputs + o]);
      for (int64_t k = 0; k < filters; ++k) {
        const double active = std::max(0.0, joined[p * filters + k]);
        sum += wide(expand[o * filters + k]) * wide(store<T>(static_cast<float>(active)));
      }
      wanted[p * outputs + o] = std::max(0.0, sum);
    }
  }
  expect(std::string("pooled_pyramid in ") + kTypeName<T> + " of " + std::to_string(channels) + " channels, " +
             std::to_string(filters) + " filters",
         y.data(), wanted, std::is_same_v<T, float> ? 1e-4 : 1.0 / 64);
}

}  // namespace

void pooled_pyramid() {
  check<float>(3, 3, 5), check<float>(14, 14, 40), check<float>(16, 32, 64), check<float>(33, 21, 16);
  check<BFloat16>(2, 4, 5), check<BFloat16>(14, 14, 40), check<BFloat16>(16, 32, 64), check<BFloat16>(34, 22, 16);
}

}  // namespace pyranet_fast::cpu::parity
