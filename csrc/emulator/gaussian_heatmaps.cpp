// gaussian_heatmaps on the emulator.
#include "cuda/gaussian_heatmaps.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

py::array gaussians(const std::string& dtype, const py::array& joints, const py::array& weight, int64_t height,
                    int64_t width, double sigma, const py::dict& settings) {
  return run_as_wide(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    GaussianArguments<T> p{};
    p.joints = input_map<T>(run, "joints", joints);
    if (weight.itemsize() == sizeof(double)) {
      p.weight64 = input_map<double>(run, "weight", weight);
    } else {
      p.weight = input_map<float>(run, "weight", weight);
    }
    const Shape shape{joints.shape(0), joints.shape(1), height, width};
    run.layout = "contiguous";
    p.out = output_map<T>(run, "out", shape);
    p.batch = shape[0], p.channels = shape[1];
    p.two_sigma_squared = two_sigma_squared<T>(sigma);
    launch_gaussian_heatmaps(p, run);
    return collect(run, p.out, shape);
  });
}

BINDINGS(m) { m.def("gaussian_heatmaps", &gaussians); }

}  // namespace
}  // namespace emulator
