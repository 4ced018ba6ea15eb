// What the kernels of add_affine_relu are handed.
#pragma once

#include "cpu/elements.h"

namespace pyranet_fast::cpu {

template <typename T>
struct AddAffineJob {
  int64_t channels;
  bool half;
  const wide_t<T>* scale;  // (outputs, channels)
  const wide_t<T>* shift;
  T* sum;
  std::vector<T*> outs;
};

}  // namespace pyranet_fast::cpu
