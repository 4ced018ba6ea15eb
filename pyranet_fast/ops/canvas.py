"""All levels of a pyramid side by side in one map, separated by a pixel of zeros, for a single convolution.

For levels with shared filters (PRM-B*), pool -> canvas, one 3x3, canvas -> upsample-sum are three calls instead of one
pool, one convolution per level and one sum. The zeros between levels act as the zero padding of each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import dispatch
from .checks import check_map, check_same_device, check_shape, check_size, empty_map, memory_format
from .fractional_max_pool_pyramid import (
    batch_axis,
    check_pool_arguments,
    empty_positions,
    fold_windows,
    fractional_max_pool_pyramid,
    with_positions,
)
from .registration import describe, fold, folded, unfold
from .upsample_sum import upsample_sum


@dataclass(frozen=True)
class Canvas:
    """Layout of the levels on a canvas.

    Attributes:
        height, width: size of the canvas, pixels.
        places: (y, x, h, w) of every level.
    """

    height: int
    width: int
    places: tuple[tuple[int, int, int, int], ...]

    @property
    def flat(self) -> list[int]:
        """Return the places in the form that operators take."""
        return [number for place in self.places for number in place]

    def views(self, maps: Tensor) -> list[Tensor]:
        """Return views of the levels of a canvas (N, C, height, width)."""
        return [maps[:, :, y : y + h, x : x + w] for y, x, h, w in self.places]


def canvas_of(sizes: Sequence[tuple[int, int]]) -> Canvas:
    """Arrange levels of the given sizes (h, w), at least one, in a roughly square grid.

    Example: (53, 53), (45, 45), (38, 38), (32, 32) give a canvas of 92 x 99.
    """
    if len(sizes) == 0:
        raise ValueError("sizes must be a list of at least one (height, width), got an empty list")
    checked = [check_size(f"sizes[{i}]", size) for i, size in enumerate(sizes)]
    columns = int(len(checked) ** 0.5 + 0.999)
    places: list[tuple[int, int, int, int]] = []
    top = width = 0
    for first in range(0, len(checked), columns):
        row = checked[first : first + columns]
        left = 0
        for h, w in row:
            places.append((top, left, h, w))
            left += w + 1
        top += max(h for h, _ in row) + 1
        width = max(width, left - 1)
    return Canvas(top - 1, width, tuple(places))


def fractional_max_pool_canvas(
    x: Tensor,
    canvas: Canvas,
    samples: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Run `fractional_max_pool_pyramid` to the sizes of the canvas, written onto it, with zeros elsewhere.

    Args and Raises: as for `fractional_max_pool_pyramid`.

    Returns:
        (N, C, canvas.height, canvas.width) in ``x``'s dtype; channels_last where ``x`` is.
    """
    sizes = [(h, w) for _, _, h, w in canvas.places]
    samples, _ = check_pool_arguments(x, sizes, samples, scale, shift)
    ops = _operators(x)
    if ops is None:
        levels = fractional_max_pool_pyramid(x, sizes, samples, scale=scale, shift=shift, relu=relu)
        return _on_canvas(levels, canvas, memory_format(x))
    whole, _ = ops.fractional_max_pool_canvas(
        x, samples, canvas.flat, canvas.height, canvas.width, scale, shift, relu, False
    )
    return whole


def _on_canvas(levels: Sequence[Tensor], canvas: Canvas, layout: torch.memory_format) -> Tensor:
    shape = (*levels[0].shape[:2], canvas.height, canvas.width)
    whole = levels[0].new_zeros(shape).contiguous(memory_format=layout)
    for (top, left, h, w), level in zip(canvas.places, levels, strict=True):
        whole[:, :, top : top + h, left : left + w] = level
    return whole


def upsample_sum_canvas(
    maps: Tensor,
    canvas: Canvas,
    size: tuple[int, int],
    *,
    base: Tensor | None = None,
    align_corners: bool = True,
) -> Tensor:
    """Run `upsample_sum` on the levels of a canvas; the pixels between them are ignored.

    Args:
        maps: (N, C, canvas.height, canvas.width).
        canvas, size, base, align_corners: as for `upsample_sum`.

    Returns:
        (N, C, H, W) in the dtype of ``maps``; channels_last where they are.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    check_map("maps", maps)
    check_shape("maps", maps, (*maps.shape[:2], canvas.height, canvas.width), "(N, C, canvas height, canvas width)")
    h, w = check_size("size", size)
    ops = _operators(maps)
    if ops is None:
        layout = memory_format(maps)
        levels = [level.contiguous(memory_format=layout) for level in canvas.views(maps)]
        return upsample_sum(levels, (h, w), base=base, align_corners=align_corners)
    if base is not None:
        check_map("base", base)
        check_shape("base", base, (*maps.shape[:2], h, w), "(N, C, H, W)")
        if base.dtype != maps.dtype:
            raise TypeError(f"base must have the dtype of maps, {maps.dtype}, got {base.dtype}")
        check_same_device("base", base, "maps", maps)
    return ops.upsample_sum_canvas(maps, canvas.flat, h, w, base, align_corners)


def _operators(x: Tensor) -> Any:
    """Native CUDA has kernels that write and read a canvas; the others compose it."""
    return dispatch.operators(x) if x.device.type == "cuda" and dispatch.choose(x) == "native" else None


def _fake_pool(
    x: Tensor,
    samples: Tensor,
    places: Sequence[int],
    height: int,
    width: int,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[Tensor, Tensor]:
    return empty_map(x, (*x.shape[:2], height, width)), empty_positions(x, with_positions)


def _canvas(places: Sequence[int], height: int, width: int) -> Canvas:
    """Of what `Canvas.flat` made of it."""
    return Canvas(height, width, tuple(zip(places[::4], places[1::4], places[2::4], places[3::4], strict=True)))


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, samples, places, height, width, scale, shift, ctx.relu, _ = inputs
    affine = ctx.relu or scale is not None or shift is not None
    ctx.save_for_backward(output[1], samples, x if affine else None, scale, shift)
    ctx.canvas = _canvas(places, height, width)
    ctx.set_materialize_grads(False)


def _pool_backward(ops: Any, ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    positions, samples, x, scale, shift = ctx.saved_tensors
    grad_x, grad_scale, grad_shift = ops.fractional_max_pool_pyramid_backward(
        ctx.canvas.views(grad), positions, samples, x, scale, shift, ctx.relu
    )
    vectors = (None if scale is None else grad_scale, None if shift is None else grad_shift)
    return grad_x, None, None, None, None, *vectors, None, None


def _fake_sum(
    maps: Tensor, places: Sequence[int], height: int, width: int, base: Tensor | None, align_corners: bool
) -> Tensor:
    return empty_map(maps, (*maps.shape[:2], height, width))


def _fake_sum_backward(grad: Tensor, places: Sequence[int], height: int, width: int, align_corners: bool) -> Tensor:
    return empty_map(grad, (*grad.shape[:2], height, width))


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, ctx.places, _, _, base, ctx.align_corners = inputs
    ctx.size, ctx.has_base = maps.shape[2:], base is not None


def _sum_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_maps = ops.upsample_sum_canvas_backward(grad, ctx.places, *ctx.size, ctx.align_corners)
    return grad_maps, None, None, None, grad if ctx.has_base else None, None


def _composite_pool(
    ops: Any,
    x: Tensor,
    samples: Tensor,
    places: Sequence[int],
    height: int,
    width: int,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[Tensor, Tensor]:
    canvas = _canvas(places, height, width)
    flat = [side for _, _, h, w in canvas.places for side in (h, w)]
    levels, positions = ops.fractional_max_pool_pyramid(x, samples, flat, scale, shift, relu, with_positions)
    return _on_canvas(levels, canvas, memory_format(x)), positions


def _batched_pool(
    operator: Any,
    size: int,
    dims: Sequence[Any],
    x: Tensor,
    samples: Tensor,
    places: Sequence[int],
    height: int,
    width: int,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[Any, Any]:
    axis = batch_axis(scale, shift)
    maps = fold(x, dims[0], size, axis)
    samples = fold_windows(samples, dims[1], size, axis, maps.shape[axis] // size)
    vectors = (None if v is None else fold(v, d, size) for v, d in ((scale, dims[5]), (shift, dims[6])))
    whole, positions = operator(maps, samples, places, height, width, *vectors, relu, with_positions)
    if not with_positions:
        return (unfold(whole, size, axis), positions), (0, None)
    return (unfold(whole, size, axis), unfold(positions, size, axis)), 0


def _save_sum_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, ctx.places, _, _, ctx.align_corners = inputs
    ctx.size = grad.shape[2:]


def _double_sum_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    again = ops.upsample_sum_canvas(grad, ctx.places, *ctx.size, None, ctx.align_corners)
    return again, None, None, None, None


describe(
    "fractional_max_pool_canvas", _fake_pool, save=_save_pool, backward=_pool_backward, composite=_composite_pool,
    recorded=with_positions, batched=_batched_pool, only="pyranet_fast",
)  # fmt: skip
describe(
    "upsample_sum_canvas", _fake_sum, save=_save_sum, backward=_sum_backward, linear=["maps", "base"],
    batched=folded({"maps": 0, "base": 0}), only="pyranet_fast",
)  # fmt: skip
describe(
    "upsample_sum_canvas_backward", _fake_sum_backward, save=_save_sum_backward, backward=_double_sum_backward,
    linear=["grad"], batched=folded({"grad": 0}), only="pyranet_fast",
)  # fmt: skip
