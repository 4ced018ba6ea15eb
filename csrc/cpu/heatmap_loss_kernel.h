// Included once per instruction set by multiversion.h; see there. The Gaussian of a pixel is the product of two
// table entries: gx of its column, gy of its row.

#include "cpu/gaussian_heatmaps_kernel.h"
#include "cpu/vector.h"

template <typename T>
int64_t loss_lanes() {
  return Vector<wide_t<T>>::kCount;
}

// Sum of squared errors of one contiguous map: short sums in W, long ones in double.
template <typename T>
double loss_plane(const T* pred, const wide_t<T>* gx, const wide_t<T>* gy, int64_t h, int64_t w) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  constexpr int L = Vector<W>::kCount;
  double total = 0;
  V sum = {};
  int64_t since = 0;
  for (int64_t y = 0; y < h; ++y, pred += w) {
    const W factor = gy[y];
    int64_t x = 0;
    for (; x + L <= w; x += L) {
      V p, g;
      load_vector(pred + x, p), load_vector(gx + x, g);
      p -= g * factor;
      sum += p * p;
    }
    for (; x < w; ++x) {
      const W error = load(pred[x]) - gx[x] * factor;
      total += static_cast<double>(error * error);
    }
    since += w;
    if (since >= 512 || y + 1 == h) {
      for (int k = 0; k < L; ++k) total += static_cast<double>(sum[k]);
      sum = V{}, since = 0;
    }
  }
  return total;
}

// grad = coefficient * (pred - gaussian) for one contiguous map.
template <typename T>
void loss_gradient_plane(const T* pred, const wide_t<T>* gx, const wide_t<T>* gy, wide_t<T> coefficient, int64_t h,
                         int64_t w, T* grad) {
  using W = wide_t<T>;
  typename Vector<W>::Values p, g;
  constexpr int L = Vector<W>::kCount;
  for (int64_t y = 0; y < h; ++y, pred += w, grad += w) {
    const W factor = gy[y];
    int64_t x = 0;
    for (; x + L <= w; x += L) {
      load_vector(pred + x, p), load_vector(gx + x, g);
      store_vector((p - g * factor) * coefficient, grad + x);
    }
    for (; x < w; ++x) grad[x] = store<T>((load(pred[x]) - gx[x] * factor) * coefficient);
  }
}

// One channels_last image: sums[c] of every channel. The tables have `padded` entries a pixel, whole vectors; lanes
// past the last channel see the next pixel's, and their sums are not used.
template <typename T>
void loss_image(const T* pred, int64_t available, const wide_t<T>* gx, const wide_t<T>* gy, int64_t h, int64_t w,
                int64_t channels, int64_t padded, double* sums) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  constexpr int L = Vector<W>::kCount;
  for (int64_t c0 = 0; c0 < channels; c0 += L) {
    double total[L] = {};
    V sum = {};
    int64_t since = 0;
    for (int64_t y = 0; y < h; ++y) {
      V factor;
      load_vector(gy + y * padded + c0, factor);
      for (int64_t x = 0; x < w; ++x) {
        V p, g;
        const int64_t at = (y * w + x) * channels + c0;
        load_part(pred + at, available - at, p);
        load_vector(gx + x * padded + c0, g);
        p -= g * factor;
        sum += p * p;
      }
      since += w;
      if (since >= 64 || y + 1 == h) {
        for (int k = 0; k < L; ++k) total[k] += static_cast<double>(sum[k]);
        sum = V{}, since = 0;
      }
    }
    for (int64_t k = 0; k < L && c0 + k < channels; ++k) sums[c0 + k] = total[k];
  }
}

// grad = coefficients[c] * (pred - gaussian), and 0 where the coefficient is 0, whatever pred holds.
template <typename T>
void loss_gradient_image(const T* pred, const wide_t<T>* gx, const wide_t<T>* gy, const wide_t<T>* coefficients,
                         int64_t h, int64_t w, int64_t channels, int64_t padded, T* grad) {
  using W = wide_t<T>;
  using V = typename Vector<W>::Values;
  constexpr int L = Vector<W>::kCount;
  const int64_t end = h * w * channels;
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) {
      for (int64_t c0 = 0; c0 < channels; c0 += L) {
        const int64_t at = (y * w + x) * channels + c0;
        const auto pixel = [&](auto whole) {
          V p, g, factor, coefficient;
          load_some(whole, pred + at, end - at, p);
          load_vector(gx + x * padded + c0, g), load_vector(gy + y * padded + c0, factor);
          load_vector(coefficients + c0, coefficient);
          p = coefficient != 0 ? (p - g * factor) * coefficient : V{};
          store_some(whole, p, end - at, grad + at);  // a later pixel overwrites what is past this one's channels
        };
        if (__builtin_expect(at + L <= end, 1)) {
          pixel(std::true_type{});
        } else {
          pixel(std::false_type{});
        }
      }
    }
  }
}
