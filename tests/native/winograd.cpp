#include "cpu/fused/winograd_job.h"

#include "parity.h"

#define PF_KERNEL_FILE "cpu/fused/winograd_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

void check(int64_t inputs, int64_t outputs, int64_t h, int64_t w) {
  constexpr int64_t batch = 2;
  const int64_t columns = PF_CHOOSE(winograd_columns)(), padded = (outputs + columns - 1) / columns * columns;
  const auto x = numbers<float>(batch * h * w * inputs, 61), weight = numbers<float>(outputs * inputs * 9, 62);
  const auto bias = numbers<float>(outputs, 63), other = numbers<float>(batch * h * w * outputs, 64);
  std::vector<float> y(batch * h * w * outputs), packed(36 * padded * inputs, 0.f);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i) {
      for (int64_t p = 0; p < 36; ++p) {
        double sum = 0;
        for (int t = 0; t < 9; ++t) {
          sum += kFilter[p / 6][t / 3] * kFilter[p % 6][t % 3] * static_cast<double>(weight[(o * inputs + i) * 9 + t]);
        }
        const int64_t panel = p * (padded / columns) + o / columns;
        packed[(panel * inputs + i) * columns + o % columns] = static_cast<float>(sum);
      }
    }
  }
  const WinogradJob job{x.data(),    bias.data(), other.data(), y.data(), h,      w,
                        (h + 3) / 4, (w + 3) / 4, inputs,       outputs,  padded, true};
  const int64_t tiles = batch * job.rows * job.columns;
  std::vector<float> v(36 * tiles * inputs), m(36 * tiles * padded);
  PF_CHOOSE(winograd_gather)(job, 0, tiles, 0, tiles, v.data());
  for (int64_t p = 0; p < 36; ++p) {
    PF_CHOOSE(winograd_product)
    (v.data() + p * tiles * inputs, packed.data() + p * inputs * padded, tiles, inputs, padded,
     m.data() + p * tiles * padded);
  }
  const bool finite = PF_CHOOSE(winograd_scatter)(job, 0, tiles, m.data());

  // The gradient of the weight, for `other` as the gradient of the output.
  std::vector<float> d(36 * tiles * padded), u(36 * inputs * padded, 0.f);
  PF_CHOOSE(winograd_gather_gradient)(job, other.data(), 0, tiles, 0, tiles, d.data());
  for (int64_t p = 0; p < 36; ++p) {
    PF_CHOOSE(winograd_outer)
    (v.data() + p * tiles * inputs, d.data() + p * tiles * padded, tiles, inputs, padded,
     u.data() + p * inputs * padded);
  }
  std::vector<float> gradient(outputs * inputs * 9);
  std::vector<double> wanted(y.size()), wanted_gradient(gradient.size(), 0.0);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t at = 0; at < h * w; ++at) {
      for (int64_t o = 0; o < outputs; ++o) {
        const int64_t place = (n * h * w + at) * outputs + o;
        double sum = static_cast<double>(bias[o]) + other[place];
        for (int t = 0; t < 9; ++t) {
          const int64_t row = at / w + t / 3 - 1, column = at % w + t % 3 - 1;
          if (row < 0 || row >= h || column < 0 || column >= w) continue;
          for (int64_t i = 0; i < inputs; ++i) {
            const double value = x[((n * h + row) * w + column) * inputs + i];
            sum += value * weight[(o * inputs + i) * 9 + t];
            wanted_gradient[(o * inputs + i) * 9 + t] += value * other[place];
          }
        }
        wanted[place] = std::max(0.0, sum);
      }
    }
  }
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i) {
      for (int t = 0; t < 9; ++t) {
        double sum = 0;
        for (int64_t p = 0; p < 36; ++p) {
          sum += kFilter[p / 6][t / 3] * kFilter[p % 6][t % 3] * static_cast<double>(u[(p * inputs + i) * padded + o]);
        }
        gradient[(o * inputs + i) * 9 + t] = static_cast<float>(sum);
      }
    }
  }
  const std::string of = " of " + std::to_string(inputs) + " to " + std::to_string(outputs) + " channels";
  expect("winograd" + of, y.data(), wanted, 1e-4);
  const float told = finite ? 1.f : 0.f, infinity = std::numeric_limits<float>::infinity();
  expect("winograd, of finite values," + of, &told, {1.0}, 0);
  m[padded * (tiles - 1)] = infinity;
  const float spoilt = PF_CHOOSE(winograd_scatter)(job, 0, tiles, m.data()) ? 1.f : 0.f;
  expect("winograd, of an infinity," + of, &spoilt, {0.0}, 0);
  expect("winograd, the weight's gradient," + of, gradient.data(), wanted_gradient, 5e-4);
}

}  // namespace

void winograd() { check(3, 5, 6, 9), check(21, 40, 4, 4), check(16, 64, 7, 5), check(33, 16, 9, 10); }

}  // namespace pyranet_fast::cpu::parity
