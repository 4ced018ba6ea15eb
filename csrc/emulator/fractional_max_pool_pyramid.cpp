// fractional_max_pool_pyramid on the emulator.
#include "cuda/fractional_max_pool_pyramid.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

using Sizes = std::vector<std::pair<int64_t, int64_t>>;

template <typename T>
PoolArguments<T> arguments_of(Run& run, const Shape& shape, const py::array& samples, const py::object& scale,
                              const py::object& shift, bool relu) {
  using W = wide_t<T>;
  PoolArguments<T> p{};
  p.batch = shape[0], p.channels = shape[1];
  p.h = static_cast<int32_t>(shape[2]), p.w = static_cast<int32_t>(shape[3]);
  set_samples(p, input<W>(run, "samples", samples), samples.shape(0), samples.shape(1), samples.shape(2));
  if (!scale.is_none()) p.scale = input<W>(run, "scale", scale.cast<py::array>());
  if (!shift.is_none()) p.shift = input<W>(run, "shift", shift.cast<py::array>());
  p.relu = relu;
  return p;
}

py::tuple forward(const std::string& dtype, const py::array& x, const py::array& samples, const Sizes& sizes,
                  const py::object& scale, const py::object& shift, bool relu, bool with_positions,
                  const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    const auto shape = shape_of(x);
    PoolArguments<T> p = arguments_of<T>(run, shape, samples, scale, shift, relu);
    p.x = input_map<T>(run, "x", x);
    if (with_positions) p.positions = output_map<uint8_t>(run, "positions", shape);
    std::vector<Shape> shapes;
    for (size_t l = 0; l < sizes.size(); ++l) {
      shapes.push_back({shape[0], shape[1], sizes[l].first, sizes[l].second});
      p.levels[l].map = output_map<T>(run, "values " + std::to_string(l), shapes[l]);
    }
    launch_pool_forward(p, run);
    py::list values;
    for (size_t l = 0; l < sizes.size(); ++l) values.append(collect(run, p.levels[l].map, shapes[l]));
    return py::make_tuple(values, with_positions ? py::object(collect(run, p.positions, shape)) : py::none());
  });
}

py::tuple backward(const std::string& dtype, const std::vector<py::array>& grads, const py::array& positions,
                   const py::array& samples, const py::object& x, const py::object& scale, const py::object& shift,
                   bool relu, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    using W = wide_t<T>;
    const auto shape = shape_of(positions);
    PoolArguments<T> p = arguments_of<T>(run, shape, samples, scale, shift, relu);
    if (!x.is_none()) p.x = input_map<T>(run, "x", x.cast<py::array>());
    p.positions = input_map<uint8_t>(run, "positions", positions);
    p.grad_x = output_map<T>(run, "grad_x", shape);
    for (size_t l = 0; l < grads.size(); ++l) {
      p.levels[l].map = input_map<T>(run, "grad " + std::to_string(l), grads[l]);
    }
    W* sums = nullptr;
    if (!scale.is_none() || !shift.is_none()) {
      const int64_t count = pool_parts(p) * shape[1];
      p.partial_scale = output<W>(run, "partial_scale", count);
      p.partial_shift = output<W>(run, "partial_shift", count);
      sums = output<W>(run, "sums", 2 * shape[1]);
    }
    launch_pool_backward(p, sums, sums + (sums == nullptr ? 0 : shape[1]), run);
    return py::make_tuple(collect(run, p.grad_x, shape),
                          sums == nullptr ? py::object(py::none()) : collect(sums, {2, shape[1]}));
  });
}

BINDINGS(m) {
  m.def("fractional_max_pool_pyramid", &forward, "(values, positions)");
  m.def("fractional_max_pool_pyramid_backward", &backward, "(grad_x, [grad_scale, grad_shift] or None)");
}

}  // namespace
}  // namespace emulator
