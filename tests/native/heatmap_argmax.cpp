#include "parity.h"

#define PF_KERNEL_FILE "cpu/heatmap_argmax_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {

void heatmap_argmax() {
  for_each_type([](auto type) {
    using T = decltype(type);
    for (const int64_t n : {1, 19, 64 * 48 + 5}) {
      for (const bool with_nan : {false, true}) {
        auto map = numbers<T>(n, static_cast<uint32_t>(n));
        if (with_nan) map[n / 2] = store<T>(NAN);
        int64_t wanted = 0;
        for (int64_t i = n - 1; i >= 0; --i) {
          if (!(wide(map[i]) < wide(map[wanted]))) wanted = i;  // the first of equal ones
        }
        if (with_nan) wanted = n / 2;
        const int64_t got = PF_CHOOSE(argmax_plane<T>)(map.data(), n);
        expect(std::string("argmax_plane of ") + kTypeName<T>, &got, {static_cast<double>(wanted)}, 0);
      }
    }
    for (const int64_t channels : {1, 3, 16, 21}) {
      const int64_t pixels = 33 * 7;
      const auto image = numbers<T>(channels * pixels, static_cast<uint32_t>(channels));
      std::vector<double> wanted(channels);
      for (int64_t c = 0; c < channels; ++c) {
        int64_t best = 0;
        for (int64_t p = 1; p < pixels; ++p) {
          if (wide(image[p * channels + c]) > wide(image[best * channels + c])) best = p;
        }
        wanted[c] = static_cast<double>(best);
      }
      std::vector<int64_t> got(channels);
      for (int64_t c0 = 0; c0 < channels; c0 += PF_CHOOSE(argmax_lanes<T>)()) {
        PF_CHOOSE(argmax_channels<T>)(image.data(), channels * pixels, pixels, channels, c0, got.data());
      }
      expect(std::string("argmax_channels of ") + kTypeName<T>, got.data(), wanted, 0);
    }
  });
}

}  // namespace pyranet_fast::cpu::parity
