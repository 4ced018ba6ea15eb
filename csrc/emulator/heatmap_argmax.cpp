// heatmap_argmax on the emulator.
#include "cuda/heatmap_argmax.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

template <typename T>
ArgmaxArguments<T> argmax_arguments(Run& run, const py::array& maps, bool quarter) {
  ArgmaxArguments<T> p{};
  p.maps = input_map<T>(run, "heatmaps", maps);
  p.quarter = quarter;
  p.batch = maps.shape(0), p.channels = maps.shape(1);
  p.coords = output<float>(run, "coords", 2 * p.batch * p.channels);
  return p;
}

py::tuple argmax(const std::string& dtype, const py::array& maps, bool quarter, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    ArgmaxArguments<T> p = argmax_arguments<T>(run, maps, quarter);
    p.scores = output<T>(run, "scores", p.batch * p.channels);
    p.indices = output<int64_t>(run, "indices", p.batch * p.channels);
    launch_heatmap_argmax(p, run);
    const Shape shape{p.batch, p.channels};
    return py::make_tuple(collect(p.coords, {p.batch, p.channels, 2}), collect(p.scores, shape),
                          collect(p.indices, shape));
  });
}

py::tuple argmax_mirrored(const std::string& dtype, const py::array& maps, const py::array& mirrored,
                          const py::array& swap, bool quarter, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    ArgmaxArguments<T> p = argmax_arguments<T>(run, maps, quarter);
    if (settings.contains("mirrored_layout")) run.layout = settings["mirrored_layout"].cast<std::string>();
    p.mirrored = input_map<T>(run, "mirrored", mirrored);
    p.swap = input<int64_t>(run, "swap", swap);
    p.means = output<wide_t<T>>(run, "means", p.batch * p.channels);
    launch_heatmap_argmax(p, run);
    return py::make_tuple(collect(p.coords, {p.batch, p.channels, 2}), collect(p.means, {p.batch, p.channels}));
  });
}

py::array argmax_backward(const std::string& dtype, const py::array& grad_scores, const py::array& indices,
                          int64_t height, int64_t width, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) -> py::array {
    using T = decltype(type);
    const Map<T> scores = input_map<T>(run, "grad_scores", grad_scores);
    ArgmaxBackwardArguments<T> p{};
    p.channels = grad_scores.shape(1), p.maps = grad_scores.shape(0) * p.channels, p.area = height * width;
    p.grad_scores = scores.data, p.n = scores.n, p.c = scores.c;
    p.indices = input<int64_t>(run, "indices", indices);
    p.grad = output<T>(run, "grad", p.maps * p.area);
    launch_heatmap_argmax_backward(p, run);
    return collect(p.grad, {grad_scores.shape(0), p.channels, height, width});
  });
}

BINDINGS(m) {
  m.def("heatmap_argmax", &argmax, "(coords, scores, indices)");
  m.def("heatmap_argmax_mirrored", &argmax_mirrored, "(coords, scores)");
  m.def("heatmap_argmax_backward", &argmax_backward);
}

}  // namespace
}  // namespace emulator
