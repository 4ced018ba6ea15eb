// Mean squared error of score maps against Gaussians that are never stored: two exponentials' tables per map, one
// pass over the maps. Sums are formed per map and added in a fixed order, whatever the number of threads.
#include "common/gaussian.h"
#include "common/heatmap_loss_checks.h"
#include "cpu/host.h"

#define PF_KERNEL_FILE "cpu/heatmap_loss_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

template <typename T>
struct Loss {
  using W = wide_t<T>;
  const T* pred;
  const W* joints;
  const W* weight;
  int64_t n, k, h, w;
  W two_sigma_squared;
  bool channels_last;

  Loss(const Tensor& pred, const Tensor& joints, const Tensor& weight, double sigma)
      : pred(read_pointer<T>(pred)),
        joints(read_pointer<W>(joints)),
        weight(read_pointer<W>(weight)),
        n(pred.size(0)),
        k(pred.size(1)),
        h(pred.size(2)),
        w(pred.size(3)),
        two_sigma_squared(pyranet_fast::two_sigma_squared<W>(sigma)),
        channels_last(is_channels_last(pred)) {}

  double total_weight() const {
    double total = 0;
    for (int64_t m = 0; m < n * k; ++m) total += static_cast<double>(weight[m]);
    return total;
  }

  int64_t padded() const {
    const int64_t lanes = PF_CHOOSE(loss_lanes<T>)();
    return (k + lanes - 1) / lanes * lanes;
  }

  // gx then gy of one map, `step` apart; maps of weight 0 keep what is there: their joints may be NaN.
  void tables(int64_t map, W* line, W* gx, W* gy, int64_t step) const {
    if (!(weight[map] > 0)) return;
    PF_CHOOSE(gaussian_line<W>)(joints[2 * map], two_sigma_squared, w, line, gx, step);
    PF_CHOOSE(gaussian_line<W>)(joints[2 * map + 1], two_sigma_squared, h, line, gy, step);
  }

  // Calls plane(map, gx, gy) for every contiguous map of weight above 0.
  template <typename Plane, typename Ignored>
  void planes(const Plane& plane, const Ignored& ignored) const {
    parallel_for(0, n * k, std::max<int64_t>(1, 32768 / (h * w)), [&](int64_t begin, int64_t end) {
      std::vector<W> lines(w + h);
      for (int64_t m = begin; m < end; ++m) {
        if (!(weight[m] > 0)) {
          ignored(m);
          continue;
        }
        tables(m, nullptr, lines.data(), lines.data() + w, 1);
        plane(m, lines.data(), lines.data() + w);
      }
    });
  }

  // Calls image(i, gx, gy) for every channels_last image.
  template <typename Image>
  void images(const Image& image) const {
    parallel_for(0, n, std::max<int64_t>(1, 32768 / (h * w * k)), [&](int64_t begin, int64_t end) {
      const int64_t step = padded();
      std::vector<W> line(std::max(w, h)), tables_of_image((w + h) * step, W(0));
      W* gx = tables_of_image.data();
      W* gy = gx + w * step;
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t c = 0; c < k; ++c) tables(i * k + c, line.data(), gx + c, gy + c, step);
        image(i, gx, gy);
      }
    });
  }

  double forward() const {
    const double total = total_weight();
    if (!(total > 0)) return total * 0;  // NaN where a weight is NaN
    std::vector<double> sums(n * k, 0.0);
    const int64_t area = h * w, available = n * k * area;
    if (channels_last) {
      images([&](int64_t i, const W* gx, const W* gy) {
        PF_CHOOSE(loss_image<T>)
        (pred + i * k * area, available - i * k * area, gx, gy, h, w, k, padded(), sums.data() + i * k);
      });
    } else {
      planes([&](int64_t m, const W* gx,
                 const W* gy) { sums[m] = PF_CHOOSE(loss_plane<T>)(pred + m * area, gx, gy, h, w); },
             [](int64_t) {});
    }
    double sum = 0;
    for (int64_t m = 0; m < n * k; ++m) {
      if (weight[m] > 0) sum += static_cast<double>(weight[m]) * sums[m];
    }
    return sum / (static_cast<double>(area) * total);
  }

  void backward(double grad, T* to) const {
    const double total = total_weight();
    const int64_t area = h * w;
    const auto coefficient = [&](int64_t m) {
      if (!(weight[m] > 0) || total <= 0) return W(0);
      return static_cast<W>(grad * 2 * static_cast<double>(weight[m]) / (static_cast<double>(area) * total));
    };
    if (channels_last) {
      images([&](int64_t i, const W* gx, const W* gy) {
        std::vector<W> coefficients(padded(), W(0));
        for (int64_t c = 0; c < k; ++c) coefficients[c] = coefficient(i * k + c);
        PF_CHOOSE(loss_gradient_image<T>)
        (pred + i * k * area, gx, gy, coefficients.data(), h, w, k, padded(), to + i * k * area);
      });
    } else {
      const auto zero = [&](int64_t m) { std::fill(to + m * area, to + (m + 1) * area, T(0)); };
      planes(
          [&](int64_t m, const W* gx, const W* gy) {
            const W c = coefficient(m);
            if (c == 0) return zero(m);
            PF_CHOOSE(loss_gradient_plane<T>)(pred + m * area, gx, gy, c, h, w, to + m * area);
          },
          zero);
    }
  }
};

Tensor heatmap_loss(Tensor pred, Tensor joints, Tensor weight, double sigma) {
  check_heatmap_loss(pred, joints, weight, sigma);
  pred = dense(pred), joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  Tensor loss = empty_nchw(pred, {}, false, wide_type(pred));
  double value = 0;
  if (pred.numel() > 0) {
    dispatch_float("heatmap_loss: pred", pred.scalar_type(),
                   [&](auto type) { value = Loss<decltype(type)>(pred, joints, weight, sigma).forward(); });
  }
  dispatch_wide(loss, [&](auto type) { *write_pointer<decltype(type)>(loss) = static_cast<decltype(type)>(value); });
  return loss;
}

Tensor heatmap_loss_backward(Tensor grad, Tensor pred, Tensor joints, Tensor weight, double sigma) {
  check_heatmap_loss_backward(grad, pred, joints, weight, sigma);
  pred = dense(pred), joints = torch::stable::contiguous(joints), weight = torch::stable::contiguous(weight);
  Tensor to = empty_like_map(pred);
  if (pred.numel() == 0) return to;
  double factor = 0;
  dispatch_wide(grad, [&](auto type) { factor = static_cast<double>(*read_pointer<decltype(type)>(grad)); });
  dispatch_float("heatmap_loss: pred", pred.scalar_type(), [&](auto type) {
    using T = decltype(type);
    Loss<T>(pred, joints, weight, sigma).backward(factor, write_pointer<T>(to));
  });
  return to;
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("heatmap_loss", TORCH_BOX(&heatmap_loss));
  m.impl("heatmap_loss_backward", TORCH_BOX(&heatmap_loss_backward));
}

}  // namespace
}  // namespace pyranet_fast::cpu
