"""Fractional max-pooling of one map to several sizes in one pass (paper section 3.2, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch, reference
from .checks import (
    check_channel_vectors,
    check_dtype,
    check_map,
    check_same_device,
    check_size,
    empty_map,
    has_values,
    transformed,
    wide_dtype,
)
from .registration import describe, fold, unfold

_NAME = "fractional_max_pool_pyramid"


def fractional_max_pool_pyramid(
    x: Tensor,
    output_sizes: Sequence[tuple[int, int]],
    samples: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> list[Tensor]:
    r"""Pool ``x`` with 2x2 windows to every size of ``output_sizes`` (equation 3), reading it once.

    Per level, sample and channel, one u in [0, 1) per axis determines the windows:
    :math:`\alpha = (\text{in} - 2) / (\text{out} - 1)`, start i = int((i + u)\alpha) - int(u\alpha) for
    i < out - 1, and in - 2 for the last. The values equal those of
    ``torch.nn.functional.fractional_max_pool2d(x, 2, output_size=..., _random_samples=u)``. Ties go to
    the first element of a window; NaN wins over numbers.

    Args:
        x: (N, C, H, W), float32, float64, bfloat16 or float16, with any strides, never copied. Autocast
            does not change its dtype. Outputs are channels_last if ``x`` is, else contiguous.
        output_sizes: [(h, w), ...], at least one, each between 1 and input size - 1.
        samples: (L, N or 1, C or 1, 2) in [0, 1), last axis (W, H); float32 or float64. None: draw
            (L, N, C, 2) from torch's default generator. A C axis of 1 shares the windows among channels. Inside
            torch.vmap, None requires ``randomness="different"`` or ``"same"``.
        scale, shift: (C,), a folded batch norm: y = x * scale + shift is pooled. Either may be None;
            their dtype may differ from ``x``'s. Their gradients are bitwise reproducible with any number of threads.
        relu: pool max(y, 0).

    Returns:
        One (N, C, h, w) tensor per level, in ``x``'s dtype. The backward pass needs one byte per pixel of ``x``, for
        all levels together, and ``x`` itself only with scale, shift or relu. Supports derivatives of every order,
        forward mode too, with fixed maxima, and torch.vmap.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
        RuntimeError: samples is None inside torch.vmap with ``randomness="error"``.
    """
    samples, sizes = check_pool_arguments(x, output_sizes, samples, scale, shift)
    ops = dispatch.operators(x)
    if ops is None:
        return reference.fractional_max_pool_pyramid(x, sizes, samples, scale, shift, relu)
    flat = [side for size in sizes for side in size]
    # Whether positions are needed is known where the gradient is recorded: a program may be exported without one, and
    # called with one.
    values, _ = ops.fractional_max_pool_pyramid(x, samples, flat, scale, shift, relu, False)
    return values


def empty_positions(x: Tensor, wanted: bool) -> Tensor:
    """Memory for the winners of x's windows, a byte a pixel; empty if they are not needed."""
    return empty_map(x, x.shape, torch.uint8) if wanted else x.new_empty((0, 0, 0, 0), dtype=torch.uint8)


def check_pool_arguments(
    x: Tensor,
    output_sizes: Sequence[tuple[int, int]],
    samples: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The samples, drawn where None is given, and the sizes, all checked as the public functions promise."""
    check_map("x", x)
    n, c, h, w = x.shape
    if len(output_sizes) == 0:
        raise ValueError("output_sizes must be a list of at least one (height, width), got an empty list")
    sizes = [check_size(f"output_sizes[{i}]", s) for i, s in enumerate(output_sizes)]
    for i, (oh, ow) in enumerate(sizes):
        if oh > h - 1 or ow > w - 1:
            raise ValueError(
                f"output_sizes[{i}] must be at most ({h - 1}, {w - 1}) for an input of ({h}, {w}), got ({oh}, {ow})"
            )
    if samples is None:
        samples = draw_windows((len(sizes), n, c, 2), x.device)
    else:
        _check_samples(samples, len(sizes), x)
    check_channel_vectors(x, scale, shift)
    return samples, sizes


def draw_windows(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uniform random numbers in [0, 1), float32, from the default generator of a device: samples of windows.

    Raises:
        RuntimeError: inside torch.vmap, unless its randomness is "same" or "different".
    """
    if torch.compiler.is_compiling() or not transformed():
        return torch.rand(shape, dtype=torch.float32, device=device)
    try:
        return torch.rand(shape, dtype=torch.float32, device=device)
    except RuntimeError as error:
        if "randomness error mode" not in str(error):
            raise
        raise RuntimeError(
            f"samples of {_NAME} cannot be drawn inside torch.vmap with randomness='error'; pass samples, or use "
            "torch.vmap(..., randomness='different') or 'same'"
        ) from error


def _check_samples(samples: Tensor, levels: int, x: Tensor) -> None:
    n, c = x.shape[:2]
    shape = tuple(samples.shape)
    if samples.dim() != 4 or shape[0] != levels or shape[1] not in (1, n) or shape[2] not in (1, c) or shape[3] != 2:
        raise ValueError(
            f"samples must have shape (levels, N or 1, C or 1, 2) = ({levels}, {n} or 1, {c} or 1, 2), got {shape}"
        )
    check_dtype("samples", samples, (torch.float32, torch.float64))
    check_same_device("samples", samples, "x", x)
    # Looking at the values would stop a GPU's queue and break graphs: there the kernels clamp the samples.
    if has_values(samples):
        low, high = (v.item() for v in samples.aminmax()) if samples.numel() > 0 else (0.0, 0.0)
        if not (low >= 0 and high < 1):
            raise ValueError(f"samples must lie in [0, 1), got values from {low:g} to {high:g}")


def _fake(
    x: Tensor,
    samples: Tensor,
    output_sizes: Sequence[int],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[list[Tensor], Tensor]:
    sizes = zip(output_sizes[::2], output_sizes[1::2], strict=True)
    values = [empty_map(x, (*x.shape[:2], h, w)) for h, w in sizes]
    return values, empty_positions(x, with_positions)


def _fake_backward(
    grads: Sequence[Tensor],
    positions: Tensor,
    samples: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = empty_map(positions, positions.shape, grads[0].dtype)
    grad_scale, grad_shift = (grad_x.new_empty(0) if v is None else v.new_empty(v.shape) for v in (scale, shift))
    return grad_x, grad_scale, grad_shift


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor]) -> None:
    x, samples, _, scale, shift, relu, _ = inputs
    values, positions = output
    affine = relu or scale is not None or shift is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(positions, samples, x if affine else None, scale, shift)
    ctx.relu = relu
    ctx.shapes = [v.shape for v in values]
    ctx.dtype = x.dtype


def _backward(ops: Any, ctx: Any, grads: Sequence[Tensor | None], _: Any) -> tuple[Tensor | None, ...]:
    if all(g is None for g in grads):
        return (None,) * 7
    positions, samples, x, scale, shift = ctx.saved_tensors
    # Unused levels: a zero without memory.
    given = [
        positions.new_zeros((), dtype=ctx.dtype).expand(shape) if g is None else g
        for g, shape in zip(grads, ctx.shapes, strict=True)
    ]
    grad_x, grad_scale, grad_shift = ops.fractional_max_pool_pyramid_backward(
        given, positions, samples, x, scale, shift, ctx.relu
    )
    vectors = (None if scale is None else grad_scale, None if shift is None else grad_shift)
    return grad_x, None, None, *vectors, None, None


def _winners(positions: Tensor, samples: Tensor, sizes: Sequence[Sequence[int]], wide: torch.dtype) -> list[Tensor]:
    """The flat index (N, C, h * w) of the pixel of x that each value of each level is."""
    h, w = positions.shape[2:]
    flat, found = positions.flatten(2), []
    for u, (oh, ow) in zip(samples.to(wide), sizes, strict=True):
        left, top = reference.window_starts(u[..., 0], w, ow), reference.window_starts(u[..., 1], h, oh)
        place = (top.unsqueeze(3) * w + left.unsqueeze(2)).flatten(2).expand(*flat.shape[:2], oh * ow)
        within = flat.gather(2, place).long()
        found.append(place + within // 2 * w + within % 2)
    return found


def _composite(
    ops: Any,
    x: Tensor,
    samples: Tensor,
    output_sizes: Sequence[int],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[list[Tensor], Tensor]:
    fixed = [None if t is None else t.detach() for t in (scale, shift)]
    _, positions = ops.fractional_max_pool_pyramid(x.detach(), samples, output_sizes, *fixed, relu, True)
    sizes = list(zip(output_sizes[::2], output_sizes[1::2], strict=True))
    y = reference.affine_relu(x, scale, shift, relu).flatten(2)
    winners = _winners(positions, samples, sizes, wide_dtype(x))
    values = [y.gather(2, index).unflatten(2, size).to(x.dtype) for index, size in zip(winners, sizes, strict=True)]
    return values, positions if with_positions else empty_positions(x, False)


def _composite_backward(
    ops: Any,
    grads: Sequence[Tensor],
    positions: Tensor,
    samples: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, wide = grads[0].dtype, wide_dtype(grads[0])
    winners = _winners(positions, samples, [grad.shape[2:] for grad in grads], wide)
    total = torch.zeros_like(positions.flatten(2), dtype=wide)
    for index, grad in zip(winners, grads, strict=True):
        total = total.scatter_add(2, index, grad.to(wide).flatten(2))
    total = total.unflatten(2, positions.shape[2:])
    nothing = grads[0].new_empty(0)
    if x is None:
        return total.to(dtype), nothing, nothing
    if relu:
        total = torch.where(reference.affine_relu(x, scale, shift, True) > 0, total, 0)
    grad_x, grad_scale, grad_shift = total, nothing, nothing
    if scale is not None:
        grad_x = total * scale.to(wide).view(1, -1, 1, 1)
        grad_scale = (total * x.to(wide)).sum((0, 2, 3)).to(scale.dtype)
    if shift is not None:
        grad_shift = total.sum((0, 2, 3)).to(shift.dtype)
    return grad_x.to(dtype), grad_scale, grad_shift


def fold_windows(samples: Tensor, dim: int | None, size: int, axis: int, count: int) -> Tensor:
    """Samples for maps of which torch.vmap's dimension was folded into an axis, N or C, of ``count`` before."""
    if dim is None and samples.shape[axis + 1] == 1:
        return samples
    if dim is not None and dim <= axis + 1:  # the axis that is spread must not move
        samples, dim = samples.movedim(dim, -1), samples.dim() - 1
    sizes = [-1] * samples.dim()
    sizes[axis + 1] = count
    return fold(samples.expand(sizes), dim, size, axis + 1)


def batch_axis(*vectors: Tensor | None) -> int:
    """Where torch.vmap's dimension goes: into the channels where there are channel vectors, which have their own."""
    return 0 if all(v is None for v in vectors) else 1


def _batched(
    operator: Any,
    size: int,
    dims: Sequence[Any],
    x: Tensor,
    samples: Tensor,
    output_sizes: Sequence[int],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    with_positions: bool,
) -> tuple[Any, Any]:
    axis = batch_axis(scale, shift)
    maps = fold(x, dims[0], size, axis)
    samples = fold_windows(samples, dims[1], size, axis, maps.shape[axis] // size)
    vectors = (None if v is None else fold(v, d, size) for v, d in ((scale, dims[3]), (shift, dims[4])))
    values, positions = operator(maps, samples, output_sizes, *vectors, relu, with_positions)
    values = [unfold(v, size, axis) for v in values]
    return (values, unfold(positions, size, axis) if with_positions else positions), (0, 0 if with_positions else None)


def _batched_backward(
    operator: Any,
    size: int,
    dims: Sequence[Any],
    grads: Sequence[Tensor],
    positions: Tensor,
    samples: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[Any, Any]:
    axis = batch_axis(scale, shift)
    grads = [fold(grad, d, size, axis) for grad, d in zip(grads, dims[0], strict=True)]
    positions = fold(positions, dims[1], size, axis)
    samples = fold_windows(samples, dims[2], size, axis, positions.shape[axis] // size)
    x = None if x is None else fold(x, dims[3], size, axis)
    vectors = (None if v is None else fold(v, d, size) for v, d in ((scale, dims[4]), (shift, dims[5])))
    grad_x, *of_vectors = operator(grads, positions, samples, x, *vectors, relu)
    present = [v is not None for v in (scale, shift)]
    of_vectors = [unfold(g, size) if there else g for g, there in zip(of_vectors, present, strict=True)]
    return (unfold(grad_x, size, axis), *of_vectors), (0, *(0 if there else None for there in present))


def with_positions(*arguments: Any) -> tuple[Any, ...]:
    """The arguments of a pool whose backward will need the winners."""
    return (*arguments[:-1], True)


describe(_NAME, _fake, save=_save, backward=_backward, composite=_composite, recorded=with_positions, batched=_batched)
describe(f"{_NAME}_backward", _fake_backward, composite=_composite_backward, batched=_batched_backward)
