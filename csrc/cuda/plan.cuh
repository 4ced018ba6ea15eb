// How work is laid over a grid: the widest access that every map allows, threads, strips of rows. Host code, the same
// for a GPU and for the emulator. `launch(name, kernel, grid, arguments)` is what starts a kernel on either.
#pragma once

#include <type_traits>

#include "cuda/device.cuh"

namespace pyranet_fast::gpu {

constexpr int32_t kThreadsOfABlock = 256;
// Two for each of the 132 multiprocessors of an H200. A constant, since the order of sums depends on it.
constexpr int64_t kFillingBlocks = 2 * 132;

#ifdef PF_EMULATOR
// Tests try several, few blocks, which stride over much work, large and small strips, and offsets as in huge maps.
inline int32_t threads_of_a_block() {
  return ::emulator::threads_of_a_block > 0 ? ::emulator::threads_of_a_block : kThreadsOfABlock;
}
inline int64_t filling_blocks() { return ::emulator::filling_blocks > 0 ? ::emulator::filling_blocks : kFillingBlocks; }
inline int64_t most_blocks() { return ::emulator::most_blocks; }
inline bool always_wide() { return ::emulator::wide_index; }
#else
constexpr int32_t threads_of_a_block() { return kThreadsOfABlock; }
constexpr int64_t filling_blocks() { return kFillingBlocks; }
constexpr int64_t most_blocks() { return int64_t{1} << 30; }  // more work than that is strided over
constexpr bool always_wide() { return false; }
#endif

// The widest pack of channels (a power of two, at most `limit`) that this map can be accessed by.
template <typename T>
int widest(const Map<T>& map, int64_t channels, int limit) {
  if (map.data == nullptr) return limit;
  int v = map.c == 1 || channels == 1 ? limit : 1;
  const auto fits = [&](int64_t stride) { return stride % v == 0; };
  while (v > 1 && (channels % v != 0 || !fits(map.n) || !fits(map.y) || !fits(map.x) ||
                   reinterpret_cast<uintptr_t>(map.data) % (v * sizeof(T)) != 0)) {
    v /= 2;
  }
  return v;
}

// Elements of a 16-byte access.
template <typename T>
constexpr int whole_access() {
  return 16 / static_cast<int>(sizeof(T));
}

// Whether offsets inside one sample and channel need 64 bits.
template <typename T>
bool needs_wide_index(const Map<T>& map) {
  return map.data != nullptr && (always_wide() || (map.h - 1) * map.y + (map.w - 1) * map.x >= (int64_t{1} << 31) - 1);
}

inline bool needs_wide_index(int64_t tasks) { return always_wide() || tasks >= (int64_t{1} << 31); }

// Threads side by side on the packs of channels of one pixel: neighbors in memory, so a warp reads whole lines. Maps
// whose channels lie far apart get one, and all threads go along the rows.
inline int32_t channel_threads(int64_t packs, bool channels_inside) {
  return channels_inside ? static_cast<int32_t>(least<int64_t>(packs, 32)) : 1;
}

// Workers that share a strip: together about threads_of_a_block(), a multiple of a warp where one worker is one thread.
inline int32_t workers(int32_t side_by_side, int64_t pixels) {
  const int64_t all = threads_of_a_block() / side_by_side;
  return static_cast<int32_t>(side_by_side == 1 ? most<int64_t>(kWarp, least(all, ceil_div(pixels, kWarp) * kWarp))
                                                : most<int64_t>(1, least(all, pixels)));
}

constexpr int64_t kFewestThreads = 2 * kWarp;  // of a block that is made smaller so that there are more

// How many pixels of a map are a strip, one block's work, where `maps` of them are worked on and `side_by_side` threads
// share a pixel: `each` for every worker of a whole block. Where that makes too few blocks to fill a GPU they are
// fewer, down to `fewest` for every thread of the smallest block.
inline int64_t pixels_of_a_strip(int64_t maps, int64_t pixels, int32_t side_by_side, int64_t each, int64_t fewest = 1) {
  const int64_t threads = least<int64_t>(kFewestThreads, threads_of_a_block());
  const int64_t largest = workers(side_by_side, pixels) * each, filling = maps * pixels / filling_blocks();
  return most(fewest * ceil_div(threads, side_by_side), least(largest, filling));
}

// Strips of whole rows, where a block prepares something for each.
inline int64_t strips_of_rows(int64_t rows, int64_t pixels, int64_t pixels_of_each) {
  return least(rows, ceil_div(pixels, pixels_of_each));
}

// What a launch is planned as, beside what it writes into its arguments.
struct Plan {
  int vec;    // pack width
  bool wide;  // offsets need 64 bits: packs of one element then
  Grid grid;
};

// Calls start(V, Index{}) with a plan's pack width, one of kWidths (no wider than 16 bytes), as a constant, and its
// index type: the instantiations of a kernel.
template <typename T, int... kWidths, typename Start>
void with_plan(const Plan& plan, const Start& start) {
  using One = std::integral_constant<int, 1>;
  if (plan.wide) return start(One{}, int64_t{});
  if (plan.vec == 1) return start(One{}, int32_t{});
  const auto started = [&](auto width) {
    if constexpr (width <= whole_access<T>()) {
      if (plan.vec == width) return start(width, int32_t{}), true;
    }
    return false;
  };
  (started(std::integral_constant<int, kWidths>{}) || ...);
}

}  // namespace pyranet_fast::gpu
