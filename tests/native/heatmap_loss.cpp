// heatmap_loss and gaussian_heatmaps, whose lines the loss uses.
#include "common/gaussian.h"
#include "parity.h"

#define PF_KERNEL_FILE "cpu/heatmap_loss_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

double gaussian(double x, double y, double two_sigma_squared, int64_t i, int64_t j) {
  const double dy = static_cast<double>(i) - y, dx = static_cast<double>(j) - x;
  return std::exp(-(dx * dx + dy * dy) / two_sigma_squared);
}

template <typename T>
void check(int64_t channels, int64_t h, int64_t w) {
  using W = wide_t<T>;
  const std::string of = std::string(" of ") + kTypeName<T> + " with " + std::to_string(channels) + " joints";
  const W two_sigma_squared = 8;
  const int64_t lanes = PF_CHOOSE(loss_lanes<T>)(), padded = (channels + lanes - 1) / lanes * lanes, area = h * w;
  const auto pred = numbers<T>(channels * area, 21);
  std::vector<W> gx(w * padded), gy(h * padded), line(std::max(h, w)), coefficients(padded);
  std::vector<double> sums(channels), got(channels), grad(channels * area);
  std::vector<T> to(channels * area);
  for (int64_t c = 0; c < channels; ++c) {
    const W x = static_cast<W>(w) / 3 + static_cast<W>(c) / 4, y = static_cast<W>(h) / 2 - static_cast<W>(c) / 8;
    coefficients[c] = c == 1 ? W(0) : W(0.5);
    PF_CHOOSE(gaussian_line<W>)(x, two_sigma_squared, w, line.data(), gx.data() + c, padded);
    PF_CHOOSE(gaussian_line<W>)(y, two_sigma_squared, h, line.data(), gy.data() + c, padded);
    std::vector<W> lines(h + w), map(area);
    std::vector<double> target(area);
    PF_CHOOSE(gaussian_map<W>)(x, y, two_sigma_squared, h, w, lines.data(), map.data());
    std::vector<T> plane(area), plane_grad(area);
    std::vector<double> plane_wanted(area);
    for (int64_t p = 0; p < area; ++p) {
      target[p] = gaussian(x, y, two_sigma_squared, p / w, p % w);
      const double error = wide(pred[p * channels + c]) - target[p];
      sums[c] += error * error;
      grad[p * channels + c] = coefficients[c] * error;
      plane[p] = pred[p * channels + c], plane_wanted[p] = 0.5 * error;
    }
    expect("gaussian_map" + of, map.data(), target, std::is_same_v<W, double> ? 1e-12 : 1e-5);
    // One map's tables lie in `lines` now, columns first.
    const double sum = PF_CHOOSE(loss_plane<T>)(plane.data(), lines.data(), lines.data() + w, h, w);
    expect("loss_plane" + of, &sum, {sums[c]}, std::is_same_v<W, double> ? 1e-10 : 1e-4);
    PF_CHOOSE(loss_gradient_plane<T>)
    (plane.data(), lines.data(), lines.data() + w, W(0.5), h, w, plane_grad.data());
    expect("loss_gradient_plane" + of, plane_grad.data(), plane_wanted);
  }
  PF_CHOOSE(loss_image<T>)
  (pred.data(), channels * area, gx.data(), gy.data(), h, w, channels, padded, got.data());
  expect("loss_image" + of, got.data(), sums, std::is_same_v<W, double> ? 1e-10 : 1e-4);
  PF_CHOOSE(loss_gradient_image<T>)
  (pred.data(), gx.data(), gy.data(), coefficients.data(), h, w, channels, padded, to.data());
  expect("loss_gradient_image" + of, to.data(), grad);
}

}  // namespace

void heatmap_loss() {
  for_each_type([](auto type) {
    for (const int64_t channels : {1, 3, 16, 21}) check<decltype(type)>(channels, 13, 27);
  });
}

}  // namespace pyranet_fast::cpu::parity
