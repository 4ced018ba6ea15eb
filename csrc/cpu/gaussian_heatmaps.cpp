// Gaussian target maps: separable, so one exponential per row and per column.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/checks.h"

#define PF_KERNEL_FILE "cpu/gaussian_heatmaps_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

// Which maps are shown: those of weight above 0.
template <typename W>
std::vector<char> shown_maps(const Tensor& weight) {
  const W* from = weight.const_data_ptr<W>();
  std::vector<char> shown(weight.numel());
  for (size_t m = 0; m < shown.size(); ++m) shown[m] = from[m] > 0;
  return shown;
}

template <typename W>
void run(const W* joints, const std::vector<char>& shown, int64_t maps, int64_t h, int64_t w, double sigma, W* to) {
  const W two_sigma_squared = static_cast<W>(2 * sigma * sigma);
  torch::stable::parallel_for(0, maps, std::max<int64_t>(1, 32768 / (h * w)), [&](int64_t begin, int64_t end) {
    std::vector<W> lines(h + w);
    for (int64_t m = begin; m < end; ++m) {
      W* map = to + m * h * w;
      if (shown[m]) {
        PF_CHOOSE(gaussian_map<W>)(joints[2 * m], joints[2 * m + 1], two_sigma_squared, h, w, lines.data(), map);
      } else {
        std::fill(map, map + h * w, W(0));
      }
    }
  });
}

Tensor gaussian_heatmaps(Tensor joints, Tensor weight, int64_t height, int64_t width, double sigma) {
  STD_TORCH_CHECK(joints.dim() == 3 && joints.size(2) == 2 && weight.dim() == 2 && weight.size(0) == joints.size(0) &&
                      weight.size(1) == joints.size(1),
                  "gaussian_heatmaps: joints must be (N, K, 2) and weight (N, K)");
  STD_TORCH_CHECK(height >= 1 && width >= 1, "gaussian_heatmaps: height and width of at least 1 are accepted");
  joints = torch::stable::contiguous(joints);
  weight = torch::stable::contiguous(weight);
  const int64_t n = joints.size(0), k = joints.size(1);
  Tensor out = empty_nchw(joints, {n, k, height, width}, false, joints.scalar_type());
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float || weight.scalar_type() == ScalarType::Double,
                  "gaussian_heatmaps: weight must be float32 or float64");
  const auto shown =
      weight.scalar_type() == ScalarType::Double ? shown_maps<double>(weight) : shown_maps<float>(weight);
  if (joints.scalar_type() == ScalarType::Double) {
    run(joints.const_data_ptr<double>(), shown, n * k, height, width, sigma, out.mutable_data_ptr<double>());
  } else {
    STD_TORCH_CHECK(joints.scalar_type() == ScalarType::Float, "gaussian_heatmaps: joints must be float32 or float64");
    run(joints.const_data_ptr<float>(), shown, n * k, height, width, sigma, out.mutable_data_ptr<float>());
  }
  return out;
}

}  // namespace
}  // namespace pyranet_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("gaussian_heatmaps", TORCH_BOX(&pyranet_fast::cpu::gaussian_heatmaps));
}
