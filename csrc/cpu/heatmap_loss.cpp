// Weighted squared error of score maps against Gaussians that are never stored: a Gaussian is the product of one
// over x and one over y, so a map costs h + w exponentials. gaussian_heatmaps writes the same Gaussians out.
#include "cpu/heatmap.h"

#define PF_KERNEL_FILE "cpu/heatmap_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu {
namespace {

using torch::stable::parallel_for;

template <typename W>
std::vector<W> values_of(const Tensor& x) {
  const Tensor from = torch::stable::contiguous(x);
  std::vector<W> values(from.numel());
  if (from.scalar_type() == ScalarType::Double) {
    const double* data = from.const_data_ptr<double>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<W>(data[i]);
  } else {
    std::copy_n(from.const_data_ptr<float>(), values.size(), values.begin());
  }
  return values;
}

template <typename W>
Gaussians<W> gaussians_of(const Tensor& joints, const Tensor& weight, int64_t h, int64_t w, double sigma) {
  const std::vector<W> centres = values_of<W>(joints);
  Gaussians<W> g;
  g.weight = values_of<W>(weight);
  const int64_t maps = g.weight.size();
  g.x.resize(maps * w);
  g.y.resize(maps * h);
  parallel_for(0, maps, std::max<int64_t>(1, 4096 / (h + w)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!(g.weight[i] > 0)) continue;
      PF_CHOOSE(gaussian_row<W>)(centres[2 * i], sigma, w, g.x.data() + i * w);
      PF_CHOOSE(gaussian_row<W>)(centres[2 * i + 1], sigma, h, g.y.data() + i * h);
    }
  });
  return g;
}

// Sum of the weights that count, in a fixed order.
template <typename W>
double total_weight(const Gaussians<W>& g) {
  double total = 0;
  for (const W w : g.weight) total += w;
  return total;
}

// Calls work(sample, first row, last row + 1, band) for bands of rows of channels_last maps.
constexpr int64_t kBand = 16;
template <typename Work>
void for_each_band(int64_t n, int64_t h, const Work& work) {
  const int64_t bands = (h + kBand - 1) / kBand;
  parallel_for(0, n * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % bands * kBand;
      work(i / bands, first, std::min(h, first + kBand), i);
    }
  });
}

// The tables of one sample as rows of a channels_last map read them.
template <typename W>
struct Interleaved {
  std::vector<W> x, y, per_channel;

  Interleaved(const Gaussians<W>& g, int64_t sample, int64_t c, int64_t h, int64_t w, int64_t pixels,
              const std::vector<W>& values)
      : x(w * c), y(h * pixels * c), per_channel(pixels * c) {
    for (int64_t k = 0; k < c; ++k) {
      const int64_t map = sample * c + k;
      for (int64_t i = 0; i < w; ++i) x[i * c + k] = g.x[map * w + i];
      for (int64_t p = 0; p < pixels; ++p) {
        per_channel[p * c + k] = values[map];
        for (int64_t i = 0; i < h; ++i) y[(i * pixels + p) * c + k] = g.y[map * h + i];
      }
    }
  }
};

template <typename T>
double loss_of(const Tensor& pred, const Gaussians<wide_t<T>>& g) {
  using W = wide_t<T>;
  const int64_t n = pred.size(0), c = pred.size(1), h = pred.size(2), w = pred.size(3);
  const T* data = static_cast<const T*>(pred.const_data_ptr());
  std::vector<double> sums(n * c, 0.0);
  if (!is_channels_last(pred)) {
    parallel_for(0, n * c, std::max<int64_t>(1, 16384 / (h * w)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (!(g.weight[i] > 0)) continue;
        sums[i] = PF_CHOOSE(squared_error_plane<T>)(data + i * h * w, g.x.data() + i * w, g.y.data() + i * h, h, w);
      }
    });
  } else {
    const int64_t pixels = tile_pixels(c), bands = (h + kBand - 1) / kBand;
    std::vector<double> parts(n * bands * c, 0.0);
    for_each_band(n, h, [&](int64_t sample, int64_t y0, int64_t y1, int64_t band) {
      const Interleaved<W> tables(g, sample, c, h, w, pixels, g.weight);
      std::vector<W> row_sums(pixels * c);
      for (int64_t y = y0; y < y1; ++y) {
        std::fill(row_sums.begin(), row_sums.end(), W(0));
        PF_CHOOSE(squared_error_row<T>)
        (data + (sample * h + y) * w * c, tables.x.data(), tables.y.data() + y * pixels * c, tables.per_channel.data(),
         w * c, pixels * c, row_sums.data());
        for (int64_t i = 0; i < pixels * c; ++i) parts[band * c + i % c] += row_sums[i];
      }
    });
    for (int64_t i = 0; i < n * bands; ++i) {
      for (int64_t k = 0; k < c; ++k) sums[i / bands * c + k] += parts[i * c + k];
    }
  }
  double total = 0;
  for (int64_t i = 0; i < n * c; ++i) {
    if (g.weight[i] > 0) total += g.weight[i] * sums[i];
  }
  const double weights = total_weight(g);
  return weights > 0 ? total / (static_cast<double>(h * w) * weights) : 0.0;
}

template <typename T>
void gradient_of(const Tensor& pred, const Gaussians<wide_t<T>>& g, double grad, Tensor& out) {
  using W = wide_t<T>;
  const int64_t n = pred.size(0), c = pred.size(1), h = pred.size(2), w = pred.size(3);
  const T* data = static_cast<const T*>(pred.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  const double weights = total_weight(g);
  // The factor keeps the weight's sign; the caller's gradient is multiplied in last, so 0 stays "does not count".
  std::vector<W> factor(n * c, W(0));
  for (int64_t i = 0; i < n * c; ++i) {
    if (g.weight[i] > 0) factor[i] = static_cast<W>(2.0 * g.weight[i] / (static_cast<double>(h * w) * weights));
  }
  const W scale = static_cast<W>(grad);
  if (!is_channels_last(pred)) {
    parallel_for(0, n * c, std::max<int64_t>(1, 16384 / (h * w)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (factor[i] > 0) {
          PF_CHOOSE(error_gradient_plane<T>)
          (data + i * h * w, g.x.data() + i * w, g.y.data() + i * h, factor[i] * scale, h, w, to + i * h * w);
        } else {
          std::fill_n(to + i * h * w, h * w, store<T>(W(0)));
        }
      }
    });
    return;
  }
  const int64_t pixels = tile_pixels(c);
  for_each_band(n, h, [&](int64_t sample, int64_t y0, int64_t y1, int64_t) {
    const Interleaved<W> tables(g, sample, c, h, w, pixels, factor);
    for (int64_t y = y0; y < y1; ++y) {
      const int64_t at = (sample * h + y) * w * c;
      PF_CHOOSE(error_gradient_row<T>)
      (data + at, tables.x.data(), tables.y.data() + y * pixels * c, tables.per_channel.data(), scale, w * c,
       pixels * c, to + at);
    }
  });
}

void check(const Tensor& pred, const Tensor& joints, const Tensor& weight) {
  STD_TORCH_CHECK(pred.dim() == 4, "heatmap_loss: pred must be (N, K, h, w)");
  STD_TORCH_CHECK(joints.numel() == pred.size(0) * pred.size(1) * 2 && weight.numel() == pred.size(0) * pred.size(1),
                  "heatmap_loss: joints must be (N, K, 2) and weight (N, K)");
}

Tensor heatmap_loss(Tensor pred, const Tensor& joints, const Tensor& weight, double sigma) {
  check(pred, joints, weight);
  pred = dense(pred);
  Tensor loss = empty_nchw(pred, {}, false, wide_type(pred));
  for_float_type(pred.scalar_type(), "heatmap_loss", [&](auto t) {
    using T = decltype(t);
    using W = wide_t<T>;
    double value = 0;
    if (pred.numel() > 0) {
      value = loss_of<T>(pred, gaussians_of<W>(joints, weight, pred.size(2), pred.size(3), sigma));
    }
    *static_cast<W*>(loss.mutable_data_ptr()) = static_cast<W>(value);
  });
  return loss;
}

Tensor heatmap_loss_backward(const Tensor& grad, Tensor pred, const Tensor& joints, const Tensor& weight,
                             double sigma) {
  check(pred, joints, weight);
  pred = dense(pred);
  const std::vector<int64_t> sizes(pred.sizes().begin(), pred.sizes().end());
  Tensor out = empty_nchw(pred, sizes, is_channels_last(pred), pred.scalar_type());
  for_float_type(pred.scalar_type(), "heatmap_loss", [&](auto t) {
    using T = decltype(t);
    using W = wide_t<T>;
    if (pred.numel() == 0) return;
    const double outer = static_cast<double>(*static_cast<const W*>(grad.const_data_ptr()));
    gradient_of<T>(pred, gaussians_of<W>(joints, weight, pred.size(2), pred.size(3), sigma), outer, out);
  });
  return out;
}

Tensor gaussian_heatmaps(const Tensor& joints, const Tensor& weight, int64_t height, int64_t width, double sigma) {
  STD_TORCH_CHECK(joints.dim() == 3 && joints.size(2) == 2 && weight.numel() * 2 == joints.numel(),
                  "gaussian_heatmaps: joints must be (N, K, 2) and weight (N, K)");
  Tensor out = empty_nchw(joints, {joints.size(0), joints.size(1), height, width}, false, joints.scalar_type());
  const int64_t area = height * width;
  const auto fill = [&](auto t) {
    using W = decltype(t);
    const Gaussians<W> g = gaussians_of<W>(joints, weight, height, width, sigma);
    W* to = static_cast<W*>(out.mutable_data_ptr());
    parallel_for(0, weight.numel(), std::max<int64_t>(1, 16384 / area), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (g.weight[i] > 0) {
          PF_CHOOSE(gaussian_map<W>)(g.x.data() + i * width, g.y.data() + i * height, height, width, to + i * area);
        } else {
          std::fill_n(to + i * area, area, W(0));
        }
      }
    });
  };
  if (joints.scalar_type() == ScalarType::Double) {
    fill(double{});
  } else {
    fill(float{});
  }
  return out;
}

}  // namespace
}  // namespace pyranet_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) {
  m.impl("heatmap_loss", TORCH_BOX(&pyranet_fast::cpu::heatmap_loss));
  m.impl("heatmap_loss_backward", TORCH_BOX(&pyranet_fast::cpu::heatmap_loss_backward));
  m.impl("gaussian_heatmaps", TORCH_BOX(&pyranet_fast::cpu::gaussian_heatmaps));
}
