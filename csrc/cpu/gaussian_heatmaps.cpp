// Gaussian target maps: separable, so one exponential per row and per column.
#include "common/gaussian.h"
#include "common/gaussian_heatmaps_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/gaussian_heatmaps_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

Tensor gaussian_heatmaps(Tensor joints, Tensor weight, int64_t h, int64_t w, double sigma) {
  check_gaussian_heatmaps(joints, weight, h, w, sigma);
  joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  Tensor out = empty_nchw(joints, {joints.size(0), joints.size(1), h, w});
  const auto run = [&](const auto* centers, const auto* weights, auto* maps) {
    using W = std::remove_pointer_t<decltype(maps)>;
    parallel_for(0, weight.numel(), std::max<int64_t>(1, 32768 / (h * w)), [&](int64_t begin, int64_t end) {
      std::vector<W> lines(h + w);
      for (int64_t m = begin; m < end; ++m) {
        if (weights[m] > 0) {
          const W x = centers[2 * m], y = centers[2 * m + 1];
          PF_CHOOSE(gaussian_map<W>)(x, y, two_sigma_squared<W>(sigma), h, w, lines.data(), maps + m * h * w);
        } else {
          std::fill_n(maps + m * h * w, h * w, W(0));
        }
      }
    });
  };
  dispatch_wide(joints, [&](auto a) {
    dispatch_wide(weight, [&](auto b) {
      run(read_pointer<decltype(a)>(joints), read_pointer<decltype(b)>(weight), write_pointer<decltype(a)>(out));
    });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) { m.impl("gaussian_heatmaps", TORCH_BOX(&gaussian_heatmaps)); }

}  // namespace
}  // namespace pyranet_fast::cpu
