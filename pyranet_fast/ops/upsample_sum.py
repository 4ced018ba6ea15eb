"""Bilinear upsampling of several maps to one size and their sum, in one pass (paper equation 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch, reference
from .checks import (
    check_channel_vectors,
    check_map,
    check_same_device,
    check_shape,
    check_size,
    empty_map,
    wants_gradient,
)
from .registration import describe, folded


def upsample_sum(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    base: Tensor | None = None,
    align_corners: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Sum ``interpolate(map, size, mode="bilinear", align_corners=...)`` over the maps, plus ``base`` (equation 2).

    Every map is read once and the output written once; the sum is taken in float32 (float64 for float64) and
    rounded once. The backward pass gathers, so it is bitwise reproducible. Supports derivatives of every order, forward
    mode too, and torch.vmap.

    Args:
        maps: list of (N, C, h_l, w_l), at least one, of one dtype: float32, float64, bfloat16 or float16.
            Sizes may be below, at or above ``size``. Under autocast different dtypes are promoted to the widest.
        size: (H, W) of the output.
        base: (N, C, H, W), added to the sum; None: nothing.
        align_corners: as in ``torch.nn.functional.interpolate``; Torch7 and the paper's code align corners.
        scale, shift: (C,), a folded batch norm after the sum: sum * scale + shift. Either may be None. Fused
            on CUDA if no gradient is required; otherwise separate operations on the rounded sum.
        relu: apply max(…, 0) at the end.

    Returns:
        (N, C, H, W) in the dtype of the maps and the layout of the first; maps of another layout are copied.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    if len(maps) == 0:
        raise ValueError("maps must be a list of at least one (N, C, h, w) tensor, got an empty list")
    size = check_size("size", size)
    maps, base = _autocast(maps, base)
    _check_maps(maps, base, size)
    if relu or scale is not None or shift is not None:
        check_channel_vectors(maps[0], scale, shift)
        return _upsample_sum_affine(maps, size, base, align_corners, scale, shift, relu)
    ops = dispatch.operators(maps[0])
    if ops is not None:
        return ops.upsample_sum(list(maps), *size, base, align_corners)
    if maps[0].shape[1] == 0:  # which interpolate() refuses
        return maps[0].sum((2, 3), keepdim=True).expand(-1, -1, *size)
    return reference.upsample_sum(maps, size, base, align_corners)


def _check_maps(maps: Sequence[Tensor], base: Tensor | None, size: tuple[int, int]) -> None:
    first = maps[0]
    for i, m in enumerate(maps):
        name = f"maps[{i}]"
        check_map(name, m)
        if m.shape[:2] != first.shape[:2] or m.shape[2] < 1 or m.shape[3] < 1:
            n, c = first.shape[:2]
            raise ValueError(
                f"{name} must have shape ({n}, {c}, h, w) as maps[0], h and w at least 1, got {tuple(m.shape)}"
            )
        _check_beside(name, m, first)
    if base is not None:
        check_map("base", base)
        check_shape("base", base, (*first.shape[:2], *size), "(N, C, H, W)")
        _check_beside("base", base, first)


def _check_beside(name: str, x: Tensor, first: Tensor) -> None:
    if x.dtype != first.dtype:
        raise TypeError(f"{name} must have the dtype of maps[0], {first.dtype}, got {x.dtype}")
    check_same_device(name, x, "maps[0]", first)


def _upsample_sum_affine(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    base: Tensor | None,
    align_corners: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    """In one pass where there is a kernel: native on CUDA, without gradient."""
    if (
        maps[0].device.type == "cuda"
        and dispatch.choose(maps[0]) == "native"
        and not wants_gradient(*maps, base, scale, shift)
    ):
        fused = torch.ops.pyranet_fast.upsample_sum_affine
        return fused(list(maps), *size, base, align_corners, scale, shift, relu)
    total = upsample_sum(maps, size, base=base, align_corners=align_corners)
    return reference.affine_relu(total, scale, shift, relu).to(total.dtype)


def _autocast(maps: Sequence[Tensor], base: Tensor | None) -> tuple[Sequence[Tensor], Tensor | None]:
    """The widest of the dtypes for all where autocast is on, as for PyTorch's own sums of several tensors."""
    tensors = [t for t in (*maps, base) if isinstance(t, Tensor)]
    device = tensors[0].device.type if tensors else "meta"
    if device == "meta" or not torch.is_autocast_enabled(device):  # which knows nothing of meta tensors
        return maps, base
    widest = tensors[0].dtype
    for t in tensors:
        if not t.is_floating_point():
            return maps, base  # the checks name it
        widest = torch.promote_types(widest, t.dtype)
    return [m.to(widest) for m in maps], None if base is None else base.to(widest)


def _fake(maps: Sequence[Tensor], height: int, width: int, base: Tensor | None, align_corners: bool) -> Tensor:
    return empty_map(maps[0], (*maps[0].shape[:2], height, width))


def _fake_affine(
    maps: Sequence[Tensor],
    height: int,
    width: int,
    base: Tensor | None,
    align_corners: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    return _fake(maps, height, width, base, align_corners)


def _fake_backward(grad: Tensor, sizes: Sequence[int], align_corners: bool) -> list[Tensor]:
    return [empty_map(grad, (*grad.shape[:2], h, w)) for h, w in zip(sizes[::2], sizes[1::2], strict=True)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, _, _, base, ctx.align_corners = inputs
    ctx.sizes = [size for m in maps for size in m.shape[2:]]
    ctx.has_base = base is not None


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grads = ops.upsample_sum_backward(grad, ctx.sizes, ctx.align_corners)
    return grads, None, None, grad if ctx.has_base else None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, _, ctx.align_corners = inputs
    ctx.size = grad.shape[2:]


def _double_backward(ops: Any, ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    return ops.upsample_sum(list(grads), *ctx.size, None, ctx.align_corners), None, None


def _composite_affine(
    ops: Any,
    maps: Sequence[Tensor],
    height: int,
    width: int,
    base: Tensor | None,
    align_corners: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    total = ops.upsample_sum(maps, height, width, base, align_corners)
    return reference.affine_relu(total, scale, shift, relu).to(total.dtype)


describe(
    "upsample_sum", _fake, save=_save, backward=_backward, linear=["maps", "base"],
    batched=folded({"maps": 0, "base": 0}),
)  # fmt: skip
describe(
    "upsample_sum_backward", _fake_backward, save=_save_backward, backward=_double_backward, linear=["grad"],
    batched=folded({"grad": 0}),
)  # fmt: skip
describe(
    "upsample_sum_affine", _fake_affine, composite=_composite_affine, batched=folded({"maps": 0, "base": 0}),
    only="pyranet_fast",
)  # fmt: skip
