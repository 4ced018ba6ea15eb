// Operator gaussian_heatmaps on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "cuda/gaussian_heatmaps_launch.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

constexpr const char* kName = "gaussian_heatmaps";

bool is_single_or_double(const Tensor& x) {
  return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
}

template <typename T>
void run(const Tensor& joints, const Tensor& weight, double sigma, Tensor& out, const Launcher& launch) {
  GaussianArguments<T> p{};
  p.joints = read_pointer<T>(joints);
  p.joints_n = joints.stride(0), p.joints_c = joints.stride(1), p.joints_axis = joints.stride(2);
  p.weight = weight.const_data_ptr();
  p.weight_is_double = weight.scalar_type() == ScalarType::Double;
  p.weight_n = weight.stride(0), p.weight_c = weight.stride(1);
  p.out = write_pointer<T>(out);
  p.two_sigma_squared = static_cast<T>(2 * sigma * sigma);
  p.h = static_cast<int32_t>(out.size(2)), p.w = static_cast<int32_t>(out.size(3));
  p.channels = out.size(1);
  launch_gaussian_heatmaps(p, out.size(0) * out.size(1), launch);
}

Tensor gaussian_heatmaps(Tensor joints, Tensor weight, int64_t height, int64_t width, double sigma) {
  STD_TORCH_CHECK(joints.dim() == 3 && joints.size(2) == 2 && weight.dim() == 2 && weight.size(0) == joints.size(0) &&
                      weight.size(1) == joints.size(1),
                  kName, ": joints must be (N, K, 2) and weight (N, K)");
  STD_TORCH_CHECK(is_single_or_double(joints) && is_single_or_double(weight), kName,
                  ": joints and weight must be float32 or float64");
  STD_TORCH_CHECK(weight.get_device_index() == joints.get_device_index(), kName,
                  ": weight must be on the device of joints");
  STD_TORCH_CHECK(height >= 1 && width >= 1, kName, ": height and width of at least 1 are accepted");
  check_extent(kName, height), check_extent(kName, width);
  const Launcher launch(joints);
  Tensor out = empty_nchw(joints, {joints.size(0), joints.size(1), height, width}, false, joints.scalar_type());
  if (out.numel() == 0) return out;
  if (joints.scalar_type() == ScalarType::Double) {
    run<double>(joints, weight, sigma, out, launch);
  } else {
    run<float>(joints, weight, sigma, out, launch);
  }
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CUDA, m) { m.impl("gaussian_heatmaps", TORCH_BOX(&gaussian_heatmaps)); }

}  // namespace
}  // namespace pyranet_fast::gpu
