// The Python module of the emulator, for tests.
#include "emulator/bindings.h"

PYBIND11_MODULE(_emulator, m) {
  m.doc() = "CUDA kernels of pyranet_fast, run on the CPU";
  pybind11::register_exception<emulator::Error>(m, "EmulatorError", PyExc_RuntimeError);
  for (const auto bind : emulator::Bindings::all()) bind(m);
}
