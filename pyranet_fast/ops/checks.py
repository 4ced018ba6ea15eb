"""Argument checks shared by the operators, and the memory layout of results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_map(name: str, x: Tensor, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    """Require a 4-D floating-point tensor (N, C, H, W)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a 4-D tensor (N, C, H, W), got {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"{name} must be a 4-D tensor (N, C, H, W), got shape {tuple(x.shape)}")
    check_dtype(name, x, dtypes)


def check_dtype(name: str, x: Tensor, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    """Require one of the given dtypes."""
    if x.dtype not in dtypes:
        expected = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} must have dtype {expected}, got {str(x.dtype).removeprefix('torch.')}")


def check_same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors on one device."""
    if x.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {x.device}")


def check_shape(name: str, x: Tensor, shape: Sequence[int], meaning: str) -> None:
    """Require an exact shape; ``meaning`` spells it, e.g. ``"(N, K, 2)"``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor {meaning}, got {type(x).__name__}")
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {meaning} = {tuple(shape)}, got {tuple(x.shape)}")


def check_channel_vectors(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
    """Require one value a channel of ``x``, a folded batch norm, in each that is given."""
    c = x.shape[1]
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            if vector.shape != (c,):
                raise ValueError(f"{name} must have shape ({c},), one value per channel, got {tuple(vector.shape)}")
            check_dtype(name, vector)
            check_same_device(name, vector, "x", x)


def check_joints(joints: Tensor, weight: Tensor, sigma: float, batch: Sequence[int], other: Tensor) -> None:
    """Require joints (N, K, 2) and weight (N, K), both on the device of the maps ``other``, and a positive sigma."""
    n, k = batch
    for name, x, shape, meaning in (("joints", joints, (n, k, 2), "(N, K, 2)"), ("weight", weight, (n, k), "(N, K)")):
        if not isinstance(x, Tensor) or tuple(x.shape) != shape:
            raise ValueError(f"{name} must have shape {meaning} = {shape}, got {_shape_or_type(x)}")
    for name, x in (("joints", joints), ("weight", weight)):
        check_dtype(name, x, (torch.float32, torch.float64))
        check_same_device(name, x, "the maps", other)
    if not sigma > 0:
        raise ValueError(f"sigma must be a positive number of map pixels, got {sigma}")


def _shape_or_type(x: object) -> tuple[int, ...] | str:
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__


def check_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    """Require (height, width), both at least 1."""
    if len(size) != 2:
        raise ValueError(f"{name} must be two numbers (height, width), got {tuple(size)}")
    h, w = size
    if h < 1 or w < 1:
        raise ValueError(f"{name} must have a height and width of at least 1, got ({h}, {w})")
    return h, w


def check_joints_dim(joints: Tensor) -> None:
    """Require joints of three axes, before there is a batch to compare them with."""
    if not isinstance(joints, Tensor) or joints.dim() != 3:
        raise ValueError(f"joints must have shape (N, K, 2), got {_shape_or_type(joints)}")


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where x is dense NHWC and not also dense NCHW; the kernels' outputs follow it."""
    if x.dim() != 4 or x.is_contiguous() or is_vmapped(x):
        return torch.contiguous_format
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def is_vmapped(x: Tensor) -> bool:
    """Whether a tensor hides a dimension of torch.vmap, so that it has no memory format to ask for."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_batchedtensor(x)


def empty_map(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A dense map (N, C, H, W) in the layout and on the device of another, and in its dtype unless one is given."""
    dtype = like.dtype if dtype is None else dtype
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=memory_format(like))


def wide_dtype(x: Tensor) -> torch.dtype:
    """What arithmetic is done in: float32, float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def transformed() -> bool:
    """Whether a transform of torch.func or forward-mode AD is on: what has one gradient and no more steps aside."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def has_values(x: Tensor) -> bool:
    """Whether the values of a tensor can be looked at: it is on the CPU, and none that is traced or transformed."""
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._len_torch_dispatch_stack() == 0
    )


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of one of them."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
