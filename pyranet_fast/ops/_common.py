"""Argument checks and small helpers that the operators share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_map(name: str, x: Tensor, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    """Require a 4-D floating-point tensor (N, C, H, W)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; a 4-D tensor (N, C, H, W) is accepted")
    if x.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; a 4-D tensor (N, C, H, W) is accepted")
    check_dtype(name, x, dtypes)


def check_dtype(name: str, x: Tensor, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    """Require one of the given dtypes."""
    if x.dtype not in dtypes:
        accepted = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} has dtype {str(x.dtype).removeprefix('torch.')}; accepted are {accepted}")


def check_same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors on one device."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device} but {other_name} is on {other.device}; one device is accepted")


def check_shape(name: str, x: Tensor, shape: Sequence[int], meaning: str) -> None:
    """Require an exact shape; ``meaning`` spells it, e.g. ``"(N, K, 2)"``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; a tensor {meaning} is accepted")
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(x.shape)}; {meaning} = {tuple(shape)} is accepted")


def check_channel_vectors(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
    """Require one value a channel of ``x``, a folded batch norm, in each that is given."""
    c = x.shape[1]
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            if vector.shape != (c,):
                raise ValueError(f"{name} has shape {tuple(vector.shape)}; ({c},), one a channel, is accepted")
            check_dtype(name, vector)
            check_same_device(name, vector, "x", x)


def check_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    """Require (height, width), both at least 1."""
    if len(size) != 2:
        raise ValueError(f"{name} is {tuple(size)}; two numbers (height, width) are accepted")
    h, w = size
    if h < 1 or w < 1:
        raise ValueError(f"{name} is ({h}, {w}); height and width of at least 1 are accepted")
    return h, w


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where x is dense NHWC and not also dense NCHW; the kernels' outputs follow it."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def raise_double_backward(name: str) -> None:
    """The error of a second derivative."""
    raise RuntimeError(f"{name} has no double backward: its gradient cannot be differentiated again")
