// The fused operators as functions, for `run_folded`, which calls one after the other. Schemas: csrc/schema.cpp.
#pragma once

#include "common/tensor.h"

namespace pyranet_fast::cpu {

std::vector<Tensor> fused_pointwise(Tensor x, std::optional<Tensor> other, std::vector<Tensor> scale,
                                    std::vector<Tensor> shift, std::vector<Tensor> weight, std::vector<Tensor> bias,
                                    std::vector<int64_t> relu, std::optional<Tensor> residual, bool keep, bool pool);
std::tuple<Tensor, bool> winograd_conv3x3(Tensor x, Tensor packed, std::optional<Tensor> bias,
                                          std::optional<Tensor> other, int64_t outputs, bool relu);
void pooled_pyramid_(Tensor x, std::vector<int64_t> sizes, std::vector<Tensor> filters, std::vector<Tensor> biases,
                     Tensor expand, Tensor expand_bias, Tensor y);

}  // namespace pyranet_fast::cpu
