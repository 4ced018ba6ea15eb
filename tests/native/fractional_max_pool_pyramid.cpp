#include "cpu/fractional_max_pool_pyramid_job.h"

#include "parity.h"

// As in csrc/cpu/fractional_max_pool_pyramid.cpp.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define PF_KERNEL_FILE "cpu/fractional_max_pool_pyramid_kernel.h"
#include "cpu/multiversion.h"

namespace pyranet_fast::cpu::parity {
namespace {

constexpr int64_t kH = 17, kW = 37, kLevels = 2;
constexpr int64_t kLevelH[kLevels] = {8, 15}, kLevelW[kLevels] = {17, 33};

// A level's windows, a sample a channel or one for all, as naive loops and as kernels take them.
template <typename W>
struct Level {
  std::vector<int32_t> rows, columns;  // (channels, outputs)
  std::vector<int32_t> row_low, row_high, column_low, column_high;
  std::vector<integer_t<W>> row_distance, column_distance;
  std::vector<uint16_t> mask;
  PoolStarts<W> starts{};

  Level(int64_t level, int64_t channels, int64_t lanes, bool by_lane) : mask((kW + 15) / 16) {
    const auto axis = [&](int64_t in, int64_t out, std::vector<int32_t>& all, std::vector<int32_t>& low,
                          std::vector<int32_t>& high, std::vector<integer_t<W>>& distance) {
      std::vector<W> samples(lanes);
      for (int64_t k = 0; k < lanes; ++k) samples[k] = by_lane && k < channels ? W(k % 8) / 8 : W(0.25);
      if (by_lane) samples[0] = W(0.25);
      for (int64_t k = channels; k < lanes; ++k) samples[k] = samples[0];
      const W alpha = window_alpha<W>(in, out);
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < out; ++i) {
          all.push_back(i + 1 == out ? static_cast<int32_t>(in - 2)
                                     : window_start<W>(static_cast<int32_t>(i), static_cast<int32_t>(in),
                                                       by_lane ? samples[c] : W(0.25), alpha));
        }
      }
      low.resize(out), high.resize(out), distance.resize(out * lanes);
      const int32_t in32 = static_cast<int32_t>(in), out32 = static_cast<int32_t>(out);
      if (by_lane) {
        PF_CHOOSE(starts_by_lane<W>)(in32, out32, samples.data(), lanes, low.data(), high.data(), distance.data());
      } else {
        PF_CHOOSE(shared_starts<W>)(in32, out32, samples[0], low.data());
        high = low;
      }
    };
    axis(kH, kLevelH[level], rows, row_low, row_high, row_distance);
    axis(kW, kLevelW[level], columns, column_low, column_high, column_distance);
    starts = {row_low.data(),
              row_high.data(),
              column_low.data(),
              column_high.data(),
              by_lane ? row_distance.data() : nullptr,
              by_lane ? column_distance.data() : nullptr,
              mask.data(),
              false};
    starts.increasing = PF_CHOOSE(mask_starts)(column_low.data(), kLevelW[level], kW, mask.data());
  }

  int64_t spread() const {
    int64_t most = 0;
    for (size_t i = 0; i < row_low.size(); ++i) most = std::max<int64_t>(most, row_high[i] - row_low[i]);
    return most;
  }
};

// Scratch memory of one slab.
template <typename T>
struct Memory {
  PoolBuffers<T, wide_t<T>> buffers;
  std::vector<char> memory;

  explicit Memory(const PoolShape& shape) {
    PoolScratch count{0};
    pool_buffers<T, wide_t<T>>(shape, count);
    memory.resize(count.at + 64);
    PoolScratch scratch{(reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64};
    buffers = pool_buffers<T, wide_t<T>>(shape, scratch);
  }
};

// channels = 0: one plane.
template <typename T>
void check(int64_t channels, bool by_lane, bool with_affine) {
  using W = wide_t<T>;
  const bool plane = channels == 0;
  const int64_t c_count = plane ? 1 : channels, vector = channels > 8 ? 16 : 8;
  PoolShape shape{c_count, kH, kW, plane ? 1 : (channels + vector - 1) / vector * vector, kLevels, kPoolMostRows};
  if (plane) shape.rows = 1024 / kW;
  const std::string of = std::string(" of ") + kTypeName<T> + (plane ? " planes" : " channels_last") + " with " +
                         std::to_string(c_count) + " channels" + (with_affine ? ", affine" : "");
  std::vector<Level<W>> levels;
  std::vector<PoolStarts<W>> starts;
  for (int64_t l = 0; l < kLevels; ++l) levels.emplace_back(l, c_count, shape.lanes, by_lane);
  for (const Level<W>& level : levels) starts.push_back(level.starts);

  const auto x = numbers<T>(kH * kW * c_count, 81);
  const auto scales = numbers<W>(c_count, 82), shifts = numbers<W>(c_count, 83);
  std::vector<W> scale(16), shift(16);
  scale.resize(std::max<int64_t>(16, shape.lanes)), shift.resize(scale.size());
  for (size_t k = 0; k < scale.size(); ++k) {
    scale[k] = plane ? scales[0] : k < scales.size() ? scales[k] : W(0);
    shift[k] = plane ? shifts[0] : k < shifts.size() ? shifts[k] : W(0);
  }
  const PoolAffine<W> affine{with_affine ? scale.data() : nullptr, with_affine ? shift.data() : nullptr, with_affine};
  const auto value = [&](int64_t y, int64_t x_at, int64_t c) {
    const W v = load(x[(y * kW + x_at) * c_count + c]);
    if (!with_affine) return v;
    const W product = v * scales[c], moved = product + shifts[c];
    return moved < 0 ? W(0) : moved;
  };

  // Naive: every window's winner, every output's value, every pixel's gradient.
  std::vector<double> positions(kH * kW * c_count, 0.0), gathered(kH * kW * c_count, 0.0);
  for (int64_t y = 0; y + 1 < kH; ++y) {
    for (int64_t at = 0; at + 1 < kW; ++at) {
      for (int64_t c = 0; c < c_count; ++c) {
        int winner = 0;
        for (int k = 1; k < 4; ++k) {
          if (value(y + k / 2, at + k % 2, c) > value(y + winner / 2, at + winner % 2, c)) winner = k;
        }
        positions[(y * kW + at) * c_count + c] = winner;
      }
    }
  }
  std::vector<std::vector<T>> outs, grads;
  std::vector<std::vector<double>> wanted;
  for (int64_t l = 0; l < kLevels; ++l) {
    const int64_t n = kLevelH[l] * kLevelW[l] * c_count;
    outs.emplace_back(n), wanted.emplace_back(n);
    grads.push_back(numbers<T>(n, static_cast<uint32_t>(84 + l)));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = i % c_count, j = i / c_count % kLevelW[l], r = i / c_count / kLevelW[l];
      const int64_t y = levels[l].rows[c * kLevelH[l] + r], at = levels[l].columns[c * kLevelW[l] + j];
      const int winner = static_cast<int>(positions[(y * kW + at) * c_count + c]);
      const int64_t won = y + winner / 2, won_at = at + winner % 2;
      wanted[l][i] = static_cast<double>(value(won, won_at, c));
      gathered[(won * kW + won_at) * c_count + c] += wide(grads[l][i]);
    }
  }
  std::vector<double> wanted_grad = gathered, wanted_sums(2 * kH * c_count, 0.0);
  if (with_affine) {
    for (int64_t i = 0; i < kH * kW * c_count; ++i) {
      const int64_t c = i % c_count, y = i / c_count / kW;
      const double passed = value(y, i / c_count % kW, c) > 0 ? gathered[i] : 0;
      wanted_sums[2 * y * c_count + c] += passed;
      wanted_sums[(2 * y + 1) * c_count + c] += passed * wide(x[i]);
      wanted_grad[i] = passed * scales[c];
    }
  }

  const auto map = [&](auto* data, int64_t h, int64_t w) {
    return PoolMap<std::remove_pointer_t<decltype(data)>>{data, h, w, w * c_count, c_count, 1};
  };
  std::vector<PoolMap<T>> to;
  std::vector<PoolMap<const T>> from;
  int64_t spread = 0;
  for (int64_t l = 0; l < kLevels; ++l) {
    to.push_back(map(outs[l].data(), kLevelH[l], kLevelW[l]));
    from.push_back(map(static_cast<const T*>(grads[l].data()), kLevelH[l], kLevelW[l]));
    spread = std::max(spread, levels[l].spread());
  }
  Memory<T> memory(shape);
  const auto in = map(x.data(), kH, kW);
  std::vector<uint8_t> position(kH * kW * c_count);
  if (!plane) shape.rows = spread + 1;
  for (const auto& [y0, y1] : {std::pair<int64_t, int64_t>{0, 7}, {7, kH - 1}}) {  // as two threads would
    if (plane) {
      PF_CHOOSE(pool_plane<T>)
      (shape, starts.data(), in, to.data(), affine, position.data(), y0, y1, memory.buffers);
    } else {
      PF_CHOOSE(pool_sample<T>)
      (shape, starts.data(), in, to.data(), affine, position.data(), y0, y1, memory.buffers);
    }
  }
  for (int64_t l = 0; l < kLevels; ++l) expect("pool" + of, outs[l].data(), wanted[l]);
  expect("pool, positions," + of, position.data(), positions, 0);

  std::vector<T> grad(kH * kW * c_count);
  std::vector<W> sums(2 * kH * c_count);
  const auto grad_x = map(grad.data(), kH, kW);
  if (!plane) shape.rows = spread + 2;
  for (const auto& [y0, y1] : {std::pair<int64_t, int64_t>{0, 7}, {7, kH}}) {
    if (plane) {
      PF_CHOOSE(pool_plane_backward<T>)
      (shape, starts.data(), from.data(), in, affine, position.data(), grad_x, y0, y1, sums.data(), memory.buffers);
    } else {
      PF_CHOOSE(pool_sample_backward<T>)
      (shape, starts.data(), from.data(), in, affine, position.data(), grad_x, y0, y1, sums.data(), memory.buffers);
    }
  }
  expect("pool_backward" + of, grad.data(), wanted_grad);
  if (with_affine)
    expect("pool_backward, sums," + of, sums.data(), wanted_sums, std::is_same_v<W, double> ? 1e-10 : 1e-4);
}

}  // namespace

void fractional_max_pool_pyramid() {
  for_each_type([](auto type) {
    using T = decltype(type);
    for (const bool affine : {false, true}) {
      check<T>(0, false, affine);
      for (const int64_t channels : {1, 3, 8, 16, 21, 32}) {
        check<T>(channels, false, affine), check<T>(channels, true, affine);
      }
    }
  });
}

}  // namespace pyranet_fast::cpu::parity
