"""Gaussian target maps (paper section 3: covariance I), for pictures, tests and other losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend, reference
from ._common import check_dtype, check_same_device, check_size


def gaussian_heatmaps(joints: Tensor, weight: Tensor, size: tuple[int, int], *, sigma: float = 1.0) -> Tensor:
    """Maps of exp(-|p - joint|^2 / (2 sigma^2)), centre not quantised, peak 1; zero where the weight is 0.

    Args:
        joints: (N, K, 2) float32 or float64, x and y in map pixels; positions off the map are fine.
        weight: (N, K); only whether it is above 0 matters.
        size: (h, w) of the maps.
        sigma: standard deviation in map pixels, above 0.

    Returns:
        (N, K, h, w) in the joints' dtype, without gradient.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    if not isinstance(joints, Tensor) or joints.dim() != 3:
        shape = tuple(joints.shape) if isinstance(joints, Tensor) else type(joints).__name__
        raise ValueError(f"joints has shape {shape}; (N, K, 2) is accepted")
    check_joints(joints, weight, sigma, joints.shape[:2], joints)
    h, w = check_size("size", size)
    joints, weight = joints.detach(), weight.detach()
    ops = _backend.operators(joints)
    if ops is None:
        return reference.gaussian_heatmaps(joints, weight, (h, w), sigma)
    return ops.gaussian_heatmaps(joints, weight, h, w, float(sigma))


def check_joints(joints: Tensor, weight: Tensor, sigma: float, batch: Sequence[int], other: Tensor) -> None:
    """Require joints (N, K, 2), weight (N, K) and a positive sigma."""
    n, k = batch
    if not isinstance(joints, Tensor) or tuple(joints.shape) != (n, k, 2):
        shape = tuple(joints.shape) if isinstance(joints, Tensor) else type(joints).__name__
        raise ValueError(f"joints has shape {shape}; (N, K, 2) = ({n}, {k}, 2) is accepted")
    if not isinstance(weight, Tensor) or tuple(weight.shape) != (n, k):
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight has shape {shape}; (N, K) = ({n}, {k}) is accepted")
    check_dtype("joints", joints, (torch.float32, torch.float64))
    check_dtype("weight", weight, (torch.float32, torch.float64))
    check_same_device("joints", joints, "the maps", other)
    check_same_device("weight", weight, "the maps", other)
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; a number above 0, in map pixels, is accepted")


def _fake(joints: Tensor, weight: Tensor, height: int, width: int, sigma: float) -> Tensor:
    return joints.new_empty((*joints.shape[:2], height, width))


@_backend.registers
def _register(namespace: str, ops: Any) -> None:
    torch.library.register_fake(f"{namespace}::gaussian_heatmaps", _fake)
