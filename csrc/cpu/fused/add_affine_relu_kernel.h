// Included once per instruction set by multiversion.h; see there.

#include "cpu/vector.h"

// One row of pixels, channels inside. `other` may be null; `half`: a pixel of `x` serves two of the row's. The sum is
// rounded to T before it goes on, as if it had been stored and read again.
template <typename T>
void add_affine_relu_row(const AddAffineJob<T>& job, const T* x, const T* other, int64_t at, int64_t pixels) {
  using W = wide_t<T>;
  using V = Vector<W, 16>;
  constexpr int kCount = V::kCount;
  const int64_t c = job.channels, outputs = static_cast<int64_t>(job.outs.size());
  T* const* outs = job.outs.data();
  const int64_t whole = c / kCount * kCount;
  const typename V::Values zero = {};
  for (int64_t p = 0; p < pixels; ++p) {
    const T* px = x + (job.half ? p / 2 : p) * c;
    const T* po = other == nullptr ? nullptr : other + p * c;
    T* ps = job.sum == nullptr ? nullptr : job.sum + at + p * c;
    for (int64_t k = 0; k < whole; k += kCount) {
      typename V::Values v = V::load_from(px + k);
      if (po != nullptr) {
        v += V::load_from(po + k);
        if constexpr (!std::is_same_v<T, W>) {
          T rounded[kCount];
          V::store_to(rounded, v);
          if (ps != nullptr) std::memcpy(static_cast<void*>(ps + k), rounded, sizeof(rounded));
          v = V::load_from(rounded);
        } else if (ps != nullptr) {
          V::write(ps + k, v);
        }
      } else if (ps != nullptr) {
        V::store_to(ps + k, v);
      }
      for (int64_t j = 0; j < outputs; ++j) {
        typename V::Values y = v * V::read(job.scale + j * c + k) + V::read(job.shift + j * c + k);
        y = y < zero ? zero : y;  // NaN stays
        V::store_to(outs[j] + at + p * c + k, y);
      }
    }
    for (int64_t k = whole; k < c; ++k) {
      W v = load(px[k]);
      if (po != nullptr) v = load(store<T>(v + load(po[k])));
      if (ps != nullptr) ps[k] = store<T>(v);
      for (int64_t j = 0; j < outputs; ++j) {
        const W y = v * job.scale[j * c + k] + job.shift[j * c + k];
        outs[j][at + p * c + k] = store<T>(y < 0 ? 0 : y);
      }
    }
  }
}
