// Fractional max-pooling of one map to several sizes, forward and backward. The method: the kernel file's head.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/checks.h"
#include "common/window.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"
#include "cpu/fractional_max_pool_pyramid.h"

// x * scale + shift is rounded twice, as PyTorch does: which element of a window wins, and which passes the ReLU,
// must not depend on the instruction set.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define PF_KERNEL_FILE "cpu/fractional_max_pool_pyramid_kernel.h"
#include "cpu/multiversion.h"
#include "cpu/fractional_max_pool_pyramid_host.h"

namespace pyranet_fast::cpu {
namespace {

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

void check_shapes(const Tensor& like, const Tensor& samples, int64_t levels) {
  STD_TORCH_CHECK(like.dim() == 4, kName, ": x must have 4 dimensions");
  STD_TORCH_CHECK(like.size(2) < (1 << 22) && like.size(3) < (1 << 22), kName,
                  ": x must be less than 2^22 wide and high");
  STD_TORCH_CHECK(samples.dim() == 4 && samples.size(0) == levels && samples.size(3) == 2 &&
                      (samples.size(1) == like.size(0) || samples.size(1) == 1) &&
                      (samples.size(2) == like.size(1) || samples.size(2) == 1),
                  kName, ": samples must be (levels, N or 1, C or 1, 2)");
}

template <typename T>
void forward(const Tensor& x, const Tensor& samples_tensor, const std::vector<int64_t>& sizes,
             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, bool relu,
             std::vector<Tensor>& values, uint8_t* positions) {
  using W = wide_t<T>;
  const Layout layout = layout_of(x);
  const int64_t levels = values.size();
  const PoolShape shape = shape_of(layout, levels);
  const Samples<W> samples(samples_tensor);
  const ChannelVector<W> scales(scale, layout, shape.lanes), shifts(shift, layout, shape.lanes);
  const Slabs<const T> ins(x, layout.channels_last);
  const auto outs = slabs_of<T>(values, layout.channels_last);
  for_each_band<T>(
      layout, shape, sizes, samples, layout.h - 1, [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
        worker.begin(slab, 1);
        for (int64_t l = 0; l < levels; ++l) worker.out[l] = outs[l][slab];
        const PoolMap<const T> in = ins[slab];
        const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
        uint8_t* position =
            positions == nullptr ? nullptr : positions + slab * layout.interleaved() * layout.h * layout.w;
        const PoolShape& s = worker.shape;
        const PoolStarts<W>* starts = worker.starts.data();
        if (!layout.channels_last) {
          PF_CHOOSE(pool_plane<T>)(s, starts, in, worker.out.data(), affine, position, y0, y1, worker.buffers);
        } else if (shape.lanes == 8) {
          PF_CHOOSE(pool_sample<8, T>)(s, starts, in, worker.out.data(), affine, position, y0, y1, worker.buffers);
        } else {
          PF_CHOOSE(pool_sample<16, T>)(s, starts, in, worker.out.data(), affine, position, y0, y1, worker.buffers);
        }
      });
}

template <typename T>
void backward(const std::vector<Tensor>& grads, const Tensor& positions, const Tensor& samples_tensor,
              const std::optional<Tensor>& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
              bool relu, Tensor& grad_x, std::vector<double>& total_scale, std::vector<double>& total_shift) {
  using W = wide_t<T>;
  const Layout layout = layout_of(positions);
  const int64_t levels = grads.size();
  const PoolShape shape = shape_of(layout, levels);
  std::vector<int64_t> sizes;
  for (const Tensor& grad : grads) sizes.insert(sizes.end(), {grad.size(2), grad.size(3)});
  const Samples<W> samples(samples_tensor);
  const ChannelVector<W> scales(scale, layout, shape.lanes), shifts(shift, layout, shape.lanes);
  const auto from = slabs_of<const T>(grads, layout.channels_last);
  const Slabs<const T> ins(x.has_value() ? *x : grads[0], layout.channels_last);
  const Slabs<T> tos(grad_x, layout.channels_last);
  const uint8_t* winners = static_cast<const uint8_t*>(positions.const_data_ptr());
  // Sums of every row, added up below in a fixed order: the same bits with any number of threads.
  const int64_t c = layout.interleaved(), sums_of_slab = 2 * layout.h * c;
  std::vector<W> sums(scale.has_value() || shift.has_value() ? layout.slabs() * sums_of_slab : 0);
  for_each_band<T>(layout, shape, sizes, samples, layout.h,
                   [&](Worker<T>& worker, int64_t slab, int64_t y0, int64_t y1) {
                     worker.begin(slab, 2);
                     for (int64_t l = 0; l < levels; ++l) worker.grads[l] = from[l][slab];
                     const PoolMap<const T> in = x.has_value() ? ins[slab] : PoolMap<const T>{};
                     const PoolMap<T> to = tos[slab];
                     const PoolAffine<W> affine{scales.of(layout, slab), shifts.of(layout, slab), relu};
                     const uint8_t* position = winners + slab * c * layout.h * layout.w;
                     W* sum = sums.empty() ? nullptr : sums.data() + slab * sums_of_slab;
                     const PoolShape& s = worker.shape;
                     const PoolStarts<W>* starts = worker.starts.data();
                     if (!layout.channels_last) {
                       PF_CHOOSE(pool_plane_backward<T>)
                       (s, starts, worker.grads.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
                     } else if (shape.lanes == 8) {
                       PF_CHOOSE(pool_sample_backward<8, T>)
                       (s, starts, worker.grads.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
                     } else {
                       PF_CHOOSE(pool_sample_backward<16, T>)
                       (s, starts, worker.grads.data(), in, affine, position, to, y0, y1, sum, worker.buffers);
                     }
                   });
  total_shift.assign(layout.c, 0.0);
  total_scale.assign(layout.c, 0.0);
  for (int64_t slab = 0; slab < (sums.empty() ? 0 : layout.slabs()); ++slab) {
    const W* sum = sums.data() + slab * sums_of_slab;
    for (int64_t y = 0; y < layout.h; ++y) {
      for (int64_t k = 0; k < c; ++k) {
        const int64_t channel = layout.channels_last ? k : slab % layout.c;
        total_shift[channel] += sum[2 * y * c + k];
        total_scale[channel] += sum[(2 * y + 1) * c + k];
      }
    }
  }
}

std::tuple<std::vector<Tensor>, Tensor> pool(const Tensor& x, const Tensor& samples, Sizes output_sizes,
                                             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                                             bool relu, bool with_positions) {
  const std::vector<int64_t> sizes(output_sizes.begin(), output_sizes.end());
  const int64_t levels = sizes.size() / 2;
  check_shapes(x, samples, levels);
  const bool channels_last = is_channels_last(x);
  std::vector<Tensor> values;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t h = sizes[2 * l], w = sizes[2 * l + 1];
    STD_TORCH_CHECK(h >= 1 && w >= 1 && h < x.size(2) && w < x.size(3), kName,
                    ": output sizes must be between 1 and the input size - 1");
    values.push_back(empty_nchw(x, {x.size(0), x.size(1), h, w}, channels_last, x.scalar_type()));
  }
  const std::vector<int64_t> all{x.size(0), x.size(1), x.size(2), x.size(3)};
  Tensor positions = empty_nchw(x, with_positions ? all : std::vector<int64_t>{0, 0, 0, 0},
                                with_positions && channels_last, ScalarType::Byte);
  if (x.numel() > 0 && levels > 0) {
    uint8_t* to = with_positions ? static_cast<uint8_t*>(positions.mutable_data_ptr()) : nullptr;
    for_dtype(x.scalar_type(),
              [&](auto t) { forward<decltype(t)>(x, samples, sizes, scale, shift, relu, values, to); });
  }
  return {values, positions};
}

template <typename T>
void fill_totals(const std::vector<double>& totals, Tensor& to) {
  T* data = static_cast<T*>(to.mutable_data_ptr());
  for (size_t i = 0; i < totals.size(); ++i) data[i] = store<T>(static_cast<wide_t<T>>(totals[i]));
}

Tensor channel_gradient(const Tensor& like, const std::optional<Tensor>& vector, const std::vector<double>& totals) {
  const int64_t n = vector.has_value() ? static_cast<int64_t>(totals.size()) : 0;
  Tensor grad = torch::stable::new_empty(like, {n}, vector.has_value() ? vector->scalar_type() : like.scalar_type());
  if (n > 0) for_dtype(vector->scalar_type(), [&](auto t) { fill_totals<decltype(t)>(totals, grad); });
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(const std::vector<Tensor>& grads, const Tensor& positions,
                                                 const Tensor& samples, const std::optional<Tensor>& x,
                                                 const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                                                 bool relu) {
  STD_TORCH_CHECK(!grads.empty(), kName, "_backward: grads must not be empty");
  check_shapes(positions, samples, grads.size());
  STD_TORCH_CHECK(x.has_value() || !(scale.has_value() || shift.has_value() || relu), kName,
                  "_backward: x is needed where scale, shift or relu is given");
  const ScalarType dtype = grads[0].scalar_type();
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(grad.scalar_type() == dtype && grad.dim() == 4 && grad.size(0) == positions.size(0) &&
                        grad.size(1) == positions.size(1) && grad.size(2) >= 1 && grad.size(3) >= 1 &&
                        grad.size(2) < positions.size(2) && grad.size(3) < positions.size(3),
                    kName, "_backward: grads must be (N, C, h, w) of one dtype");
  }
  STD_TORCH_CHECK(!x.has_value() || (x->scalar_type() == dtype && x->numel() == positions.numel()), kName,
                  "_backward: x must have the shape of positions and the gradients' dtype");
  const Tensor where = dense(positions);
  const std::vector<int64_t> all{where.size(0), where.size(1), where.size(2), where.size(3)};
  Tensor grad_x = empty_nchw(where, all, is_channels_last(where), dtype);
  std::vector<double> total_scale(where.size(1), 0.0), total_shift(where.size(1), 0.0);
  if (where.numel() > 0) {
    for_dtype(dtype, [&](auto t) {
      backward<decltype(t)>(grads, where, samples, x, scale, shift, relu, grad_x, total_scale, total_shift);
    });
  }
  return {grad_x, channel_gradient(grad_x, scale, total_scale), channel_gradient(grad_x, shift, total_shift)};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("fractional_max_pool_pyramid", TORCH_BOX(&pool));
  m.impl("fractional_max_pool_pyramid_backward", TORCH_BOX(&pool_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
