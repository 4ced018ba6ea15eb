#include "cpu/fused/add_affine_relu_job.h"

#include "parity.h"

#define PF_KERNEL_FILE "cpu/fused/add_affine_relu_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

template <typename T>
void check(int64_t channels, bool half) {
  using W = wide_t<T>;
  constexpr int64_t pixels = 10, outputs = 2;
  const int64_t n = pixels * channels;
  const auto x = numbers<T>(half ? n / 2 : n, 41), other = numbers<T>(n, 42);
  const auto scale = numbers<W>(outputs * channels, 43), shift = numbers<W>(outputs * channels, 44);
  std::vector<T> sum(n), first(n), second(n);
  const AddAffineJob<T> job{channels, half, scale.data(), shift.data(), sum.data(), {first.data(), second.data()}};
  PF_CHOOSE(add_affine_relu_row<T>)(job, x.data(), other.data(), 0, pixels);
  std::vector<double> wanted_sum(n), wanted(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t p = i / channels, c = i % channels;
    const T rounded = store<T>(static_cast<W>(wide(x[(half ? p / 2 : p) * channels + c]) + wide(other[i])));
    wanted_sum[i] = wide(rounded);
    const double y = wide(rounded) * scale[channels + c] + shift[channels + c];
    wanted[i] = y < 0 ? 0 : y;
  }
  const std::string of = std::string(" of ") + kTypeName<T> + " with " + std::to_string(channels) + " channels";
  expect("add_affine_relu_row, the sum," + of, sum.data(), wanted_sum);
  expect("add_affine_relu_row" + of, second.data(), wanted);
}

}  // namespace

void add_affine_relu() {
  for_each_type([](auto type) {
    for (const int64_t channels : {1, 3, 16, 21, 64}) {
      check<decltype(type)>(channels, false), check<decltype(type)>(channels, true);
    }
  });
}

}  // namespace pyranet_fast::cpu::parity
