"""Fractional max-pooling of one map to several sizes in one pass (paper section 3.2, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._common import check_dtype, check_map, check_same_device, check_size


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
        x: (N, C, H, W), float32, float64, bfloat16 or float16; contiguous and channels_last are read as they
            are, other strides are copied first. Outputs have the layout of ``x``.
        output_sizes: [(h, w), ...], at least one, each between 1 and input size - 1.
        samples: (L, N or 1, C or 1, 2) in [0, 1), last axis (W, H); float32 (float64 accepted). None draws
            (L, N, C, 2) from torch's default generator. A C axis of 1 shares the windows between channels.
        scale, shift: (C,), a folded batch norm: y = x * scale + shift is pooled. Either may be None.
        relu: pool max(y, 0).

    Returns:
        One (N, C, h, w) tensor a level, in ``x``'s dtype.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    check_map("x", x)
    n, c, h, w = x.shape
    if len(output_sizes) == 0:
        raise ValueError("output_sizes is empty; a list of at least one (height, width) is accepted")
    sizes = [check_size(f"output_sizes[{i}]", s) for i, s in enumerate(output_sizes)]
    for i, (oh, ow) in enumerate(sizes):
        if oh > h - 1 or ow > w - 1:
            raise ValueError(
                f"output_sizes[{i}] is ({oh}, {ow}) for an input of ({h}, {w}); "
                f"at most ({h - 1}, {w - 1}) is accepted"
            )
    if samples is None:
        samples = torch.rand(len(sizes), n, c, 2, device=x.device)
    else:
        _check_samples(samples, len(sizes), x)
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            if vector.shape != (c,):
                raise ValueError(f"{name} has shape {tuple(vector.shape)}; ({c},), one a channel, is accepted")
            check_dtype(name, vector)
            check_same_device(name, vector, "x", x)
    return reference.fractional_max_pool_pyramid(x, sizes, samples, scale, shift, relu)


def _check_samples(samples: Tensor, levels: int, x: Tensor) -> None:
    n, c = x.shape[:2]
    shape = tuple(samples.shape)
    if samples.dim() != 4 or shape[0] != levels or shape[1] not in (1, n) or shape[2] not in (1, c) or shape[3] != 2:
        raise ValueError(
            f"samples has shape {shape}; (levels, N or 1, C or 1, 2) = ({levels}, {n} or 1, {c} or 1, 2) is accepted"
        )
    check_dtype("samples", samples, (torch.float32, torch.float64))
    check_same_device("samples", samples, "x", x)
    # Looking at the values would stop a GPU's queue and break graphs: there the kernels clamp the starts.
    if samples.device.type == "cpu" and not torch.compiler.is_compiling() and samples.numel() > 0:
        low, high = samples.aminmax()
        if not (low >= 0 and high < 1):
            raise ValueError(
                f"samples has values from {low.item():g} to {high.item():g}; values in [0, 1) are accepted"
            )
