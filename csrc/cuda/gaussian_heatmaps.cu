// Operator gaussian_heatmaps on CUDA tensors.
#include "common/gaussian_heatmaps_checks.h"
#include "cuda/gaussian_heatmaps.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

Tensor gaussian_heatmaps(Tensor joints, Tensor weight, int64_t height, int64_t width, double sigma) {
  check_gaussian_heatmaps(joints, weight, height, width, sigma);
  const Launcher launch(joints);
  Tensor out = empty_nchw(joints, {joints.size(0), joints.size(1), height, width});
  if (out.numel() == 0) return out;
  dispatch_wide(joints, [&](auto type) {
    using T = decltype(type);
    GaussianArguments<T> p{};
    p.joints = read_map<T>(joints);
    if (weight.scalar_type() == ScalarType::Double) {
      p.weight64 = read_map<double>(weight);
    } else {
      p.weight = read_map<float>(weight);
    }
    p.out = write_map<T>(out);
    p.batch = out.size(0), p.channels = out.size(1);
    p.two_sigma_squared = two_sigma_squared<T>(sigma);
    launch_gaussian_heatmaps(p, launch);
  });
  return out;
}

CUDA_OPERATORS(m) { m.impl("gaussian_heatmaps", TORCH_BOX(&gaussian_heatmaps)); }

}  // namespace
}  // namespace pyranet_fast::gpu
