// What the CPU kernels of fractional_max_pool_pyramid are handed.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "common/window.h"
#include "cpu/elements.h"

namespace pyranet_fast::cpu {

// Rows that the windows of one output row may lie in: samples differ by one start, rounding adds little to it.
constexpr int64_t kPoolMostRows = 8;

// A slab is what shares one set of window starts and one scratch memory: a plane of a contiguous map
// (channels = 1), or a whole sample of a channels_last map (channels interleaved). Inside kernels a pixel of a
// channels_last map takes `lanes` >= channels elements, a multiple of the vector length, so that rows are
// aligned and loops have no remainders, however few the channels.
struct PoolShape {
  int64_t channels, h, w;
  int64_t lanes;
  int64_t levels;
  int64_t rows;  // of windows held at once: a block of a plane, or what one row of a channels_last level may touch
};

// Window starts of one level in one slab. Channels differ by little (the samples move a start by one at most, up
// to rounding), hence low, high and, where they differ, one distance a lane.
template <typename W>
struct PoolStarts {
  using Distance = integer_t<W>;
  int32_t *row_low, *row_high, *column_low, *column_high;
  Distance *row_distance, *column_distance;  // (h, lanes), (w, lanes); null for windows shared by all channels
  uint16_t* column_mask;  // planes: bit c % 16 of element c / 16 is set where a window starts in column c
  bool increasing;        // planes: all columns differ, so that the mask tells them
};

// One map of a slab: element (y, x, c) is at data[y * row + x * column + c * channel].
template <typename T>
struct PoolMap {
  T* data;
  int64_t h, w;
  int64_t row, column, channel;
};

// The folded y = max(x * scale + shift, 0); null pointers and false where there is none. `lanes` values each
// (channels_last), or one value 16 times.
template <typename W>
struct PoolAffine {
  const W *scale, *shift;
  bool relu;
  bool any() const { return scale != nullptr || shift != nullptr || relu; }
};

// Hands out aligned pieces of a thread's scratch memory. Counting from null gives the size that is needed.
struct PoolScratch {
  uintptr_t at;
  template <typename T>
  inline __attribute__((always_inline)) T* take(int64_t n) {
    T* piece = reinterpret_cast<T*>(at);
    at += (static_cast<uintptr_t>(n) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

// Everything that the kernels of one slab write to besides their results.
template <typename T, typename W>
struct PoolBuffers {
  int64_t* next;       // (levels) a level's next row
  W* windows;          // pooled values or gradients by window
  W *values, *picked;  // rows of the map, and of a level or a gradient
  T *row, *tail;
  integer_t<W>* winner;    // of windows
  uint8_t* narrow_winner;  // one row and one pixel
};

template <typename T, typename W>
inline PoolBuffers<T, W> pool_buffers(const PoolShape& s, PoolScratch& scratch) {
  const int64_t row = s.w * s.lanes, rows = s.rows, more = 64;  // vectors may run over the end
  PoolBuffers<T, W> b;
  b.next = scratch.take<int64_t>(s.levels);
  b.windows = scratch.take<W>((rows + 1) * row + s.lanes + more);
  b.values = scratch.take<W>((rows + 1) * row + more);
  b.picked = scratch.take<W>(rows * row + more);
  b.row = scratch.take<T>(row + more);
  b.tail = scratch.take<T>(s.lanes + more);
  b.winner = scratch.take<integer_t<W>>((s.lanes == 1 ? rows + 1 : 2) * row + s.lanes + more);
  b.narrow_winner = scratch.take<uint8_t>(row + s.lanes + more);
  return b;
}

}  // namespace pyranet_fast::cpu
