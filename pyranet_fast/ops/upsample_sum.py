"""Bilinear upsampling of several maps to one size and their sum, in one pass (paper equation 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend, reference
from ._common import (
    check_channel_vectors,
    check_map,
    check_same_device,
    check_shape,
    check_size,
    memory_format,
    raise_double_backward,
)


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
    """Sum over the maps of ``interpolate(map, size, mode="bilinear", align_corners=...)``, plus ``base``.

    Every map is read once and the output written once; the sum is taken in float32 (float64 for float64) and
    rounded once. The backward gathers, so it repeats bit for bit.

    Args:
        maps: list of (N, C, h_l, w_l), at least one, of one dtype: float32, float64, bfloat16 or float16.
            Sizes may be below, at or above ``size``. Under autocast different dtypes are promoted to the widest.
        size: (H, W) of the output.
        base: (N, C, H, W), added if given.
        align_corners: as in ``torch.nn.functional.interpolate``; Torch7 and the paper's code align corners.
        scale, shift: (C,), a folded batch norm after the sum: sum * scale + shift. Either may be None. In the same
            pass on CUDA where no gradient is wanted; else as operations of their own on the rounded sum.
        relu: max(…, 0) at the end.

    Returns:
        (N, C, H, W) in the maps' dtype and the first map's layout; maps of the other layout are copied into it.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    if len(maps) == 0:
        raise ValueError("maps is empty; a list of at least one (N, C, h, w) tensor is accepted")
    h, w = check_size("size", size)
    maps, base = _autocast(maps, base)
    for i, m in enumerate(maps):
        name = f"maps[{i}]"
        check_map(name, m)
        if m.shape[:2] != maps[0].shape[:2] or m.shape[2] < 1 or m.shape[3] < 1:
            n, c = maps[0].shape[:2]
            raise ValueError(
                f"{name} has shape {tuple(m.shape)}; ({n}, {c}, h, w) as in maps[0], h and w at least 1, is accepted"
            )
        if m.dtype != maps[0].dtype:
            raise TypeError(f"{name} has dtype {m.dtype} but maps[0] has {maps[0].dtype}; one dtype is accepted")
        check_same_device(name, m, "maps[0]", maps[0])
    if base is not None:
        check_map("base", base)
        check_shape("base", base, (*maps[0].shape[:2], h, w), "(N, C, H, W)")
        if base.dtype != maps[0].dtype:
            raise TypeError(f"base has dtype {base.dtype} but maps[0] has {maps[0].dtype}; one dtype is accepted")
        check_same_device("base", base, "maps[0]", maps[0])
    affine = relu or scale is not None or shift is not None
    if affine:
        check_channel_vectors(maps[0], scale, shift)
        tensors = [t for t in (*maps, base, scale, shift) if t is not None]
        differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if not differentiable and maps[0].device.type == "cuda" and _backend.choose(maps[0]) == "native":
            native = torch.ops.pyranet_fast.upsample_sum_affine
            return native(list(maps), h, w, base, align_corners, scale, shift, relu)
        total = upsample_sum(maps, size, base=base, align_corners=align_corners)
        return reference.affine_relu(total, scale, shift, relu).to(total.dtype)
    ops = _backend.operators(maps[0])
    if ops is None:
        if maps[0].shape[1] == 0:  # which interpolate() refuses
            return maps[0].sum((2, 3), keepdim=True).expand(-1, -1, h, w)
        return reference.upsample_sum(maps, (h, w), base, align_corners)
    inputs = list(maps) if base is None else [*maps, base]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and any(t.requires_grad for t in inputs):
        # The operator is differentiable itself, which compilers need; its general machinery for lists of tensors
        # costs more than resizing small maps.
        return _UpsampleSum.apply(ops, h, w, base, align_corners, *maps)
    return ops.upsample_sum(list(maps), h, w, base, align_corners)


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
    n, c = maps[0].shape[:2]
    layout = memory_format(maps[0])
    return torch.empty((n, c, height, width), dtype=maps[0].dtype, device=maps[0].device, memory_format=layout)


def _fake_backward(grad: Tensor, sizes: Sequence[int], align_corners: bool) -> list[Tensor]:
    n, c = grad.shape[:2]
    layout = memory_format(grad)
    return [
        torch.empty((n, c, h, w), dtype=grad.dtype, device=grad.device, memory_format=layout)
        for h, w in zip(sizes[::2], sizes[1::2], strict=True)
    ]


def _save(ctx: Any, maps: Sequence[Tensor], base: Tensor | None, align_corners: bool) -> None:
    ctx.align_corners = align_corners
    ctx.sizes = [size for m in maps for size in m.shape[2:]]
    ctx.has_base = base is not None


def _gradients(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Gradients of the operator's arguments."""
    grads = ops.upsample_sum_backward(grad, ctx.sizes, ctx.align_corners)
    return grads, None, None, grad if ctx.has_base else None, None


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


class _UpsampleSum(torch.autograd.Function):
    @staticmethod
    def forward(ops: Any, height: int, width: int, base: Tensor | None, align_corners: bool, *maps: Tensor) -> Tensor:
        return ops.upsample_sum(list(maps), height, width, base, align_corners)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ops = inputs[0]
        _save(ctx, inputs[5:], *inputs[3:5])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads, _, _, base, _ = _gradients(ctx.ops, ctx, grad)
        return None, None, None, base, None, *grads


@_backend.registers
def _register(namespace: str, ops: Any) -> None:
    name = f"{namespace}::upsample_sum"
    torch.library.register_fake(name, _fake)
    torch.library.register_fake(f"{name}_backward", _fake_backward)
    if namespace == "pyranet_fast":
        torch.library.register_fake(f"{name}_affine", _fake_affine)
    torch.library.register_autograd(
        name,
        lambda ctx, grad: _gradients(ops, ctx, grad),
        setup_context=lambda ctx, inputs, output: _save(ctx, inputs[0], *inputs[3:]),
    )
    torch.library.register_autograd(f"{name}_backward", lambda ctx, *grads: raise_double_backward("upsample_sum"))
