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
    wants_gradient,
)
from .registration import describe

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
    r"""Pool ``x`` with 2x2 windows to every size of ``output_sizes``, reading it once.

    Per level, sample and channel one u in [0, 1) for each axis places the windows:
    :math:`\alpha = (\text{in} - 2) / (\text{out} - 1)`, start i = int((i + u)\alpha) - int(u\alpha) for
    i < out - 1, and in - 2 for the last. The values equal those of
    ``torch.nn.functional.fractional_max_pool2d(x, 2, output_size=..., _random_samples=u)``. The first maximum
    of a window wins, NaN wins over numbers.

    Args:
        x: (N, C, H, W), float32, float64, bfloat16 or float16, contiguous, channels_last or with any other
            strides, never copied. Under autocast it keeps its dtype. Outputs are channels_last where ``x``
            is, else contiguous.
        output_sizes: [(h, w), ...], at least one, each between 1 and input size - 1.
        samples: (L, N or 1, C or 1, 2) in [0, 1), last axis (W, H); float32 (float64 accepted). None draws
            (L, N, C, 2) from torch's default generator. A C axis of 1 shares the windows between channels.
        scale, shift: (C,), a folded batch norm: y = x * scale + shift is pooled. Either may be None, and
            their dtype another than ``x``'s. Their gradients are the same bits for any number of threads.
        relu: pool max(y, 0).

    Returns:
        One (N, C, h, w) tensor a level, in ``x``'s dtype. The backward needs one byte a pixel of ``x``, for
        all levels together, and ``x`` itself only where scale, shift or relu is given. There is no double
        backward.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    samples, sizes = check_pool_arguments(x, output_sizes, samples, scale, shift)
    ops = dispatch.operators(x)
    if ops is None:
        return reference.fractional_max_pool_pyramid(x, sizes, samples, scale, shift, relu)
    flat = [side for size in sizes for side in size]
    with_positions = wants_gradient(x, scale, shift)
    values, _ = ops.fractional_max_pool_pyramid(x, samples, flat, scale, shift, relu, with_positions)
    return values


def empty_positions(x: Tensor, wanted: bool) -> Tensor:
    """Memory for the winners of x's windows, a byte a pixel; without elements where nobody wants them."""
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
        raise ValueError("output_sizes is empty; a list of at least one (height, width) is accepted")
    sizes = [check_size(f"output_sizes[{i}]", s) for i, s in enumerate(output_sizes)]
    for i, (oh, ow) in enumerate(sizes):
        if oh > h - 1 or ow > w - 1:
            raise ValueError(
                f"output_sizes[{i}] is ({oh}, {ow}) for an input of ({h}, {w}); at most ({h - 1}, {w - 1}) is accepted"
            )
    if samples is None:
        samples = torch.rand(len(sizes), n, c, 2, device=x.device)
    else:
        _check_samples(samples, len(sizes), x)
    check_channel_vectors(x, scale, shift)
    return samples, sizes


def _check_samples(samples: Tensor, levels: int, x: Tensor) -> None:
    n, c = x.shape[:2]
    shape = tuple(samples.shape)
    if samples.dim() != 4 or shape[0] != levels or shape[1] not in (1, n) or shape[2] not in (1, c) or shape[3] != 2:
        raise ValueError(
            f"samples has shape {shape}; (levels, N or 1, C or 1, 2) = ({levels}, {n} or 1, {c} or 1, 2) is accepted"
        )
    check_dtype("samples", samples, (torch.float32, torch.float64))
    check_same_device("samples", samples, "x", x)
    # Looking at the values would stop a GPU's queue and break graphs: there the kernels clamp the samples.
    if samples.device.type == "cpu" and type(samples) is Tensor and not torch.compiler.is_compiling():
        low, high = (v.item() for v in samples.aminmax()) if samples.numel() > 0 else (0.0, 0.0)
        if not (low >= 0 and high < 1):
            raise ValueError(f"samples has values from {low:g} to {high:g}; values in [0, 1) are accepted")


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
    x, samples, _, scale, shift, relu, with_positions = inputs
    values, positions = output
    if not with_positions:
        raise RuntimeError(f"{_NAME} was called with_positions=False; its backward needs the positions")
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
    # Levels that nobody used: a zero without memory.
    given = [
        positions.new_zeros((), dtype=ctx.dtype).expand(shape) if g is None else g
        for g, shape in zip(grads, ctx.shapes, strict=True)
    ]
    grad_x, grad_scale, grad_shift = ops.fractional_max_pool_pyramid_backward(
        given, positions, samples, x, scale, shift, ctx.relu
    )
    vectors = (None if scale is None else grad_scale, None if shift is None else grad_shift)
    return grad_x, None, None, *vectors, None, None


describe(_NAME, _fake, save=_save, backward=_backward, fake_backward=_fake_backward)
