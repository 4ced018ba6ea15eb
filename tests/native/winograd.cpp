#include "cpu/fused/packing.h"
#include "cpu/fused/winograd_job.h"

#include "parity.h"

#define PF_BF16_PRODUCTS_TOO
#define PF_KERNEL_FILE "cpu/fused/winograd_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

// The gradient of the weight, for `other` as the gradient of the output.
void check_gradient(const WinogradJob<float>& job, const std::vector<float>& other, const std::vector<float>& v,
                    int64_t in_plane, int64_t tiles, const std::vector<double>& wanted, const std::string& of) {
  const int64_t inputs = job.inputs, outputs = job.outputs, padded = job.padded;
  const int64_t out_plane = tiles * padded + 7;
  std::vector<float> d(36 * out_plane), u(36 * inputs * padded, 0.f), gradient(outputs * inputs * 9);
  PF_CHOOSE(winograd_gather_gradient)(job, other.data(), 0, tiles, 0, out_plane, d.data());
  for (int64_t p = 0; p < 36; ++p) {
    PF_CHOOSE(winograd_outer)
    (v.data() + p * in_plane, d.data() + p * out_plane, tiles, inputs, padded, u.data() + p * inputs * padded);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i) {
      for (int t = 0; t < 9; ++t) {
        double sum = 0;
        for (int64_t p = 0; p < 36; ++p) {
          sum += kFilter<4>[p / 6][t / 3] * kFilter<4>[p % 6][t % 3] *
                 static_cast<double>(u[(p * inputs + i) * padded + o]);
        }
        gradient[(o * inputs + i) * 9 + t] = static_cast<float>(sum);
      }
    }
  }
  expect("winograd, the weight's gradient," + of, gradient.data(), wanted, 5e-4);
}

template <int kTile, typename T>
void check(int64_t inputs, int64_t outputs, int64_t h, int64_t w) {
  constexpr int64_t batch = 2;
  constexpr int points = kPoints<kTile>, side = kTile + 2;
  const int64_t columns = PF_CHOOSE(winograd_columns)(), padded = (outputs + columns - 1) / columns * columns;
  const auto x = numbers<T>(batch * h * w * inputs, 61), weight = numbers<T>(outputs * inputs * 9, 62);
  const auto other = numbers<T>(batch * h * w * outputs, 64);
  const auto bias = numbers<float>(outputs, 63);
  std::vector<T> y(batch * h * w * outputs), packed(points * padded * inputs);
  for (int p = 0; p < points; ++p) {
    const auto value = [&](int64_t o, int64_t i) {
      double sum = 0;
      for (int t = 0; t < 9; ++t) {
        const double both = kFilter<kTile>[p / side][t / 3] * kFilter<kTile>[p % side][t % 3];
        sum += both * wide(weight[(o * inputs + i) * 9 + t]);
      }
      return store<T>(static_cast<float>(sum));
    };
    pack_panels(outputs, inputs, columns, value, packed.data() + p * inputs * padded);
  }
  const WinogradJob<T> job{
      x.data(), bias.data(), other.data(), y.data(), h, w, (h + kTile - 1) / kTile, (w + kTile - 1) / kTile,
      inputs,   outputs,     padded,       true};
  const int64_t tiles = batch * job.rows * job.columns;
  const int64_t in_plane = tiles * inputs + 3, out_plane = tiles * padded + 5;
  std::vector<T> v(points * in_plane);
  std::vector<float> m(points * out_plane);
  PF_CHOOSE(winograd_gather<kTile, T>)(job, 0, tiles, 0, in_plane, v.data());
  for (int64_t p = 0; p < points; ++p) {
    PF_CHOOSE(winograd_product<T>)
    (v.data() + p * in_plane, packed.data() + p * inputs * padded, tiles, inputs, padded, m.data() + p * out_plane);
  }
  const bool finite = PF_CHOOSE(winograd_scatter<kTile, T>)(job, 0, tiles, out_plane, m.data());
  std::vector<double> wanted(y.size()), wanted_gradient(outputs * inputs * 9, 0.0);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t at = 0; at < h * w; ++at) {
      for (int64_t o = 0; o < outputs; ++o) {
        const int64_t place = (n * h * w + at) * outputs + o;
        double sum = static_cast<double>(bias[o]) + wide(other[place]);
        for (int t = 0; t < 9; ++t) {
          const int64_t row = at / w + t / 3 - 1, column = at % w + t % 3 - 1;
          if (row < 0 || row >= h || column < 0 || column >= w) continue;
          for (int64_t i = 0; i < inputs; ++i) {
            const double value = wide(x[((n * h + row) * w + column) * inputs + i]);
            sum += value * wide(weight[(o * inputs + i) * 9 + t]);
            wanted_gradient[(o * inputs + i) * 9 + t] += value * wide(other[place]);
          }
        }
        wanted[place] = std::max(0.0, sum);
      }
    }
  }
  const std::string of = std::string(" in ") + kTypeName<T> + " of " + std::to_string(inputs) + " to " +
                         std::to_string(outputs) + " channels, tiles of " + std::to_string(kTile);
  expect("winograd" + of, y.data(), wanted, std::is_same_v<T, float> ? 1e-4 : 1.0 / 16);
  const float told = finite ? 1.f : 0.f, infinity = std::numeric_limits<float>::infinity();
  expect("winograd, of finite values," + of, &told, {1.0}, 0);
  m[padded * (tiles - 1)] = infinity;
  const float spoilt = PF_CHOOSE(winograd_scatter<kTile, T>)(job, 0, tiles, out_plane, m.data()) ? 1.f : 0.f;
  expect("winograd, of an infinity," + of, &spoilt, {0.0}, 0);
  if constexpr (kTile == 4) check_gradient(job, other, v, in_plane, tiles, wanted_gradient, of);
}

}  // namespace

void winograd() {
  check<4, float>(3, 5, 6, 9), check<4, float>(21, 40, 4, 4), check<4, float>(16, 64, 7, 5);
  check<4, float>(33, 16, 9, 10);
  check<2, float>(3, 5, 6, 9), check<2, float>(21, 40, 4, 4), check<2, float>(16, 64, 7, 5);
  check<2, BFloat16>(2, 5, 6, 9), check<2, BFloat16>(22, 40, 4, 4), check<2, BFloat16>(16, 64, 7, 5);
}

}  // namespace pyranet_fast::cpu::parity
