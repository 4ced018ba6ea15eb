// Operators of fractional_max_pool_pyramid on CUDA tensors.
#include "common/fractional_max_pool_pyramid_checks.h"
#include "cuda/fractional_max_pool_pyramid.cuh"
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

constexpr const char* kName = "fractional_max_pool_pyramid";
using Sizes = std::vector<int64_t>;

// Sizes, samples and the affine part; what they point to must outlive the arguments.
template <typename T>
PoolArguments<T> arguments_of(const Sizes& shape, const Tensor& samples, const std::optional<Tensor>& scale,
                              const std::optional<Tensor>& shift, bool relu) {
  using W = wide_t<T>;
  PoolArguments<T> p{};
  p.batch = shape[0], p.channels = shape[1];
  p.h = static_cast<int32_t>(shape[2]), p.w = static_cast<int32_t>(shape[3]);
  set_samples(p, read_pointer<W>(samples), samples.size(0), samples.size(1), samples.size(2));
  p.scale = read_pointer<W>(scale), p.shift = read_pointer<W>(shift);
  p.relu = relu;
  return p;
}

// What the pool and its canvas form share: everything but where the levels are written.
template <typename LevelMap>
void run_forward(const Tensor& x, Tensor samples, std::optional<Tensor> scale, std::optional<Tensor> shift, bool relu,
                 Tensor& positions, const Launcher& launch, const LevelMap& level_map) {
  const ScalarType wide = wide_type(x);
  samples = as_dense(samples, wide), scale = as_dense(scale, wide), shift = as_dense(shift, wide);
  dispatch_float("fractional_max_pool_pyramid: x", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    PoolArguments<T> p = arguments_of<T>(sizes_of(x), samples, scale, shift, relu);
    p.x = read_map<T>(x);
    if (positions.numel() > 0) p.positions = write_map<uint8_t>(positions);
    for (int64_t l = 0; l < samples.size(0); ++l) p.levels[l].map = level_map(type, l);
    launch_pool_forward(p, launch);
  });
}

std::tuple<Tensor, Tensor> pool_canvas(Tensor x, Tensor samples, Sizes places, int64_t height, int64_t width,
                                       std::optional<Tensor> scale, std::optional<Tensor> shift, bool relu,
                                       bool with_positions) {
  check_pool_canvas(x, samples, places, height, width, scale, shift, kMostExtent);
  check_levels(kName, places.size() / 4);
  const Launcher launch(x);
  const bool channels_last = is_channels_last(x);
  Tensor canvas = empty_nchw(x, {x.size(0), x.size(1), height, width}, channels_last);
  torch::stable::zero_(canvas);
  Tensor positions = empty_nchw(x, with_positions ? sizes_of(x) : Sizes{0, 0, 0, 0}, with_positions && channels_last,
                                ScalarType::Byte);
  if (x.numel() == 0) return {canvas, positions};
  run_forward(x, samples, scale, shift, relu, positions, launch,
              [&](auto type, int64_t l) { return place_of(write_map<decltype(type)>(canvas), places.data() + 4 * l); });
  return {canvas, positions};
}

std::tuple<std::vector<Tensor>, Tensor> pool(Tensor x, Tensor samples, Sizes output_sizes, std::optional<Tensor> scale,
                                             std::optional<Tensor> shift, bool relu, bool with_positions) {
  const size_t levels = output_sizes.size() / 2;
  check_pool(x, samples, output_sizes, scale, shift, kMostExtent);
  check_levels(kName, levels);
  const Launcher launch(x);
  const bool channels_last = is_channels_last(x);
  std::vector<Tensor> values;
  for (size_t l = 0; l < levels; ++l) {
    values.push_back(
        empty_nchw(x, {x.size(0), x.size(1), output_sizes[2 * l], output_sizes[2 * l + 1]}, channels_last));
  }
  Tensor positions = empty_nchw(x, with_positions ? sizes_of(x) : Sizes{0, 0, 0, 0}, with_positions && channels_last,
                                ScalarType::Byte);
  if (x.numel() == 0 || levels == 0) return {values, positions};
  run_forward(x, samples, scale, shift, relu, positions, launch,
              [&](auto type, int64_t l) { return write_map<decltype(type)>(values[l]); });
  return {values, positions};
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(std::vector<Tensor> grads, Tensor positions, Tensor samples,
                                                 std::optional<Tensor> x, std::optional<Tensor> scale,
                                                 std::optional<Tensor> shift, bool relu) {
  check_pool_backward(grads, positions, samples, x, scale, shift, relu, kMostExtent);
  check_levels(kName, grads.size());
  const bool affine = scale.has_value() || shift.has_value() || relu;
  const Sizes shape = sizes_of(positions);
  const ScalarType dtype = grads[0].scalar_type();
  const Launcher launch(positions);
  const ScalarType wide = wide_type(dtype);
  Tensor grad_x = empty_nchw(positions, shape, is_channels_last(positions), dtype);
  const bool sums = scale.has_value() || shift.has_value();
  Tensor grad_scale = empty_nchw(positions, {sums ? shape[1] : 0}, false, wide);
  Tensor grad_shift = empty_nchw(positions, {sums ? shape[1] : 0}, false, wide);
  const auto result = [&](const Tensor& grad, const std::optional<Tensor>& vector) {
    if (!vector.has_value()) return empty_nchw(positions, {0}, false, dtype);
    return vector->scalar_type() == wide ? grad : torch::stable::to(grad, vector->scalar_type());
  };
  if (positions.numel() == 0) {
    if (sums) torch::stable::zero_(grad_scale), torch::stable::zero_(grad_shift);
    return {grad_x, result(grad_scale, scale), result(grad_shift, shift)};
  }
  samples = as_dense(samples, wide);
  const auto dense_scale = as_dense(scale, wide), dense_shift = as_dense(shift, wide);
  dispatch_float("fractional_max_pool_pyramid: grads", dtype, [&](auto type) {
    using T = decltype(type);
    using W = wide_t<T>;
    PoolArguments<T> p = arguments_of<T>(shape, samples, dense_scale, dense_shift, relu);
    if (affine) p.x = read_map<T>(*x);
    p.positions = read_map<uint8_t>(positions);
    p.grad_x = write_map<T>(grad_x);
    for (size_t l = 0; l < grads.size(); ++l) p.levels[l].map = read_map<T>(grads[l]);
    Tensor partials = empty_nchw(positions, {2, sums ? pool_parts(p) : 0, shape[1]}, false, wide);
    if (sums) {
      p.partial_scale = write_pointer<W>(partials);
      p.partial_shift = p.partial_scale + partials.numel() / 2;
    }
    launch_pool_backward(p, sums ? write_pointer<W>(grad_scale) : nullptr,
                         sums ? write_pointer<W>(grad_shift) : nullptr, launch);
  });
  return {grad_x, result(grad_scale, scale), result(grad_shift, shift)};
}

CUDA_OPERATORS(m) {
  m.impl("fractional_max_pool_pyramid", TORCH_BOX(&pool));
  m.impl("fractional_max_pool_canvas", TORCH_BOX(&pool_canvas));
  m.impl("fractional_max_pool_pyramid_backward", TORCH_BOX(&pool_backward));
}

}  // namespace
}  // namespace pyranet_fast::gpu
