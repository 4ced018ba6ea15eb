"""Gaussian target maps (paper section 3: covariance I), for drawings, tests and other losses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import dispatch, reference
from .checks import check_joints, check_joints_dim, check_size
from .registration import describe, folded


def gaussian_heatmaps(joints: Tensor, weight: Tensor, size: tuple[int, int], *, sigma: float = 1.0) -> Tensor:
    """Render maps of exp(-d^2 / (2 sigma^2)), where d is the distance to the joint; zero where the weight is 0.

    The center is not quantized; a joint on a pixel has peak 1.

    Args:
        joints: (N, K, 2) float32 or float64, x and y in map pixels; may lie outside the map.
        weight: (N, K); only whether it is above 0 matters.
        size: (h, w) of the maps.
        sigma: standard deviation in map pixels, above 0.

    Returns:
        (N, K, h, w) in the dtype of ``joints``, without gradient or tangent. Supports torch.vmap.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    check_joints_dim(joints)
    check_joints(joints, weight, sigma, joints.shape[:2], joints)
    h, w = check_size("size", size)
    joints, weight = joints.detach(), weight.detach()
    ops = dispatch.operators(joints)
    if ops is None:
        return reference.gaussian_heatmaps(joints, weight, (h, w), sigma)
    return ops.gaussian_heatmaps(joints, weight, h, w, float(sigma))


def _fake(joints: Tensor, weight: Tensor, height: int, width: int, sigma: float) -> Tensor:
    return joints.new_empty((*joints.shape[:2], height, width))


def _composite(ops: Any, joints: Tensor, weight: Tensor, height: int, width: int, sigma: float) -> Tensor:
    return reference.gaussian_heatmaps(joints, weight, (height, width), sigma)


describe("gaussian_heatmaps", _fake, composite=_composite, batched=folded({"joints": 0, "weight": 0}))
