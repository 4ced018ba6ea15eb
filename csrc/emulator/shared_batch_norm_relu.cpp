// shared_batch_norm_relu on the emulator.
#include "cuda/shared_batch_norm_relu.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

template <typename T>
SharedNormArguments<T> arguments_of(Run& run, const py::array& x, const py::array& weight, const py::array& bias,
                                    double eps) {
  using W = wide_t<T>;
  const Shape shape = shape_of(x);
  SharedNormArguments<T> p{};
  p.x = input_map<T>(run, "x", x).data;
  p.weight = input<W>(run, "weight", weight), p.bias = input<W>(run, "bias", bias);
  p.eps = static_cast<W>(eps);
  p.batch = shape[0], p.channels = shape[1], p.area = shape[2] * shape[3];
  p.channels_last = true;
  p.norms = static_cast<int32_t>(weight.shape(0));
  return p;
}

template <typename T>
void partials_of(Run& run, SharedNormArguments<T>& p) {
  p.first = output<wide_t<T>>(run, "first", shared_norm_partials(p));
  p.second = output<wide_t<T>>(run, "second", shared_norm_partials(p));
}

py::tuple forward(const std::string& dtype, const py::array& x, const py::array& weight, const py::array& bias,
                  double eps, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    using W = wide_t<T>;
    SharedNormArguments<T> p = arguments_of<T>(run, x, weight, bias, eps);
    std::vector<Map<T>> outs;
    for (int32_t j = 0; j < p.norms; ++j) {
      outs.push_back(output_map<T>(run, "out " + std::to_string(j), shape_of(x)));
      p.outs[j] = outs[j].data;
    }
    p.mean = output<W>(run, "mean", p.channels), p.var = output<W>(run, "var", p.channels);
    partials_of(run, p);
    launch_shared_batch_norm_relu(p, run);
    py::list results;
    for (const Map<T>& out : outs) results.append(collect(run, out, shape_of(x)));
    return py::make_tuple(results, collect(p.mean, {p.channels}), collect(p.var, {p.channels}));
  });
}

// grads: None for zero; extra: an array or None.
py::tuple backward(const std::string& dtype, const py::list& grads, const py::object& extra, const py::array& x,
                   const py::array& weight, const py::array& bias, const py::array& mean, const py::array& var,
                   double eps, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    using W = wide_t<T>;
    SharedNormArguments<T> p = arguments_of<T>(run, x, weight, bias, eps);
    for (int32_t j = 0; j < p.norms; ++j) {
      const py::object grad = grads[j];
      if (!grad.is_none()) p.grads[j] = input_map<T>(run, "grad", grad.cast<py::array>()).data;
    }
    if (!extra.is_none()) p.extra = input_map<T>(run, "extra", extra.cast<py::array>()).data;
    const Map<T> grad_x = output_map<T>(run, "grad_x", shape_of(x));
    p.out = grad_x.data;
    p.mean = input<W>(run, "mean", mean), p.var = input<W>(run, "var", var);
    const Shape vectors{p.norms, p.channels};
    p.grad_weight = output<W>(run, "grad_weight", p.norms * p.channels);
    p.grad_bias = output<W>(run, "grad_bias", p.norms * p.channels);
    partials_of(run, p);
    launch_shared_batch_norm_relu_backward(p, run);
    return py::make_tuple(collect(run, grad_x, shape_of(x)), collect(p.grad_weight, vectors),
                          collect(p.grad_bias, vectors));
  });
}

BINDINGS(m) {
  m.def("shared_batch_norm_relu", &forward, "([y, ...], mean, var)");
  m.def("shared_batch_norm_relu_backward", &backward, "(grad_x, grad_weight, grad_bias)");
}

}  // namespace
}  // namespace emulator
