// heatmap_loss on the emulator.
#include "cuda/heatmap_loss.cuh"
#include "emulator/bindings.h"

namespace emulator {
namespace {

template <typename T>
LossArguments<T> loss_arguments(Run& run, const py::array& pred, const py::array& joints, const py::array& weight,
                                double sigma) {
  LossArguments<T> p{};
  p.pred = input_map<T>(run, "pred", pred);
  p.joints = input<wide_t<T>>(run, "joints", joints);
  p.weight = input<wide_t<T>>(run, "weight", weight);
  p.two_sigma_squared = two_sigma_squared<wide_t<T>>(sigma);
  p.batch = pred.shape(0), p.channels = pred.shape(1);
  return p;
}

double loss(const std::string& dtype, const py::array& pred, const py::array& joints, const py::array& weight,
            double sigma, const py::dict& settings) {
  return run_as(dtype, settings, [&](auto type, Run& run) -> double {
    using T = decltype(type);
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
  return run_as(dtype, settings, [&](auto type, Run& run) -> py::array {
    using T = decltype(type);
    LossArguments<T> p = loss_arguments<T>(run, pred, joints, weight, sigma);
    p.grad = input<wide_t<T>>(run, "grad", grad);
    p.grad_pred = result_map<T>(run, "grad_pred", shape_of(pred));
    launch_heatmap_loss(p, true, run);
    return collect(run, p.grad_pred, shape_of(pred));
  });
}

BINDINGS(m) {
  m.def("heatmap_loss", &loss);
  m.def("heatmap_loss_backward", &loss_backward);
}

}  // namespace
}  // namespace emulator
