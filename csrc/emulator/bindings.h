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
#include "emulator/settings.h"

namespace emulator {

namespace py = pybind11;
using namespace pyranet_fast;
using namespace pyranet_fast::gpu;

// How a test wants its kernels run: keyword arguments of every binding (settings.h), and a layout.
struct Run {
  Options options;
  Memory memory;
  std::string layout;

  // layout: "contiguous"; "channels_last"; "padded": rows and planes with gaps, off alignment; "channels_last_off": off
  // alignment; "channels_of_more": some of a channels_last map's channels; "turned": columns lie a row apart;
  // "repeated": all samples are the first, at stride 0.
  explicit Run(const py::dict& settings)
      : options(options_of(settings)), memory(side_of(settings)), layout(text(settings, "layout", "contiguous")) {
    set_plan(settings);
  }

  template <typename Arguments>
  void operator()(const char* name, void (*kernel)(Arguments), const Grid& grid, const Arguments& arguments) const {
    if (grid.blocks > 0x7fffffff) throw Error(std::string(name) + ": grid too large");
    launch(
        name, dim3(static_cast<unsigned>(grid.blocks)), dim3(grid.threads_x, grid.threads_y), grid.shared,
        [&] { kernel(arguments); }, memory, options);
  }
};

using Shape = std::vector<int64_t>;

inline Shape shape_of(const py::array& a) { return {a.shape(), a.shape() + a.ndim()}; }

// As a map's: (N, C, H, W), the last ones 1 where an array has fewer dimensions.
inline Shape map_shape(Shape shape) {
  shape.resize(4, 1);
  return shape;
}

// Strides of a layout, the first element's place, and how many elements it spans.
struct Placing {
  int64_t n, c, y, x, first, span;

  Placing(const Shape& s, const std::string& layout) {
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
    } else if (layout == "turned") {
      *this = {s[1] * s[2] * s[3], s[2] * s[3], 1, s[2], 0, s[0] * s[1] * s[2] * s[3]};
    } else if (layout == "repeated") {
      *this = {0, s[2] * s[3], s[3], 1, 0, s[1] * s[2] * s[3]};
    } else {
      *this = {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1, 0, s[0] * s[1] * s[2] * s[3]};
    }
  }
  Placing(int64_t n, int64_t c, int64_t y, int64_t x, int64_t first, int64_t span)
      : n(n), c(c), y(y), x(x), first(first), span(span) {}
};

// The last sample comes first: the first is what stays where all have one place.
template <typename T, typename Each>
void for_each_place(const Shape& s, const Placing& p, const Each& each) {
  for (int64_t n = s[0] - 1; n >= 0; --n) {
    int64_t flat = n * s[1] * s[2] * s[3];
    for (int64_t c = 0; c < s[1]; ++c) {
      for (int64_t y = 0; y < s[2]; ++y) {
        for (int64_t x = 0; x < s[3]; ++x) each(flat++, p.first + n * p.n + c * p.c + y * p.y + x * p.x);
      }
    }
  }
}

template <typename T>
Map<T> map_at(void* data, const Shape& shape, const Placing& p) {
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

// An array of up to four dimensions in the run's layout, read-only for kernels.
template <typename T>
Map<T> input_map(Run& run, const std::string& name, const py::array& values) {
  if (values.itemsize() != sizeof(T) || values.ndim() > 4) throw Error(name + " must be 4-D, elements of its type");
  const py::array dense = py::array::ensure(values, py::array::c_style);
  const Shape shape = map_shape(shape_of(dense));
  const Placing place(shape, run.layout);
  std::vector<T> laid(place.span);
  std::memset(static_cast<void*>(laid.data()), 0xff, laid.size() * sizeof(T));  // NaN in the gaps
  const T* from = static_cast<const T*>(dense.data());
  for_each_place<T>(shape, place, [&](int64_t flat, int64_t at) { laid[at] = from[flat]; });
  return map_at<T>(run.memory.input(name, laid.data(), laid.size() * sizeof(T)), shape, place);
}

// Memory for a result, full of NaN.
template <typename T>
T* output(Run& run, const std::string& name, int64_t count) {
  return static_cast<T*>(run.memory.output(name, count * sizeof(T)));
}

template <typename T>
Map<T> output_map(Run& run, const std::string& name, const Shape& shape) {
  const Placing place(shape, run.layout);
  return map_at<T>(run.memory.output(name, place.span * sizeof(T)), shape, place);
}

// The same in the layout that operators give a result: the input's where that is dense, else contiguous.
template <typename T>
Map<T> result_map(Run& run, const std::string& name, const Shape& shape) {
  if (run.layout != "channels_last") run.layout = "contiguous";
  return output_map<T>(run, name, shape);
}

template <typename T>
py::array numpy_like(const Shape& shape) {
  if constexpr (std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>) {
    return py::array_t<uint16_t>(shape);
  } else {
    return py::array_t<T>(shape);
  }
}

template <typename T>
py::array collect(const Run& run, const Map<T>& map, const Shape& shape) {
  py::array result = numpy_like<T>(shape);
  T* to = static_cast<T*>(result.mutable_data());
  const Placing place(shape, run.layout);
  for_each_place<T>(shape, place, [&](int64_t flat, int64_t at) { to[flat] = (map.data - place.first)[at]; });
  return result;
}

template <typename T>
py::array collect(const T* data, const Shape& shape) {
  py::array result = numpy_like<T>(shape);
  if (result.nbytes() > 0) std::memcpy(result.mutable_data(), data, result.nbytes());
  return result;
}

// Calls body(T{}, run) for a dtype's name, with the run that the settings describe.
template <typename Body>
auto run_as(const std::string& dtype, const py::dict& settings, const Body& body) {
  Run run(settings);
  if (dtype == "float32") return body(float{}, run);
  if (dtype == "float64") return body(double{}, run);
  if (dtype == "bfloat16") return body(__nv_bfloat16{}, run);
  if (dtype == "float16") return body(__half{}, run);
  throw Error("dtype " + dtype + " is none of float32, float64, bfloat16, float16");
}

// The same for what is float or double.
template <typename Body>
auto run_as_wide(const std::string& dtype, const py::dict& settings, const Body& body) {
  Run run(settings);
  return dtype == "float64" ? body(double{}, run) : body(float{}, run);
}

// An operator's bindings: BINDINGS(m) { m.def(...); } at the end of its file.
struct Bindings {
  using Function = void (*)(py::module_&);
  static std::vector<Function>& all() {
    static std::vector<Function> functions;
    return functions;
  }
  explicit Bindings(Function function) { all().push_back(function); }
};
#define BINDINGS(m)                     \
  static void bind(py::module_& m);     \
  static const Bindings bindings(bind); \
  static void bind(py::module_& m)

}  // namespace emulator
