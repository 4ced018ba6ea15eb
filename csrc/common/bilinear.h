// Where bilinear interpolation reads and with which weights: once, for every backend. The arithmetic, and so the
// rounding, is that of torch.nn.functional.interpolate(mode="bilinear"). W is float, or double for double maps. Index
// holds pixel numbers: a GPU converts 32-bit integers to W much faster, and 64-bit ones are for sizes above 2^30, whose
// positions may round past 2^31. The results are the same.
#pragma once

#include <cstdint>

#include "common/numbers.h"

namespace pyranet_fast {

// One output pixel of one axis: weight_first * in[first] + weight_second * in[second].
template <typename W, typename Index = int64_t>
struct BilinearTap {
  Index first, second;
  W weight_first, weight_second;
};

// Source pixels per output pixel.
template <typename W>
PF_HOST_DEVICE inline W bilinear_ratio(int64_t in, int64_t out, bool align_corners) {
  if (align_corners) return out > 1 ? static_cast<W>(in - 1) / static_cast<W>(out - 1) : W(0);
  return static_cast<W>(in) / static_cast<W>(out);
}

template <typename W, typename Index>
PF_HOST_DEVICE inline BilinearTap<W, Index> bilinear_tap(Index i, Index in, Index out, W ratio, bool align_corners) {
  if (in == out) return {i, i, W(1), W(0)};
  W position = align_corners ? ratio * static_cast<W>(i) : ratio * (static_cast<W>(i) + W(0.5)) - W(0.5);
  if (position < W(0)) position = W(0);
  Index first = static_cast<Index>(position);  // rounds down: the position is not negative
  if (first > in - 1) first = in - 1;
  W weight = position - static_cast<W>(first);
  if (weight > W(1)) weight = W(1);
  return {first, first < in - 1 ? first + 1 : first, W(1) - weight, weight};
}

// The same tap with both weights above 0, so that an infinity or NaN stays where it belongs (0 times infinity would
// spread it): a single source pixel is read twice with weight 1/2.
template <typename W, typename Index>
PF_HOST_DEVICE inline BilinearTap<W, Index> positive_tap(Index i, Index in, Index out, W ratio, bool align_corners) {
  BilinearTap<W, Index> tap = bilinear_tap<W>(i, in, out, ratio, align_corners);
  if (tap.weight_first == W(0)) tap.first = tap.second;
  if (tap.weight_second == W(0)) tap.second = tap.first;
  if (tap.first == tap.second) tap.weight_first = tap.weight_second = W(0.5);
  return tap;
}

}  // namespace pyranet_fast
