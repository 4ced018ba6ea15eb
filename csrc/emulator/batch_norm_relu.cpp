// batch_norm_relu on the emulator.
#include "cuda/batch_norm_relu.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

template <typename T>
NormArguments<T> arguments_of(Run& run, const py::array& x, const py::object& weight, const py::object& bias,
                              double eps) {
  using W = wide_t<T>;
  const Shape shape = shape_of(x);
  NormArguments<T> p{};
  p.x = input_map<T>(run, "x", x).data;
  if (!weight.is_none()) p.weight = input<W>(run, "weight", weight.cast<py::array>());
  if (!bias.is_none()) p.bias = input<W>(run, "bias", bias.cast<py::array>());
  p.eps = static_cast<W>(eps);
  p.batch = shape[0], p.channels = shape[1], p.area = shape[2] * shape[3];
  p.channels_last = run.layout != "contiguous";  // "channels_last_off" among them: dense, off alignment
  return p;
}

template <typename T>
void partials_of(Run& run, NormArguments<T>& p) {
  p.first = output<wide_t<T>>(run, "first", norm_partials(p));
  p.second = output<wide_t<T>>(run, "second", norm_partials(p));
}

// What a kernel reads and writes.
template <typename T>
T* changed(Run& run, const std::string& name, const py::array& values) {
  T* data = output<T>(run, name, values.size());
  std::memcpy(data, py::array::ensure(values, py::array::c_style).data(), values.nbytes());
  return data;
}

// averages: None or (running_mean, running_var, batches, momentum).
py::tuple forward(const std::string& dtype, const py::array& x, const py::object& weight, const py::object& bias,
                  double eps, const py::object& averages, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    using W = wide_t<T>;
    NormArguments<T> p = arguments_of<T>(run, x, weight, bias, eps);
    const Map<T> y = output_map<T>(run, "y", shape_of(x));
    p.out = y.data;
    p.mean = output<W>(run, "mean", p.channels), p.var = output<W>(run, "var", p.channels);
    if (!averages.is_none()) {
      const auto given = averages.cast<py::tuple>();
      p.running_mean = changed<W>(run, "running_mean", given[0].cast<py::array>());
      p.running_var = changed<W>(run, "running_var", given[1].cast<py::array>());
      p.batches = changed<int64_t>(run, "batches", given[2].cast<py::array>());
      p.momentum = static_cast<W>(given[3].cast<double>());
    }
    partials_of(run, p);
    launch_batch_norm_relu(p, run);
    const Shape vector{p.channels};
    py::list moved;
    if (!averages.is_none()) {
      moved.append(collect(p.running_mean, vector)), moved.append(collect(p.running_var, vector));
      moved.append(py::int_(*p.batches));
    }
    return py::make_tuple(collect(run, y, shape_of(x)), collect(p.mean, vector), collect(p.var, vector), moved);
  });
}

py::tuple backward(const std::string& dtype, const py::array& grad, const py::array& x, const py::object& weight,
                   const py::object& bias, const py::array& mean, const py::array& var, double eps,
                   const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) {
    using T = decltype(type);
    using W = wide_t<T>;
    NormArguments<T> p = arguments_of<T>(run, x, weight, bias, eps);
    p.grad = input_map<T>(run, "grad", grad).data;
    const Map<T> grad_x = output_map<T>(run, "grad_x", shape_of(x));
    p.out = grad_x.data;
    p.mean = input<W>(run, "mean", mean), p.var = input<W>(run, "var", var);
    p.grad_weight = output<W>(run, "grad_weight", p.channels), p.grad_bias = output<W>(run, "grad_bias", p.channels);
    partials_of(run, p);
    launch_batch_norm_relu_backward(p, run);
    const Shape vector{p.channels};
    return py::make_tuple(collect(run, grad_x, shape_of(x)), collect(p.grad_weight, vector),
                          collect(p.grad_bias, vector));
  });
}

py::tuple update(const std::string& dtype, const py::array& running_mean, const py::array& running_var,
                 const py::array& batches, const py::array& mean, const py::array& var, double momentum, int64_t count,
                 const py::dict& settings) {
  return run_as_wide(dtype, settings, [&](auto type, Run& run) {
    using W = decltype(type);
    AverageArguments<W> p{};
    p.mean = input<W>(run, "mean", mean), p.var = input<W>(run, "var", var);
    p.running_mean = changed<W>(run, "running_mean", running_mean);
    p.running_var = changed<W>(run, "running_var", running_var);
    p.batches = changed<int64_t>(run, "batches", batches);
    p.momentum = static_cast<W>(momentum), p.channels = mean.size();
    launch_norm_averages(p, count, run);
    const Shape vector{p.channels};
    return py::make_tuple(collect(p.running_mean, vector), collect(p.running_var, vector), *p.batches);
  });
}

BINDINGS(m) {
  m.def("batch_norm_relu", &forward, "(y, mean, var, [running_mean, running_var, batches] or [])");
  m.def("batch_norm_relu_backward", &backward, "(grad_x, grad_weight, grad_bias)");
  m.def("batch_norm_update", &update, "(running_mean, running_var, batches)");
}

}  // namespace
}  // namespace emulator
