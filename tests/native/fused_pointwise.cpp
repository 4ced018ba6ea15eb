#include "cpu/fused/fused_pointwise_job.h"
#include "cpu/fused/packing.h"

#include "parity.h"

#define PF_BF16_PRODUCTS_TOO
#define PF_KERNEL_FILE "cpu/fused/fused_pointwise_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

// Whether x is added to, has half the size, or is pooled.
enum class Form { plain, other, half, pool };

template <typename T>
void check(int64_t inputs, int64_t outputs, Form form) {
  const int64_t h = 4, w = 6, pixels = h * w, columns = PF_CHOOSE(pointwise_columns)();
  const bool half = form == Form::half, pool = form == Form::pool;
  const int64_t xh = half ? h / 2 : pool ? 2 * h : h, xw = half ? w / 2 : pool ? 2 * w : w;
  const auto x = numbers<T>(xh * xw * inputs, 51), other = numbers<T>(pixels * inputs, 52);
  const auto scale = numbers<float>(inputs, 53), shift = numbers<float>(inputs, 54);
  const auto weight = numbers<T>(outputs * inputs, 55), residual = numbers<T>(pixels * outputs, 57);
  const auto bias = numbers<float>(outputs, 56);
  const int64_t panels = (outputs + columns - 1) / columns;
  std::vector<T> packed(panels * inputs * columns), sum(pixels * inputs), y(pixels * outputs);
  pack_panels(outputs, inputs, columns, [&](int64_t o, int64_t i) { return weight[o * inputs + i]; }, packed.data());
  const PointwiseJob<T> job{
      x.data(),
      form == Form::other || half ? other.data() : nullptr,
      form == Form::plain ? nullptr : sum.data(),
      h,
      w,
      inputs,
      xh,
      xw,
      half,
      pool,
      {{scale.data(), shift.data(), packed.data(), bias.data(), residual.data(), y.data(), outputs, true}}};
  std::vector<T> scratch(2 * pixels * inputs);
  for (int64_t p = 0; p < pixels; p += 17) {
    PF_CHOOSE(pointwise_pixels<T>)(job, p, std::min(pixels, p + 17), scratch.data());
  }
  std::vector<double> wanted_sum(pixels * inputs), wanted(pixels * outputs);
  for (int64_t p = 0; p < pixels; ++p) {
    const int64_t row = p / w, column = p % w;
    const auto at = [&](int64_t r, int64_t c, int64_t i) { return wide(x[(r * xw + c) * inputs + i]); };
    for (int64_t i = 0; i < inputs; ++i) {
      double value = half ? at(row / 2, column / 2, i) : at(row, column, i);
      if (job.other != nullptr) value += wide(other[p * inputs + i]);
      if (pool) {
        value = std::max(std::max(at(2 * row, 2 * column, i), at(2 * row, 2 * column + 1, i)),
                         std::max(at(2 * row + 1, 2 * column, i), at(2 * row + 1, 2 * column + 1, i)));
      }
      wanted_sum[p * inputs + i] = wide(store<T>(static_cast<float>(value)));
    }
    for (int64_t o = 0; o < outputs; ++o) {
      double value = bias[o] + wide(residual[p * outputs + o]);
      for (int64_t i = 0; i < inputs; ++i) {
        const double active = std::max(0.0, wanted_sum[p * inputs + i] * scale[i] + shift[i]);
        value += wide(weight[o * inputs + i]) * wide(store<T>(static_cast<float>(active)));
      }
      wanted[p * outputs + o] = std::max(0.0, value);
    }
  }
  const std::string of = std::string(" in ") + kTypeName<T> + " of " + std::to_string(inputs) + " to " +
                         std::to_string(outputs) + " channels";
  if (job.sum != nullptr) expect("pointwise_pixels, the sum," + of, sum.data(), wanted_sum);
  expect("pointwise_pixels" + of, y.data(), wanted);
}

}  // namespace

void fused_pointwise() {
  for (const Form form : {Form::plain, Form::other, Form::half, Form::pool}) {
    check<float>(3, 5, form), check<float>(21, 40, form), check<float>(16, 64, form), check<float>(64, 16, form);
    check<BFloat16>(2, 5, form), check<BFloat16>(22, 40, form), check<BFloat16>(16, 64, form);
  }
}

}  // namespace pyranet_fast::cpu::parity
