// Included once per instruction set by multiversion.h; see there. heatmap_loss_kernel.h fills its tables with the same
// lines.

// exp(x) for x <= 0, to about one unit in the last place; 0 below the normal numbers; NaN for NaN. Without branches
// and calls, so that loops over it become vectors.
PF_INLINE float exp_of_negative(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + round;
  const float n = shifted - round;
  const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;  // ln 2 in two parts, |r| <= ln 2 / 2
  float p = 1.0f / 5040;  // Taylor's series: its next term is below 1e-8
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // 2^n
  float power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

PF_INLINE double exp_of_negative(double x) { return std::exp(x); }

// to[i * step] = exp(-(i - center)^2 / two_sigma_squared), i < n; `line` has room for n.
template <typename W>
void gaussian_line(W center, W two_sigma_squared, int64_t n, W* line, W* to, int64_t step) {
  W* direct = step == 1 ? to : line;
  for (int64_t i = 0; i < n; ++i) {
    direct[i] = exp_of_negative(gaussian_exponent<W>(static_cast<int32_t>(i), center, two_sigma_squared));
  }
  if (step != 1) {
    for (int64_t i = 0; i < n; ++i) to[i * step] = line[i];
  }
}

// One map; `lines` has room for h + w.
template <typename W>
void gaussian_map(W x, W y, W two_sigma_squared, int64_t h, int64_t w, W* lines, W* to) {
  gaussian_line<W>(x, two_sigma_squared, w, nullptr, lines, 1);
  gaussian_line<W>(y, two_sigma_squared, h, nullptr, lines + w, 1);
  for (int64_t i = 0; i < h; ++i) {
    const W factor = lines[w + i];
    for (int64_t j = 0; j < w; ++j) to[i * w + j] = factor * lines[j];
  }
}
