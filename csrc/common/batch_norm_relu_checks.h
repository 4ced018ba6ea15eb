// What batch_norm_relu, its form of several norms, their gradients and the moving averages accept.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

inline void check_normed_map(const char* what, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, what, ": x must be (N, C, H, W)");
  STD_TORCH_CHECK(x.numel() > 0, what, ": x is empty, batch statistics need at least one value a channel");
}

// One value a channel, in what sums are formed in.
inline void check_channel_values(const char* what, const char* name, const Tensor& values, const Tensor& x) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(1), what, ": ", name,
                  " must be (C,), one value a channel; C is ", x.size(1));
  STD_TORCH_CHECK(values.scalar_type() == wide_type(x) && same_device(values, x), what, ": ", name,
                  " must be float32, or float64 for float64 x, on the device of x");
}

// A gradient, or what is added to one, of the shape and dtype of x.
inline void check_gradient_of(const char* what, const char* name, const Tensor& grad, const Tensor& x) {
  STD_TORCH_CHECK(sizes_of(grad) == sizes_of(x) && grad.scalar_type() == x.scalar_type() && same_device(grad, x), what,
                  ": ", name, " must have the shape, dtype and device of x");
}

inline void check_batch_norm_relu(const char* what, const Tensor& x, const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias) {
  check_normed_map(what, x);
  if (weight.has_value()) check_channel_values(what, "weight", *weight, x);
  if (bias.has_value()) check_channel_values(what, "bias", *bias, x);
}

inline void check_batch_norm_relu_backward(const Tensor& grad, const Tensor& x, const std::optional<Tensor>& weight,
                                           const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& var) {
  constexpr const char* kWhat = "batch_norm_relu_backward";
  check_batch_norm_relu(kWhat, x, weight, bias);
  check_gradient_of(kWhat, "grad", grad, x);
  check_channel_values(kWhat, "mean", mean, x);
  check_channel_values(kWhat, "var", var, x);
}

// What is written in place: moving averages like `values`, (C,) in what sums are formed in, and their counter.
inline void check_averages(const char* what, const char* of, const Tensor& running_mean, const Tensor& running_var,
                           const Tensor& batches, int64_t channels, ScalarType type, const Tensor& values) {
  const auto check = [&](const char* name, const Tensor& average) {
    STD_TORCH_CHECK(average.dim() == 1 && average.size(0) == channels && average.scalar_type() == type &&
                        average.is_contiguous() && same_device(average, values),
                    what, ": ", name, " must be contiguous, of the shape, dtype and device of ", of);
  };
  check("running_mean", running_mean), check("running_var", running_var);
  STD_TORCH_CHECK(batches.numel() == 1 && batches.scalar_type() == ScalarType::Long && same_device(batches, values),
                  what, ": batches must be one int64 on the device of ", of);
}

inline void check_batch_norm_update(const Tensor& running_mean, const Tensor& running_var, const Tensor& batches,
                                    const Tensor& mean, const Tensor& var, int64_t count) {
  constexpr const char* kWhat = "batch_norm_update_";
  STD_TORCH_CHECK(mean.dim() == 1 && is_float_or_double(mean), kWhat, ": mean must be (C,) in float32 or float64");
  STD_TORCH_CHECK(mean.is_contiguous() && sizes_of(var) == sizes_of(mean) && var.scalar_type() == mean.scalar_type() &&
                      var.is_contiguous() && same_device(var, mean),
                  kWhat, ": mean and var must be contiguous, of one shape, dtype and device");
  check_averages(kWhat, "mean", running_mean, running_var, batches, mean.size(0), mean.scalar_type(), mean);
  STD_TORCH_CHECK(count >= 1, kWhat, ": count is ", count, "; expected at least 1 value a channel");
}

inline void check_batch_norm_relu_update(const Tensor& x, const std::optional<Tensor>& weight,
                                         const std::optional<Tensor>& bias, const Tensor& running_mean,
                                         const Tensor& running_var, const Tensor& batches) {
  constexpr const char* kWhat = "batch_norm_relu_update_";
  check_batch_norm_relu(kWhat, x, weight, bias);
  check_averages(kWhat, "mean", running_mean, running_var, batches, x.size(1), wide_type(x), x);
}

inline void check_shared_batch_norm_relu(const char* what, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_normed_map(what, x);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1) && sizes_of(weight) == sizes_of(bias) &&
                      weight.is_contiguous() && bias.is_contiguous() && weight.scalar_type() == wide_type(x) &&
                      bias.scalar_type() == wide_type(x) && same_device(weight, x) && same_device(bias, x),
                  what, ": weight and bias must be contiguous (J, C) in float32 (float64 for float64 x)");
}

inline void check_shared_batch_norm_relu_backward(const std::vector<Tensor>& grads, const std::optional<Tensor>& extra,
                                                  const Tensor& x, const Tensor& weight, const Tensor& bias,
                                                  const Tensor& mean, const Tensor& var) {
  constexpr const char* kWhat = "shared_batch_norm_relu_backward";
  check_shared_batch_norm_relu(kWhat, x, weight, bias);
  STD_TORCH_CHECK(static_cast<int64_t>(grads.size()) == weight.size(0), kWhat,
                  ": there must be a gradient, or an empty tensor, for every output");
  for (const Tensor& grad : grads) {
    if (grad.numel() > 0) check_gradient_of(kWhat, "a gradient", grad, x);
  }
  if (extra.has_value()) check_gradient_of(kWhat, "extra", *extra, x);
  check_channel_values(kWhat, "mean", mean, x);
  check_channel_values(kWhat, "var", var, x);
}

}  // namespace pyranet_fast
