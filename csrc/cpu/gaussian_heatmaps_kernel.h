// Included once per instruction set by multiversion.h; see there. heatmap_loss_kernel.h fills its tables with the same
// lines.

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
