// From NumPy to kernels: arrays are laid out in guarded memory as a test wants them, kernels are launched, results are
// read back. bfloat16 and float16 travel as uint16.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cuda/device.cuh"
#include "emulator/emulator.h"

namespace emulator {

namespace py = pybind11;
using pyranet_fast::gpu::Grid;
using pyranet_fast::gpu::Map;

// How a test wants its kernels run: keyword arguments of every binding.
struct Run {
  Options options;
  Memory memory;
  std::string layout;

  // settings: layout ("contiguous"; "channels_last"; "padded": rows and planes with gaps, off alignment;
  // "channels_last_off": off alignment; "channels_of_more": some of a channels_last map's channels),
  // side ("end", "start"), order ("forward", "backward", "shuffled"), seed, threads of a block, blocks at most.
  explicit Run(const py::dict& settings) : memory(side(settings)), layout(text(settings, "layout", "contiguous")) {
    const std::string order = text(settings, "order", "shuffled");
    options.order = order == "forward" ? Order::forward : order == "backward" ? Order::backward : Order::shuffled;
    options.seed = settings.contains("seed") ? settings["seed"].cast<uint64_t>() : 0;
    threads_of_a_block = settings.contains("threads") ? settings["threads"].cast<int>() : 256;
    most_blocks = settings.contains("blocks") ? settings["blocks"].cast<int>() : 1 << 30;
  }

  template <typename Arguments>
  void operator()(const char* name, void (*kernel)(Arguments), const Grid& grid, const Arguments& arguments) const {
    if (grid.blocks > 0x7fffffff) throw Error(std::string(name) + ": grid too large");
    launch(
        name, dim3(static_cast<unsigned>(grid.blocks)), dim3(grid.threads_x, grid.threads_y), grid.shared,
        [&] { kernel(arguments); }, memory, options);
  }

 private:
  static std::string text(const py::dict& settings, const char* key, const char* otherwise) {
    return settings.contains(key) ? settings[key].cast<std::string>() : otherwise;
  }
  static Side side(const py::dict& settings) {
    return text(settings, "side", "end") == "start" ? Side::start : Side::end;
  }
};

// Strides of a layout, the first element's place, and how many elements it spans.
struct Placing {
  int64_t n, c, y, x, first, span;

  Placing(const std::vector<int64_t>& s, const std::string& layout) {
    if (layout == "channels_last") {
      *this = {s[1] * s[2] * s[3], 1, s[1] * s[3], s[1], 0, s[0] * s[1] * s[2] * s[3]};
    } else if (layout == "channels_last_off") {
      *this = {s[1] * s[2] * s[3], 1, s[1] * s[3], s[1], 1, s[0] * s[1] * s[2] * s[3] + 1};
    } else if (layout == "channels_of_more") {
      const int64_t pixel = (s[1] + 8) / 8 * 8;
      *this = {pixel * s[2] * s[3], 1, pixel * s[3], pixel, 0, pixel * s[0] * s[2] * s[3]};
    } else if (layout == "padded") {
      const int64_t row = s[3] + 3, plane = row * (s[2] + 1) + 1;
      *this = {plane * s[1], plane, row, 1, 1, plane * s[1] * s[0] + 1};
    } else {
      *this = {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1, 0, s[0] * s[1] * s[2] * s[3]};
    }
  }
  Placing(int64_t n, int64_t c, int64_t y, int64_t x, int64_t first, int64_t span)
      : n(n), c(c), y(y), x(x), first(first), span(span) {}
};

template <typename T, typename Each>
void for_each_place(const std::vector<int64_t>& s, const Placing& p, const Each& each) {
  int64_t flat = 0;
  for (int64_t n = 0; n < s[0]; ++n) {
    for (int64_t c = 0; c < s[1]; ++c) {
      for (int64_t y = 0; y < s[2]; ++y) {
        for (int64_t x = 0; x < s[3]; ++x) each(flat++, p.first + n * p.n + c * p.c + y * p.y + x * p.x);
      }
    }
  }
}

inline std::vector<int64_t> shape_of(const py::array& a) { return {a.shape(), a.shape() + a.ndim()}; }

template <typename T>
Map<T> map_at(void* data, const std::vector<int64_t>& shape, const Placing& p) {
  return {static_cast<T*>(data) + p.first, p.n, p.c, p.y, p.x, static_cast<int32_t>(shape[2]),
          static_cast<int32_t>(shape[3])};
}

// Dense data of any shape, read-only for kernels.
template <typename T>
T* input(Run& run, const std::string& name, const py::array& values) {
  if (values.itemsize() != sizeof(T)) throw Error(name + " has elements of another size");
  const py::array dense = py::array::ensure(values, py::array::c_style);
  return static_cast<T*>(run.memory.input(name, dense.data(), dense.nbytes()));
}

// A (N, C, H, W) array in the run's layout, read-only for kernels.
template <typename T>
Map<T> input_map(Run& run, const std::string& name, const py::array& values) {
  if (values.itemsize() != sizeof(T) || values.ndim() != 4) throw Error(name + " must be 4-D, elements of its type");
  const py::array dense = py::array::ensure(values, py::array::c_style);
  const auto shape = shape_of(dense);
  const Placing place(shape, run.layout);
  std::vector<T> laid(place.span);
  std::memset(static_cast<void*>(laid.data()), 0xff, laid.size() * sizeof(T));  // NaN in the gaps
  const T* from = static_cast<const T*>(dense.data());
  for_each_place<T>(shape, place, [&](int64_t flat, int64_t at) { laid[at] = from[flat]; });
  return map_at<T>(run.memory.input(name, laid.data(), laid.size() * sizeof(T)), shape, place);
}

// Memory for a result, full of NaN.
template <typename T>
Map<T> output_map(Run& run, const std::string& name, const std::vector<int64_t>& shape) {
  const Placing place(shape, run.layout);
  return map_at<T>(run.memory.output(name, place.span * sizeof(T)), shape, place);
}

template <typename T>
py::array numpy_like(const std::vector<int64_t>& shape) {
  if constexpr (std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>) {
    return py::array_t<uint16_t>(shape);
  } else {
    return py::array_t<T>(shape);
  }
}

template <typename T>
py::array collect(const Run& run, const Map<T>& map, const std::vector<int64_t>& shape) {
  py::array result = numpy_like<T>(shape);
  T* to = static_cast<T*>(result.mutable_data());
  const Placing place(shape, run.layout);
  for_each_place<T>(shape, place, [&](int64_t flat, int64_t at) { to[flat] = (map.data - place.first)[at]; });
  return result;
}

template <typename T>
py::array collect(const T* data, const std::vector<int64_t>& shape) {
  py::array result = numpy_like<T>(shape);
  if (result.nbytes() > 0) std::memcpy(result.mutable_data(), data, result.nbytes());
  return result;
}

template <typename T>
struct Type {
  using type = T;
};

// Calls body(Type<T>{}) for a dtype's name.
template <typename Body>
auto dispatch(const std::string& dtype, const Body& body) {
  if (dtype == "float32") return body(Type<float>{});
  if (dtype == "float64") return body(Type<double>{});
  if (dtype == "bfloat16") return body(Type<__nv_bfloat16>{});
  if (dtype == "float16") return body(Type<__half>{});
  throw Error("dtype " + dtype + " is none of float32, float64, bfloat16, float16");
}

void bind_pool(py::module_& m);
void bind_upsample(py::module_& m);
void bind_heatmaps(py::module_& m);
void bind_checks(py::module_& m);

}  // namespace emulator
