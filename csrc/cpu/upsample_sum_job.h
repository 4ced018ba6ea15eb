// What the CPU kernels of upsample_sum are handed: the taps of each axis of each level, the same taps sorted by source
// pixel for the backward, and the job of either direction.
#pragma once

#include "common/bilinear.h"
#include "cpu/elements.h"

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

// Images of one channel (contiguous) or with all channels inside (channels_last) are called planes here.
// Elements are of any type that widens to W.
template <typename W>
struct UpsampleJob {
  struct Level {
    const void* data;
    int64_t elements;
    Taps<W> rows, columns;
  };
  std::vector<Level> levels;
  int64_t channels, height, width;
  const void* base;
  void* out;

  // Columns of a block: few enough that two resized rows of every level stay in the L1 cache, whole vectors.
  int64_t block() const {
    const int64_t elements = std::max<int64_t>(256, 4096 / static_cast<int64_t>(levels.size()));
    return channels == 1 ? elements / 64 * 64 : std::max<int64_t>(4, elements / channels);
  }
  int64_t blocks() const { return (width + block() - 1) / block(); }
  int64_t row_stride() const { return (std::min(block(), width) * channels + 64 + 15) / 16 * 16; }
};

template <typename T>
struct UpsampleScratch {
  LineAligned<wide_t<T>> rows;  // two resized rows of every level
  LineAligned<wide_t<T>> row;   // a source row, widened or copied
  LineAligned<T> tail;          // the same for one channel, copied
  std::vector<int64_t> held;    // which source rows these are
  std::vector<const wide_t<T>*> pointers;
  std::vector<wide_t<T>> weights;
  explicit UpsampleScratch(size_t levels) : held(2 * levels), pointers(2 * levels), weights(2 * levels) {}
};

template <typename W>
struct UpsampleBackwardJob {
  struct Level {
    void* data;
    Sources<W> rows, columns;
  };
  struct Row {
    int32_t level, row, first;
  };
  std::vector<Level> levels;
  const void* grad;
  int64_t channels, height, width;
  std::vector<Row> order;  // every level's rows by the first gradient row they read: it is read while it is hot

  int64_t most() const {
    int64_t result = 1;
    for (const Level& level : levels) result = std::max(result, level.rows.most);
    return result;
  }

  void sort_rows() {
    for (size_t l = 0; l < levels.size(); ++l) {
      for (int64_t i = 0; i < levels[l].rows.in; ++i) {
        order.push_back({static_cast<int32_t>(l), static_cast<int32_t>(i), levels[l].rows.begin[i]});
      }
    }
    std::stable_sort(order.begin(), order.end(), [](const Row& a, const Row& b) { return a.first < b.first; });
  }

  // Source columns [j0, j1) whose receivers, with their channels, fit the L1 cache; whole vectors.
  static constexpr int64_t kElements = 4096;
  int64_t block_end(const Sources<W>& columns, int64_t j0, int64_t lanes) const {
    if (columns.out * channels <= kElements) return columns.in;
    const int64_t step = channels == 1 ? lanes : 1;
    int64_t j1 = std::min(columns.in, j0 + step);
    while (j1 < columns.in && receivers(columns, j0, std::min(columns.in, j1 + step)) * channels <= kElements) {
      j1 = std::min(columns.in, j1 + step);
    }
    return j1;
  }
  static int64_t receivers(const Sources<W>& columns, int64_t j0, int64_t j1) {
    return columns.begin[j1 - 1] + columns.count[j1 - 1] - columns.begin[j0];
  }
};

}  // namespace pyranet_fast::cpu
