// What operators with products of gemm.h share: how weights lie for them, and the dtypes that they take.
#pragma once

#include "common/checks.h"
#include "cpu/fused/packing.h"
#include "cpu/host.h"

namespace pyranet_fast::cpu {

// Calls body(T{}) for float32, or for bfloat16, whose products take the depth in pairs.
template <typename Body>
void dispatch_product(const char* what, const Tensor& x, int64_t depth, const Body& body) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, what, ": expected float32 or bfloat16");
  if (type == ScalarType::Float) return body(float{});
  STD_TORCH_CHECK(depth % 2 == 0, what, ": expected an even number of channels in bfloat16, got ", depth);
  body(BFloat16{});
}

// Channels, and heights and widths of maps that may be empty: products of three of them and 36 stay below 2^63.
constexpr int64_t kMostChannels = int64_t{1} << 16;

inline void check_channels(const char* what, int64_t channels) {
  STD_TORCH_CHECK(channels >= 0 && channels <= kMostChannels, what, ": a number of channels is ", channels,
                  "; expected 0 to ", kMostChannels);
}

inline void check_map(const char* what, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, what, ": ", name, " must be (N, C, H, W)");
  check_channels(what, x.size(1));
  check_map_extents(what, x);
}

inline bool is_float_vector(const Tensor& x, int64_t n) {
  return x.scalar_type() == ScalarType::Float && x.dim() == 1 && x.is_contiguous() && x.numel() == n;
}

}  // namespace pyranet_fast::cpu
