// batch_norm_relu and shared_batch_norm_relu.
#include "parity.h"

#define PF_KERNEL_FILE "cpu/fused/shared_batch_norm_relu_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

template <typename T>
void check(int64_t channels, int64_t pixels) {
  using W = wide_t<T>;
  const std::string of = std::string(" of ") + kTypeName<T> + " with " + std::to_string(channels) + " channels";
  int64_t tile = 1;
  while (tile * channels % 16 != 0 || tile * channels < 64) ++tile;
  const int64_t length = tile * channels, n = pixels * channels;
  constexpr int64_t norms = 2;
  const auto repeated = [&](uint32_t seed) {  // one value a channel, over a tile
    std::vector<W> values = numbers<W>(channels, seed);
    for (int64_t i = channels; i < length; ++i) values.push_back(values[i - channels]);
    return values;
  };
  const auto x = numbers<T>(n, 1), grad = numbers<T>(n, 2), extra = numbers<T>(n, 3);
  const auto scale = repeated(4), shift = repeated(5), mean = repeated(6), slope = repeated(7), offset = repeated(8);
  const auto passed = [&](int64_t i) {
    const int64_t c = i % channels;
    return wide(x[i]) * scale[c] + shift[c] > 0 ? wide(grad[i]) : 0.0;
  };
  std::vector<double> moments(2 * channels), sums(2 * channels), y(n), grad_x(n), shared_grad_x(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = i % channels;
    const double d = wide(x[i]) - mean[c], v = wide(x[i]) * scale[c] + shift[c];
    moments[c] += d, moments[channels + c] += d * d;
    sums[c] += passed(i), sums[channels + c] += passed(i) * d;
    y[i] = v < 0 ? 0 : v;
    grad_x[i] = (passed(i) + d * slope[c] + offset[c]) * scale[c];
    shared_grad_x[i] = wide(extra[i]) + d * slope[c] + offset[c] + 2 * passed(i) * scale[c];
  }
  const double tolerance = std::is_same_v<W, double> ? 1e-10 : 1e-4;
  std::vector<W> scratch(2 * norms * length);
  std::vector<double> got(2 * channels, 0.0);
  std::vector<T> to(n), second(n);
  PF_CHOOSE(moments_channels_last<T>)
  (x.data(), mean.data(), 0, pixels, channels, tile, got.data(), scratch.data());
  expect("moments_channels_last" + of, got.data(), moments, tolerance);
  got.assign(2 * channels, 0.0);
  PF_CHOOSE(gradient_sums_channels_last<T>)
  (grad.data(), x.data(), scale.data(), shift.data(), mean.data(), 0, pixels, channels, tile, got.data(),
   scratch.data());
  expect("gradient_sums_channels_last" + of, got.data(), sums, tolerance);
  PF_CHOOSE(affine_relu_channels_last<T>)
  (x.data(), to.data(), scale.data(), shift.data(), 0, pixels, channels, tile);
  expect("affine_relu_channels_last" + of, to.data(), y);
  PF_CHOOSE(gradient_input_channels_last<T>)
  (grad.data(), x.data(), to.data(), scale.data(), shift.data(), mean.data(), slope.data(), offset.data(), 0, pixels,
   channels, tile);
  expect("gradient_input_channels_last" + of, to.data(), grad_x);

  // Twice the same norm.
  std::vector<W> scales = scale, shifts = shift;
  scales.insert(scales.end(), scale.begin(), scale.end()), shifts.insert(shifts.end(), shift.begin(), shift.end());
  T* outputs[] = {to.data(), second.data()};
  PF_CHOOSE(shared_affine_relu<T>)
  (x.data(), outputs, scales.data(), shifts.data(), norms, 0, pixels, channels, tile);
  expect("shared_affine_relu" + of, second.data(), y);
  const T* grads[] = {grad.data(), grad.data()};
  got.assign(2 * norms * channels, 0.0);
  PF_CHOOSE(shared_gradient_sums<T>)
  (grads, x.data(), scales.data(), shifts.data(), mean.data(), norms, 0, pixels, channels, tile, got.data(),
   scratch.data());
  expect("shared_gradient_sums" + of, got.data() + 2 * channels, sums, tolerance);
  PF_CHOOSE(shared_gradient_input<T>)
  (grads, x.data(), extra.data(), to.data(), scales.data(), shifts.data(), mean.data(), slope.data(), offset.data(),
   norms, 0, pixels, channels, tile);
  expect("shared_gradient_input" + of, to.data(), shared_grad_x);
}

// The passes over one channel's pixels; with one channel both layouts have the same sums.
template <typename T>
void check_plane(int64_t n) {
  using W = wide_t<T>;
  const std::string of = std::string(" of ") + kTypeName<T> + " with " + std::to_string(n) + " pixels";
  const auto x = numbers<T>(n, 11), grad = numbers<T>(n, 12);
  const W scale = W(0.75), shift = W(-0.25), mean = W(0.125), slope = W(0.5), offset = W(-0.0625);
  std::vector<double> moments(2), sums(2), y(n), grad_x(n);
  for (int64_t i = 0; i < n; ++i) {
    const double d = wide(x[i]) - mean, v = wide(x[i]) * scale + shift, g = v > 0 ? wide(grad[i]) : 0;
    moments[0] += d, moments[1] += d * d, sums[0] += g, sums[1] += g * d;
    y[i] = v < 0 ? 0 : v, grad_x[i] = (g + d * slope + offset) * scale;
  }
  const double tolerance = std::is_same_v<W, double> ? 1e-10 : 1e-4;
  std::vector<T> to(n);
  double got[2] = {0, 0};
  PF_CHOOSE(moments_plane<T>)(x.data(), mean, n, &got[0], &got[1]);
  expect("moments_plane" + of, got, moments, tolerance);
  got[0] = got[1] = 0;
  PF_CHOOSE(gradient_sums_plane<T>)(grad.data(), x.data(), scale, shift, mean, n, &got[0], &got[1]);
  expect("gradient_sums_plane" + of, got, sums, tolerance);
  PF_CHOOSE(affine_relu_plane<T>)(x.data(), to.data(), scale, shift, n);
  expect("affine_relu_plane" + of, to.data(), y);
  PF_CHOOSE(gradient_input_plane<T>)(grad.data(), x.data(), to.data(), scale, shift, mean, slope, offset, n);
  expect("gradient_input_plane" + of, to.data(), grad_x);
}

}  // namespace

void batch_norm_relu() {
  for_each_type([](auto type) {
    using T = decltype(type);
    for (const int64_t channels : {1, 3, 16, 21, 64}) check<T>(channels, 173);
    for (const int64_t n : {1, 37, 4101}) check_plane<T>(n);
  });
}

}  // namespace pyranet_fast::cpu::parity
