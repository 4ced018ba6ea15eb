// add_affine_relu on the emulator: one launch, of three norms at most.
#include "cuda/add_affine_relu.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

py::list forward(const std::string& dtype, const py::array& x, const py::object& other, const py::array& scale,
                 const py::array& shift, bool keep, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) -> py::list {
    using T = decltype(type);
    AddAffineArguments<T> p{};
    p.x = input_map<T>(run, "x", x);
    Shape shape = shape_of(x);
    if (!other.is_none()) {
      const auto second = other.cast<py::array>();
      p.other = input_map<T>(run, "other", second);
      p.half = second.shape(2) != shape[2] || second.shape(3) != shape[3];
      shape = shape_of(second);
    }
    p.scale = input<wide_t<T>>(run, "scale", scale), p.shift = input<wide_t<T>>(run, "shift", shift);
    p.batch = shape[0], p.channels = shape[1];
    p.height = static_cast<int32_t>(shape[2]), p.width = static_cast<int32_t>(shape[3]);
    p.outputs = static_cast<int32_t>(scale.shape(0));
    run.layout = "channels_last";
    if (keep) p.sum = output_map<T>(run, "sum", shape);
    for (int32_t j = 0; j < p.outputs; ++j) p.outs[j] = output_map<T>(run, "out " + std::to_string(j), shape);
    launch_add_affine_relu(p, run);
    py::list results;
    if (keep) results.append(collect(run, p.sum, shape));
    for (int32_t j = 0; j < p.outputs; ++j) results.append(collect(run, p.outs[j], shape));
    return results;
  });
}

BINDINGS(m) { m.def("add_affine_relu", &forward); }

}  // namespace
}  // namespace emulator
