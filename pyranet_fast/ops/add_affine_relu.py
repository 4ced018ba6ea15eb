"""A sum and the folded batch norms that read it, in one pass: the operations between residual units in inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch, reference
from .checks import check_map, check_same_device, transformed, wide_dtype
from .registration import describe, folded, without_gradient


def add_affine_relu(
    x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor, *, keep: bool = False
) -> list[Tensor]:
    """Compute relu(sum * scale[j] + shift[j]) for every j, where sum is x plus another map.

    Fuses the operations between residual units in evaluation: the addition (in the hourglass of an upsampled map of
    half the size) and the batch norms with ReLU of all branches that read it. Every map is read and written once.

    Args:
        x: (N, C, H, W) float32, float64, bfloat16 or float16.
        other: the second term, (N, C, H, W), or (N, C, 2H, 2W), to which x is upsampled (nearest neighbor), in the
            dtype of x. None: x alone.
        scale, shift: (J, C), folded batch norms, in float32 (float64 for float64 x). J may be 0 with ``keep``.
        keep: also return the sum, first.

    Returns:
        J maps (J + 1 with ``keep``) with the shape of the sum, in the dtype of x. No gradient flows through them;
        forward-mode AD and torch.vmap work, by PyTorch's own operations.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    check_map("x", x)
    n, c, h, w = x.shape
    if other is not None:
        check_map("other", other, [x.dtype])
        check_same_device("other", other, "x", x)
        if tuple(other.shape) not in ((n, c, h, w), (n, c, 2 * h, 2 * w)):
            raise ValueError(
                f"other must have the shape of x, {tuple(x.shape)}, or twice its height and width, got "
                f"{tuple(other.shape)}"
            )
    wide = wide_dtype(x)
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector.dim() != 2 or vector.shape[1] != c or vector.shape[0] != scale.shape[0]:
            raise ValueError(
                f"scale and shift must have one shape (J, {c}), one row per output, got {name} {tuple(vector.shape)}"
            )
        if vector.dtype != wide:
            raise TypeError(f"{name} must have dtype {wide} with x in {x.dtype}, got {vector.dtype}")
        check_same_device(name, vector, "x", x)
    if scale.shape[0] == 0 and not keep:
        raise ValueError("scale must have rows or keep be True, got neither")
    compiling = torch.compiler.is_compiling()
    ops = dispatch.operators(x) if x.device.type in ("cpu", "cuda") else None
    if ops is not None and (compiling or not transformed()):
        if compiling:
            x, scale, shift = x.detach(), scale.detach(), shift.detach()
            other = None if other is None else other.detach()
        result: Sequence[Tensor] = without_gradient(ops.add_affine_relu, x, other, scale, shift, keep)
        return list(result)
    with torch.no_grad():
        return reference.add_affine_relu(x, other, scale, shift, keep)


def _fake(x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor, keep: bool) -> list[Tensor]:
    like = x if other is None else other
    count = scale.shape[0] + int(keep)
    return [like.new_empty(like.shape).to(memory_format=torch.channels_last) for _ in range(count)]


def _composite(ops: Any, x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor, keep: bool) -> list[Tensor]:
    return reference.add_affine_relu(x, other, scale, shift, keep)


describe("add_affine_relu", _fake, composite=_composite, batched=folded({"x": 0, "other": 0}))
