// Included once per instruction set by multiversion.h; see there.

#include "cpu/gaussian_kernel.h"

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
