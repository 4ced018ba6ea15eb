// heatmap_argmax, heatmap_loss and gaussian_heatmaps on the emulator.
#include <utility>

#include "cuda/gaussian_heatmaps_launch.cuh"
#include "cuda/heatmap_argmax_launch.cuh"
#include "cuda/heatmap_loss_launch.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

using namespace pyranet_fast::gpu;
using Shape = std::vector<int64_t>;

// Layouts of these operators' maps beside those of Run: "turned" (columns lie a row apart), "repeated" (all samples in
// one place; the values of the first are what counts).
template <typename T>
Map<T> heatmaps(Run& run, const std::string& name, const py::array& values) {
  Map<T> map{};
  if (run.layout == "turned") {
    map = input_map<T>(run, name, values.attr("swapaxes")(2, 3).cast<py::array>());
    std::swap(map.y, map.x), std::swap(map.h, map.w);
  } else {
    map = input_map<T>(run, name, values);
    if (run.layout == "repeated") map.n = 0;
  }
  return map;
}

// A result in the layout that the operators give it: the input's where that is dense, else contiguous.
template <typename T>
Map<T> result_map(Run& run, const std::string& name, const Shape& shape) {
  if (run.layout != "channels_last") run.layout = "contiguous";
  return output_map<T>(run, name, shape);
}

// A (N, K) array with strides of its own.
template <typename T>
Map<T> matrix(Run& run, const std::string& name, const py::array& values) {
  return input_map<T>(run, name, values.attr("reshape")(values.shape(0), values.shape(1), 1, 1).cast<py::array>());
}

template <typename T>
T* output(Run& run, const std::string& name, int64_t count) {
  return static_cast<T*>(run.memory.output(name, count * sizeof(T)));
}

template <typename T>
ArgmaxArguments<T> argmax_arguments(Run& run, const py::array& maps, bool quarter) {
  ArgmaxArguments<T> p{};
  p.maps = heatmaps<T>(run, "heatmaps", maps);
  p.quarter = quarter;
  p.batch = maps.shape(0), p.channels = maps.shape(1);
  p.coords = output<float>(run, "coords", 2 * p.batch * p.channels);
  return p;
}

py::tuple argmax(const std::string& dtype, const py::array& maps, bool quarter, const py::dict& settings) {
  return dispatch(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    Run run(settings);
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
  return dispatch(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    Run run(settings);
    ArgmaxArguments<T> p = argmax_arguments<T>(run, maps, quarter);
    if (settings.contains("mirrored_layout")) run.layout = settings["mirrored_layout"].cast<std::string>();
    p.mirrored = heatmaps<T>(run, "mirrored", mirrored);
    p.swap = input<int64_t>(run, "swap", swap);
    p.means = output<wide_t<T>>(run, "means", p.batch * p.channels);
    launch_heatmap_argmax(p, run);
    return py::make_tuple(collect(p.coords, {p.batch, p.channels, 2}), collect(p.means, {p.batch, p.channels}));
  });
}

py::array argmax_backward(const std::string& dtype, const py::array& grad_scores, const py::array& indices,
                          int64_t height, int64_t width, const py::dict& settings) {
  return dispatch(dtype, [&](auto type) -> py::array {
    using T = typename decltype(type)::type;
    Run run(settings);
    const Map<T> scores = matrix<T>(run, "grad_scores", grad_scores);
    ArgmaxBackwardArguments<T> p{};
    p.channels = grad_scores.shape(1), p.maps = grad_scores.shape(0) * p.channels, p.area = height * width;
    p.grad_scores = scores.data, p.n = scores.n, p.c = scores.c;
    p.indices = input<int64_t>(run, "indices", indices);
    p.grad = output<T>(run, "grad", p.maps * p.area);
    launch_heatmap_argmax_backward(p, run);
    return collect(p.grad, {grad_scores.shape(0), p.channels, height, width});
  });
}

template <typename T>
LossArguments<T> loss_arguments(Run& run, const py::array& pred, const py::array& joints, const py::array& weight,
                                double sigma) {
  LossArguments<T> p{};
  p.pred = heatmaps<T>(run, "pred", pred);
  p.joints = input<wide_t<T>>(run, "joints", joints);
  p.weight = input<wide_t<T>>(run, "weight", weight);
  p.two_sigma_squared = static_cast<wide_t<T>>(2 * sigma * sigma);
  p.batch = pred.shape(0), p.channels = pred.shape(1);
  return p;
}

double loss(const std::string& dtype, const py::array& pred, const py::array& joints, const py::array& weight,
            double sigma, const py::dict& settings) {
  return dispatch(dtype, [&](auto type) -> double {
    using T = typename decltype(type)::type;
    Run run(settings);
    LossArguments<T> p = loss_arguments<T>(run, pred, joints, weight, sigma);
    const unsigned none = 0;
    p.partial = output<wide_t<T>>(run, "partial", loss_parts(p));
    p.ticket = static_cast<unsigned*>(run.memory.scratch("ticket", &none, sizeof(none)));
    p.loss = output<wide_t<T>>(run, "loss", 1);
    launch_heatmap_loss(p, false, run);
    return *p.loss;
  });
}

py::array loss_backward(const std::string& dtype, const py::array& grad, const py::array& pred, const py::array& joints,
                        const py::array& weight, double sigma, const py::dict& settings) {
  return dispatch(dtype, [&](auto type) -> py::array {
    using T = typename decltype(type)::type;
    Run run(settings);
    LossArguments<T> p = loss_arguments<T>(run, pred, joints, weight, sigma);
    p.grad = input<wide_t<T>>(run, "grad", grad);
    p.grad_pred = result_map<T>(run, "grad_pred", shape_of(pred));
    launch_heatmap_loss(p, true, run);
    return collect(run, p.grad_pred, shape_of(pred));
  });
}

template <typename T>
py::array gaussians_of(const py::array& joints, const py::array& weight, int64_t height, int64_t width, double sigma,
                       const py::dict& settings) {
  Run run(settings);
  const int64_t n = joints.shape(0), k = joints.shape(1);
  const Map<T> at = input_map<T>(run, "joints", joints.attr("reshape")(n, k, 2, 1).template cast<py::array>());
  GaussianArguments<T> p{};
  p.joints = at.data, p.joints_n = at.n, p.joints_c = at.c, p.joints_axis = at.y;
  p.weight_is_double = weight.itemsize() == sizeof(double);
  const auto set_weight = [&](const auto& map) { p.weight = map.data, p.weight_n = map.n, p.weight_c = map.c; };
  if (p.weight_is_double) {
    set_weight(matrix<double>(run, "weight", weight));
  } else {
    set_weight(matrix<float>(run, "weight", weight));
  }
  p.h = static_cast<int32_t>(height), p.w = static_cast<int32_t>(width), p.channels = k;
  p.two_sigma_squared = static_cast<T>(2 * sigma * sigma);
  p.out = output<T>(run, "out", n * k * height * width);
  launch_gaussian_heatmaps(p, n * k, run);
  return collect(p.out, {n, k, height, width});
}

py::array gaussians(const std::string& dtype, const py::array& joints, const py::array& weight, int64_t height,
                    int64_t width, double sigma, const py::dict& settings) {
  if (dtype == "float64") return gaussians_of<double>(joints, weight, height, width, sigma, settings);
  return gaussians_of<float>(joints, weight, height, width, sigma, settings);
}

}  // namespace

void bind_heatmaps(py::module_& m) {
  m.def("heatmap_argmax", &argmax, "(coords, scores, indices)");
  m.def("heatmap_argmax_mirrored", &argmax_mirrored, "(coords, scores)");
  m.def("heatmap_argmax_backward", &argmax_backward);
  m.def("heatmap_loss", &loss);
  m.def("heatmap_loss_backward", &loss_backward);
  m.def("gaussian_heatmaps", &gaussians);
}

}  // namespace emulator
