// The Python module of the emulated operators: tensors as kernels see them, settings, and the launches that were made.
#include "emulator/host.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <tuple>

#include "emulator/settings.h"

namespace emulator {
namespace {

using namespace pyranet_fast;
using namespace pyranet_fast::gpu;
constexpr size_t kAlignment = 64;  // what a copy keeps of its tensor's address: pack widths depend on it
constexpr unsigned char kNan = 0xff;

// A tensor's elements in guarded memory.
struct Copy {
  Tensor tensor;
  bool writable;
  unsigned char* block;  // whole multiples of the alignment; the tensor's bytes lie inside
  size_t before, bytes, after;

  unsigned char* data() const { return block + before; }
};

// Calls each(place among the tensor's elements in memory) for every element.
template <typename Each>
void for_each_element(const Tensor& x, const Each& each, int64_t dim = 0, int64_t at = 0) {
  if (dim == x.dim()) return each(at);
  for (int64_t i = 0; i < x.size(dim); ++i) for_each_element(x, each, dim + 1, at + i * x.stride(dim));
}

size_t span_of(const Tensor& x) {
  if (x.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t d = 0; d < x.dim(); ++d) last += (x.size(d) - 1) * x.stride(d);
  return (last + 1) * x.element_size();
}

Options options;
Side side = Side::end;
bool launching = true;
using Noted = std::tuple<std::string, int64_t, int32_t, int32_t, int64_t>;
std::vector<Noted> noted;

// What belongs to the launcher that lives.
struct Session {
  Memory memory{side};
  std::map<std::tuple<const void*, size_t, bool>, Copy> copies;

  void* see(const Tensor& x, bool writable) {
    const size_t bytes = span_of(x);
    const auto* from = static_cast<const unsigned char*>(x.const_data_ptr());
    const auto key = std::make_tuple(static_cast<const void*>(from), bytes, writable);
    if (const auto found = copies.find(key); found != copies.end()) return found->second.data();
    const size_t before = reinterpret_cast<uintptr_t>(from) % kAlignment;
    const size_t all = (before + bytes + kAlignment - 1) / kAlignment * kAlignment;
    std::vector<unsigned char> laid(all, kNan);
    const size_t width = x.element_size();
    for_each_element(x, [&](int64_t at) { std::memcpy(laid.data() + before + at * width, from + at * width, width); });
    const std::string name = "tensor " + std::to_string(copies.size());
    void* block = writable ? memory.scratch(name, laid.data(), all) : memory.input(name, laid.data(), all);
    const Copy copy{x, writable, static_cast<unsigned char*>(block), before, bytes, all - before - bytes};
    return copies.emplace(key, copy).first->second.data();
  }

  void give_back() const {
    for (const auto& [key, copy] : copies) {
      if (!copy.writable) continue;
      for (size_t i = 0; i < copy.before + copy.bytes + copy.after; ++i) {
        const bool inside = i >= copy.before && i < copy.before + copy.bytes;
        if (!inside && copy.block[i] != kNan) throw Error("a kernel wrote beside a tensor of its host function");
      }
      auto* to = static_cast<unsigned char*>(copy.tensor.mutable_data_ptr());
      const size_t width = copy.tensor.element_size();
      for_each_element(copy.tensor, [&](int64_t at) { std::memcpy(to + at * width, copy.data() + at * width, width); });
    }
  }
};
std::unique_ptr<Session> session;

Session& living() {
  if (session == nullptr) throw Error("a kernel's argument is made without a launcher, and so without a device guard");
  return *session;
}

// Without launches nothing is read: the tensor's own address is all that plans want.
void* address(const Tensor& x, bool writable) {
  Session& current = living();
  return launching ? current.see(x, writable) : const_cast<void*>(x.const_data_ptr());
}

}  // namespace
}  // namespace emulator

namespace pyranet_fast::gpu {

const void* input_address(const Tensor& x) { return ::emulator::address(x, false); }
void* output_address(const Tensor& x) { return ::emulator::address(x, true); }

Launcher::Launcher(const Tensor&) {
  if (::emulator::session != nullptr) throw ::emulator::Error("a launcher is made while another one lives");
  ::emulator::session = std::make_unique<::emulator::Session>();
}

Launcher::~Launcher() { ::emulator::session.reset(); }

void Launcher::run(const char* name, const Grid& grid, const std::function<void()>& kernel) {
  using namespace ::emulator;
  noted.emplace_back(name, grid.blocks, grid.threads_x, grid.threads_y, grid.shared);
  if (!launching) return;
  if (grid.blocks > 0x7fffffff) throw Error(std::string(name) + ": grid too large");
  launch(name, dim3(static_cast<unsigned>(grid.blocks)), dim3(grid.threads_x, grid.threads_y), grid.shared, kernel,
         living().memory, options);
  living().give_back();
}

}  // namespace pyranet_fast::gpu

namespace emulator {

PYBIND11_MODULE(_operators, m) {
  m.doc() =
      "The CUDA operators of pyranet_fast, host functions included, on CPU tensors: torch.ops.pyranet_fast_emulated";
  m.def(
      "configure",
      [](const pybind11::dict& settings) {
        options = options_of(settings), side = side_of(settings);
        set_plan(settings);
        launching = !settings.contains("launch") || settings["launch"].cast<bool>();
      },
      "How kernels run from now on: the settings of the emulator's bindings; launch=False only notes grids.");
  m.def(
      "launches", [] { return std::exchange(noted, {}); },
      "(name, blocks, threads_x, threads_y, bytes of shared memory) of every launch since the last call.");
}

}  // namespace emulator
