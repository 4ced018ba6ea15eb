// Host functions with one mistake each, and a right one beside them: what the emulator's own tests call.
#include "cuda/host.h"

namespace pyranet_fast::gpu {
namespace {

struct Copying {
  Map<float> from, to;
  int32_t count, first;  // elements, and the first that is read
};

__global__ void copy_row(const __grid_constant__ Copying p) {
  const int32_t i = threadIdx.x;
  if (i < p.count) p.to.data[i * p.to.n] = p.from.data[(p.first + i) * p.from.n];
}

// Copies `count` elements of a vector from `at` on into a new one of `room` elements.
Tensor copied(const Tensor& x, int64_t at, int64_t count, int64_t room) {
  const Launcher launch(x);
  Tensor y = empty_nchw(x, {room});
  launch("copy_row", copy_row, Grid{1, 32, 1, 0},
         Copying{read_map<float>(x), write_map<float>(y), static_cast<int32_t>(count), static_cast<int32_t>(at)});
  return y;
}

Tensor right(Tensor x) { return copied(x, 0, x.size(0), x.size(0)); }
Tensor reads_past_the_end(Tensor x) { return copied(x, 1, x.size(0), x.size(0)); }
Tensor leaves_an_element(Tensor x) { return copied(x, 0, x.size(0) - 1, x.size(0)); }
Tensor makes_too_little_room(Tensor x) { return copied(x, 0, x.size(0), x.size(0) - 1); }

// As if the vector were dense.
Tensor forgets_strides(Tensor x) {
  const Launcher launch(x);
  Tensor y = empty_nchw(x, {x.size(0)});
  Map<float> from = read_map<float>(x);
  from.n = 1;
  launch("copy_row", copy_row, Grid{1, 32, 1, 0},
         Copying{from, write_map<float>(y), static_cast<int32_t>(x.size(0)), 0});
  return y;
}

Tensor writes_to_its_input(Tensor x) {
  const Launcher launch(x);
  launch("copy_row", copy_row, Grid{1, 32, 1, 0}, Copying{read_map<float>(x), read_map<float>(x), 1, 0});
  return x;
}

Tensor has_no_launcher(Tensor x) {
  read_pointer<float>(x);
  return x;
}

STABLE_TORCH_LIBRARY(pyranet_fast_emulator_checks, m) {
  m.def("right(Tensor x) -> Tensor");
  m.def("reads_past_the_end(Tensor x) -> Tensor");
  m.def("leaves_an_element(Tensor x) -> Tensor");
  m.def("makes_too_little_room(Tensor x) -> Tensor");
  m.def("forgets_strides(Tensor x) -> Tensor");
  m.def("writes_to_its_input(Tensor x) -> Tensor");
  m.def("has_no_launcher(Tensor x) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast_emulator_checks, CPU, m) {
  m.impl("right", TORCH_BOX(&right));
  m.impl("reads_past_the_end", TORCH_BOX(&reads_past_the_end));
  m.impl("leaves_an_element", TORCH_BOX(&leaves_an_element));
  m.impl("makes_too_little_room", TORCH_BOX(&makes_too_little_room));
  m.impl("forgets_strides", TORCH_BOX(&forgets_strides));
  m.impl("writes_to_its_input", TORCH_BOX(&writes_to_its_input));
  m.impl("has_no_launcher", TORCH_BOX(&has_no_launcher));
}

}  // namespace
}  // namespace pyranet_fast::gpu
