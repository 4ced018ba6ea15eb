#include "cpu/isa.h"
#include "parity.h"

int main() {
  using namespace pyranet_fast::cpu;
  parity::elements();
  parity::batch_norm_relu();
  parity::fractional_max_pool_pyramid();
  parity::upsample_sum();
  parity::heatmap_argmax();
  parity::heatmap_loss();
  parity::add_affine_relu();
  parity::fused_pointwise();
  parity::pooled_pyramid();
  parity::winograd();
  const char* set = isa() == Isa::avx512bf16 ? "avx512bf16"
                    : isa() == Isa::avx512   ? "avx512"
                    : isa() == Isa::avx2     ? "avx2"
                                             : "baseline";
  std::printf("%s: %lld comparisons, %lld failed\n", set, static_cast<long long>(parity::checks),
              static_cast<long long>(parity::failures));
  return parity::failures == 0 ? 0 : 1;
}
