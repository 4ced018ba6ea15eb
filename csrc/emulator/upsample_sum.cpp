// upsample_sum on the emulator.
#include "cuda/upsample_sum.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

py::array forward(const std::string& dtype, const std::vector<py::array>& maps, int64_t height, int64_t width,
                  const py::object& base, bool align_corners, const py::object& scale, const py::object& shift,
                  bool relu, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) -> py::array {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(maps.size());
    p.batch = maps[0].shape(0), p.channels = maps[0].shape(1);
    p.align_corners = align_corners, p.relu = relu;
    const Shape shape{p.batch, p.channels, height, width};
    for (size_t l = 0; l < maps.size(); ++l) {
      p.levels[l].map = input_map<T>(run, "map " + std::to_string(l), maps[l]);
    }
    if (!base.is_none()) p.base = input_map<T>(run, "base", base.cast<py::array>());
    if (!scale.is_none()) p.scale = input<wide_t<T>>(run, "scale", scale.cast<py::array>());
    if (!shift.is_none()) p.shift = input<wide_t<T>>(run, "shift", shift.cast<py::array>());
    p.whole = output_map<T>(run, "out", shape);
    launch_upsample(p, false, run);
    return collect(run, p.whole, shape);
  });
}

py::list backward(const std::string& dtype, const py::array& grad,
                  const std::vector<std::pair<int64_t, int64_t>>& sizes, bool align_corners, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) -> py::list {
    using T = decltype(type);
    UpsampleArguments<T> p{};
    p.count = static_cast<int32_t>(sizes.size());
    p.batch = grad.shape(0), p.channels = grad.shape(1), p.align_corners = align_corners;
    p.whole = input_map<T>(run, "grad", grad);
    std::vector<Shape> shapes;
    for (size_t l = 0; l < sizes.size(); ++l) {
      shapes.push_back({p.batch, p.channels, sizes[l].first, sizes[l].second});
      p.levels[l].map = output_map<T>(run, "grad " + std::to_string(l), shapes[l]);
    }
    launch_upsample(p, true, run);
    py::list grads;
    for (size_t l = 0; l < sizes.size(); ++l) grads.append(collect(run, p.levels[l].map, shapes[l]));
    return grads;
  });
}

BINDINGS(m) {
  m.def("upsample_sum", &forward);
  m.def("upsample_sum_backward", &backward);
}

}  // namespace
}  // namespace emulator
