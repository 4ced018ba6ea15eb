"""Where windows and bilinear taps lie, for the kernels of pool and upsample-sum.

They follow csrc/common/window.h and bilinear.h operation by operation, so that they round alike. `tiles.launch` keeps
products and sums apart: fused into one operation they would round differently.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def quotient(a, b, WIDE: tl.constexpr):
    """a / b of two integers, correctly rounded, which Triton's ``/`` of float32 is not; 0 where b is 0."""
    divisor = tl.cast(tl.maximum(b, 1), WIDE)
    if WIDE == tl.float64:
        result = tl.cast(a, WIDE) / divisor
    else:
        result = tl.div_rn(tl.cast(a, WIDE), divisor)
    return tl.where(b > 0, result, tl.cast(0.0, WIDE))


@triton.jit
def window_sample(u):
    """A sample outside [0, 1], NaN included, must not lead outside the map."""
    return tl.where(u >= 0, tl.where(u <= 1, u, 1.0), 0.0)


@triton.jit
def window_start(i, size, out, u, alpha):
    """Start of window ``i`` of ``out`` along an axis of ``size`` pixels; the last one always starts at size - 2."""
    start = ((i.to(u.dtype) + u) * alpha).to(tl.int32) - (u * alpha).to(tl.int32)
    return tl.where(i < out - 1, tl.minimum(start, size - 2), size - 2)


@triton.jit
def first_window(start, size, out, u, alpha, inverse, MARGIN: tl.constexpr):
    """The first window that starts at ``start`` or after it, ``out`` if none does; ``inverse`` is about 1 / alpha.

    Starts never decrease. Windows [first_window(s), first_window(s + 1)) start at s.
    """
    # (i + u) * alpha >= start + int(u * alpha), solved for i. With a margin of 0, rounding moves either side of the
    # comparison by less than a quarter of a window: what is found is the window wanted or the one before it.
    i = (start + (u * alpha).to(tl.int32)).to(u.dtype) * inverse - u
    i = tl.minimum(tl.maximum((i + 0.5).to(tl.int32) - MARGIN, 0), out - 1)
    for _ in range(1 + 2 * MARGIN):
        i += ((i < out - 1) & (window_start(i, size, out, u, alpha) < start)).to(tl.int32)
    return tl.where(start > size - 2, out, i)


@triton.jit
def window_takers(at, size, out, u, repeats, WIDE: tl.constexpr, MARGIN: tl.constexpr):
    """Windows [first, second) of an axis start at pixel ``at`` - 1, windows [second, third) at ``at``.

    ``repeats``: at most how many windows of this axis start at one pixel.
    """
    alpha, inverse = quotient(size - 2, out - 1, WIDE), tl.cast(out - 1, WIDE) / tl.cast(tl.maximum(size - 2, 1), WIDE)
    first = first_window(at - 1, size, out, u, alpha, inverse, MARGIN)
    # The last window is always at size - 2: one beyond it, too, is never found elsewhere.
    second = first + (window_start(first, size, out, u, alpha) == at - 1).to(tl.int32)
    third = second + (window_start(second, size, out, u, alpha) == at).to(tl.int32)
    if repeats > 1:
        second = first_window(at, size, out, u, alpha, inverse, MARGIN)
        third = first_window(at + 1, size, out, u, alpha, inverse, MARGIN)
    return first, second, third


def search_margin(size: int) -> int:
    """The margin of `first_window` and `receivers`, which make at most eight roundings of 2^-24 of a number."""
    return size >> 19


def window_repeats(size: int) -> int:
    """At most how many windows of an axis start at one pixel; 0: one, but two may at size - 2.

    Windows are exactly 1 pixel apart, or at least out / (out - 1). Rounding can bring two together where it exceeds
    the 1 / (out - 1), so from size * out = 2^22 on. The last window is moved to size - 2, where the one before may be.
    """
    return 0 if size < 2048 else 3 + 6 * size // 2**24


@triton.jit
def bilinear_ratio(size, out, ALIGN_CORNERS: tl.constexpr, WIDE: tl.constexpr):
    """Source pixels per output pixel."""
    if ALIGN_CORNERS:
        return quotient(size - 1, out - 1, WIDE)
    else:
        return quotient(size, out, WIDE)


@triton.jit
def bilinear_tap(i, size, out, ratio, ALIGN_CORNERS: tl.constexpr):
    """Output pixel i of one axis: (first, second, weight_first, weight_second), both weights above 0.

    A weight of 0 would spread an infinity or NaN, so a single source pixel is read twice with weight 1/2.
    """
    position = i.to(ratio.dtype)
    if ALIGN_CORNERS:
        position = ratio * position
    else:
        position = ratio * (position + 0.5) - 0.5
    position = tl.maximum(position, 0.0)
    first = tl.minimum(position.to(tl.int32), size - 1)
    second = tl.minimum(first + 1, size - 1)
    weight = tl.minimum(position - first.to(ratio.dtype), 1.0)
    same = size == out
    first = tl.where(same, i, tl.where(weight == 1, second, first))
    second = tl.where(same, first, tl.where(weight == 0, first, second))
    single = first == second
    return first, second, tl.where(single, 0.5, 1 - weight), tl.where(single, 0.5, weight)


@triton.jit
def _first_tap(
    least, at, size, out, ratio, inverse, SECOND: tl.constexpr, ALIGN_CORNERS: tl.constexpr, MARGIN: tl.constexpr
):
    """The first output pixel whose tap's first or second pixel is ``least`` or one after it; it lies about ``at``."""
    i = at.to(ratio.dtype)
    if ALIGN_CORNERS:
        i = i * inverse
    else:
        i = (i + 0.5) * inverse - 0.5
    i = tl.minimum(tl.maximum((i + 0.5).to(tl.int32) - MARGIN, 0), out)
    for _ in range(1 + 2 * MARGIN):  # as in first_window
        first, second, _weight_first, _weight_second = bilinear_tap(i, size, out, ratio, ALIGN_CORNERS)
        pixel = second if SECOND else first
        i += ((i < out) & (pixel < least)).to(tl.int32)
    return tl.where(least > size - 1, out, i)


@triton.jit
def receivers(j, size, out, ratio, inverse, ALIGN_CORNERS: tl.constexpr, MARGIN: tl.constexpr):
    """Output pixels [first, end) of an axis read source pixel ``j``; ``inverse`` is about 1 / ratio.

    Taps never go back. The first receiver's position is just above j - 1, the first that is none has j + 1 or more.
    """
    first = _first_tap(j, j - 1, size, out, ratio, inverse, True, ALIGN_CORNERS, MARGIN)
    end = _first_tap(j + 1, j + 1, size, out, ratio, inverse, False, ALIGN_CORNERS, MARGIN)
    return first, end
