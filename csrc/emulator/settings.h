// How a test wants its kernels run: keyword arguments of every binding.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "emulator/emulator.h"

namespace emulator {

inline std::string text(const pybind11::dict& settings, const char* key, const char* otherwise) {
  return settings.contains(key) ? settings[key].cast<std::string>() : otherwise;
}

template <typename Number>
Number number(const pybind11::dict& settings, const char* key, Number otherwise) {
  return settings.contains(key) ? settings[key].cast<Number>() : otherwise;
}

// order ("forward", "backward", "shuffled"), seed.
inline Options options_of(const pybind11::dict& settings) {
  const std::string order = text(settings, "order", "shuffled");
  return {order == "forward"    ? Order::forward
          : order == "backward" ? Order::backward
                                : Order::shuffled,
          number<uint64_t>(settings, "seed", 0)};
}

// side ("end", "start").
inline Side side_of(const pybind11::dict& settings) {
  return text(settings, "side", "end") == "start" ? Side::start : Side::end;
}

// threads (of a block), blocks (at most), fill (blocks that fill a GPU), wide (offsets of 64 bits), as launch plans ask
// for them.
inline void set_plan(const pybind11::dict& settings) {
  threads_of_a_block = number(settings, "threads", 0);
  most_blocks = number(settings, "blocks", 1 << 30);
  filling_blocks = number(settings, "fill", 0);
  wide_index = number(settings, "wide", false);
}

}  // namespace emulator
