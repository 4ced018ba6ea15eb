// Gaussian target maps: separable, so one exponential per row and per column.
#include "common/gaussian.h"
#include "common/gaussian_heatmaps_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/gaussian_heatmaps_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

// W: of the joints and maps; V: of the weights.
template <typename W, typename V>
void run(const W* joints, const V* weight, int64_t maps, int64_t h, int64_t w, double sigma, W* to) {
  parallel_for(0, maps, std::max<int64_t>(1, 32768 / (h * w)), [&](int64_t begin, int64_t end) {
    std::vector<W> lines(h + w);
    for (int64_t m = begin; m < end; ++m) {
      W* map = to + m * h * w;
      if (weight[m] > 0) {
        PF_CHOOSE(gaussian_map<W>)
        (joints[2 * m], joints[2 * m + 1], two_sigma_squared<W>(sigma), h, w, lines.data(), map);
      } else {
        std::fill(map, map + h * w, W(0));
      }
    }
  });
}

Tensor gaussian_heatmaps(Tensor joints, Tensor weight, int64_t height, int64_t width, double sigma) {
  check_gaussian_heatmaps(joints, weight, height, width);
  joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  Tensor out = empty_nchw(joints, {joints.size(0), joints.size(1), height, width});
  dispatch_wide(joints, [&](auto of_joints) {
    dispatch_wide(weight, [&](auto of_weight) {
      using W = decltype(of_joints);
      run(read_pointer<W>(joints), read_pointer<decltype(of_weight)>(weight), weight.numel(), height, width, sigma,
          write_pointer<W>(out));
    });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) { m.impl("gaussian_heatmaps", TORCH_BOX(&gaussian_heatmaps)); }

}  // namespace
}  // namespace pyranet_fast::cpu
