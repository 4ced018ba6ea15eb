// What fractional_max_pool_pyramid, its canvas form and its gradient accept. `most`: the backend's largest extent.
#pragma once

#include "common/checks.h"

namespace pyranet_fast {

// x, or the positions of its maxima.
inline void check_pool_samples(const char* what, const Tensor& x, const Tensor& samples, size_t levels, int64_t most) {
  STD_TORCH_CHECK(x.dim() == 4, what, ": x must be (N, C, H, W)");
  check_map_extents(what, x, 0, most);
  STD_TORCH_CHECK(samples.dim() == 4 && samples.size(0) == static_cast<int64_t>(levels) &&
                      (samples.size(1) == 1 || samples.size(1) == x.size(0)) &&
                      (samples.size(2) == 1 || samples.size(2) == x.size(1)) && samples.size(3) == 2,
                  what, ": samples must be (levels, N or 1, C or 1, 2)");
  STD_TORCH_CHECK(is_float_or_double(samples) && same_device(samples, x), what,
                  ": samples must be float32 or float64, on the device of x");
}

inline void check_pooled_size(const char* what, const Tensor& x, int64_t h, int64_t w) {
  STD_TORCH_CHECK(h >= 1 && w >= 1 && h < x.size(2) && w < x.size(3), what,
                  ": output sizes must be between 1 and the input size - 1");
}

inline void check_pool(const Tensor& x, const Tensor& samples, const std::vector<int64_t>& output_sizes,
                       const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, int64_t most) {
  constexpr const char* kWhat = "fractional_max_pool_pyramid";
  STD_TORCH_CHECK(output_sizes.size() % 2 == 0, kWhat, ": output_sizes must be (h, w) of every level");
  check_pool_samples(kWhat, x, samples, output_sizes.size() / 2, most);
  for (size_t l = 0; l < output_sizes.size(); l += 2) check_pooled_size(kWhat, x, output_sizes[l], output_sizes[l + 1]);
  check_channel_vectors(kWhat, x, scale, shift);
}

inline void check_pool_canvas(const Tensor& x, const Tensor& samples, const std::vector<int64_t>& places,
                              int64_t height, int64_t width, const std::optional<Tensor>& scale,
                              const std::optional<Tensor>& shift, int64_t most) {
  constexpr const char* kWhat = "fractional_max_pool_canvas";
  check_places(kWhat, places, height, width);
  check_pool_samples(kWhat, x, samples, places.size() / 4, most);
  for (size_t i = 0; i < places.size(); i += 4) check_pooled_size(kWhat, x, places[i + 2], places[i + 3]);
  check_channel_vectors(kWhat, x, scale, shift);
}

inline void check_pool_backward(const std::vector<Tensor>& grads, const Tensor& positions, const Tensor& samples,
                                const std::optional<Tensor>& x, const std::optional<Tensor>& scale,
                                const std::optional<Tensor>& shift, bool relu, int64_t most) {
  constexpr const char* kWhat = "fractional_max_pool_pyramid_backward";
  STD_TORCH_CHECK(!grads.empty(), kWhat, ": grads must not be empty");
  check_pool_samples(kWhat, positions, samples, grads.size(), most);
  STD_TORCH_CHECK(positions.scalar_type() == ScalarType::Byte, kWhat, ": positions must be uint8");
  STD_TORCH_CHECK(x.has_value() || !(scale.has_value() || shift.has_value() || relu), kWhat,
                  ": x is needed where scale, shift or relu is given");
  const ScalarType dtype = grads[0].scalar_type();
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(grad.scalar_type() == dtype && grad.dim() == 4 && grad.size(0) == positions.size(0) &&
                        grad.size(1) == positions.size(1) && grad.size(2) >= 1 && grad.size(3) >= 1 &&
                        grad.size(2) < positions.size(2) && grad.size(3) < positions.size(3) &&
                        same_device(grad, positions),
                    kWhat, ": grads must be (N, C, h, w) of one dtype, on the device of positions");
  }
  STD_TORCH_CHECK(!x.has_value() ||
                      (x->scalar_type() == dtype && sizes_of(*x) == sizes_of(positions) && same_device(*x, positions)),
                  kWhat, ": x must have the shape and device of positions and the gradients' dtype");
  check_channel_vectors(kWhat, positions, scale, shift);
}

}  // namespace pyranet_fast
