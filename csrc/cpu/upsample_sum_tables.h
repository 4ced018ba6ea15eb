// What the CPU kernels of upsample_sum look up: the taps of each axis of each level, and the same taps sorted by
// source pixel for the backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/bilinear.h"

namespace pyranet_fast::cpu {

// Output pixel i of one axis reads source pixels first[i] and second[i] with weights a[i] and b[i], both above 0.
template <typename W>
struct Taps {
  int64_t in, out;
  std::vector<int32_t> first, second;
  std::vector<W> a, b;
  // For vectors of `lanes` output pixels: where first and second lie after first[start of the vector].
  std::vector<int32_t> local_first, local_second;
  int32_t reach = 0;  // the largest of these

  bool identity() const { return in == out; }

  Taps(int64_t in, int64_t out, bool align_corners, int64_t lanes) : in(in), out(out) {
    const int64_t padded = (out + 63) / 64 * 64;  // whole vectors may be read: weight 0 past the end
    first.assign(padded, 0), second.assign(padded, 0), a.assign(padded, 0), b.assign(padded, 0);
    local_first.assign(padded, 0), local_second.assign(padded, 0);
    const W ratio = bilinear_ratio<W>(in, out, align_corners);
    for (int64_t i = 0; i < out; ++i) {
      const BilinearTap<W> tap = positive_tap<W>(i, in, out, ratio, align_corners);
      first[i] = static_cast<int32_t>(tap.first), second[i] = static_cast<int32_t>(tap.second);
      a[i] = tap.weight_first, b[i] = tap.weight_second;
      const int64_t start = i / lanes * lanes;
      local_first[i] = first[i] - first[start], local_second[i] = second[i] - first[start];
      reach = std::max(reach, local_second[i]);
    }
  }
};

// Source pixel j receives from output pixels begin[j] ... begin[j] + count[j] - 1, with weights weight[j * most + t].
template <typename W>
struct Sources {
  int64_t in, out, most;
  std::vector<int32_t> begin, count;
  std::vector<W> weight;
  // For vectors of `lanes` source pixels: where begin lies after begin[start of the vector], and the weights again.
  std::vector<int32_t> local;
  std::vector<W> by_lane;  // [vector][t][lane]; 0 where the lane's pixel has fewer receivers
  int32_t reach = 0;

  bool identity() const { return in == out; }

  Sources(const Taps<W>& taps, int64_t lanes) : in(taps.in), out(taps.out), most(1) {
    begin.assign(in, 0), count.assign(in, 0);
    const auto receive = [&](int64_t j, int64_t i) {
      if (count[j] == 0) begin[j] = static_cast<int32_t>(i);
      count[j] = static_cast<int32_t>(i) - begin[j] + 1;  // taps move forward, so receivers have no gaps
      most = std::max<int64_t>(most, count[j]);
    };
    for (int64_t i = 0; i < out; ++i) receive(taps.first[i], i), receive(taps.second[i], i);
    weight.assign(in * most, 0);
    for (int64_t i = 0; i < out; ++i) {
      weight[taps.first[i] * most + i - begin[taps.first[i]]] += taps.a[i];
      weight[taps.second[i] * most + i - begin[taps.second[i]]] += taps.b[i];
    }
    for (int64_t j = 1; j < in; ++j) {  // where nothing is received: keep the positions ascending
      if (count[j] == 0) begin[j] = begin[j - 1] + count[j - 1];
    }
    const int64_t vectors = (in + lanes - 1) / lanes;
    local.assign(vectors * lanes, 0), by_lane.assign(vectors * lanes * most, 0);
    for (int64_t j = 0; j < in; ++j) {
      const int64_t v = j / lanes, lane = j % lanes;
      local[j] = begin[j] - begin[v * lanes];
      reach = std::max(reach, local[j]);
      for (int64_t t = 0; t < count[j]; ++t) by_lane[(v * most + t) * lanes + lane] = weight[j * most + t];
    }
  }
};

// A growing buffer that starts on a cache line: vectors that straddle two lines load at half the speed.
template <typename W>
class LineAligned {
 public:
  W* get(int64_t elements) {
    if (static_cast<int64_t>(memory_.size()) < elements + kLine) memory_.assign(elements + kLine, W(0));
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (64 - address % 64) % 64 / sizeof(W);
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(W);
  std::vector<W> memory_;
};

}  // namespace pyranet_fast::cpu
