// Tensors on the host side of every operator, CPU and CUDA alike: layout, allocation, dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/numbers.h"

namespace pyranet_fast {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Dense NHWC and not at the same time dense NCHW (a tensor that is both counts as NCHW, as in the
// Python shape functions: kernel and fake must choose the same strides).
inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// The tensor itself where it is dense in one of the two layouts, else a dense NCHW copy.
inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() || is_channels_last(x) ? x : torch::stable::contiguous(x);
}

inline std::vector<int64_t> sizes_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

// A new tensor on the device of `like`, in its dtype unless another is named.
inline Tensor empty_nchw(const Tensor& like, const std::vector<int64_t>& sizes, bool channels_last = false,
                         std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::empty(sizes, dtype.value_or(like.scalar_type()), std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A new map of the shape, layout and dtype of x.
inline Tensor empty_like_map(const Tensor& x) { return empty_nchw(x, sizes_of(x), is_channels_last(x)); }

// The dtype of wide_t.
inline ScalarType wide_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline ScalarType wide_type(const Tensor& x) { return wide_type(x.scalar_type()); }

// Calls body(T{}) for the floating-point type of a tensor; the narrow types are the backend's.
template <typename BFloat16, typename Half, typename Body>
void dispatch_types(const char* what, ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    case ScalarType::Half:
      return body(Half{});
    default:
      STD_TORCH_CHECK(false, what, " must be float32, float64, bfloat16 or float16");
  }
}

// The same for what is float or double: checks come before.
template <typename Body>
void dispatch_wide(const Tensor& x, const Body& body) {
  return x.scalar_type() == ScalarType::Double ? body(double{}) : body(float{});
}

}  // namespace pyranet_fast
