"""From image crops to joints: score maps with flip testing, and their decoding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import ops
from ..data.transforms import from_map, normalise
from ..models import PyraNet, optimize_for_inference
from .skeleton import Skeleton

PRECISIONS = ("fp32", "bf16")


def ready(model: nn.Module, device: torch.device, precision: str) -> tuple[nn.Module, str]:
    """A network where predictions are made, in its fastest form, and the ``precision`` to give to `score_maps`.

    On the CPU that is `models.optimize_for_inference`'s, which has the precision in itself.

    Args:
        model: a network that a checkpoint gave; it may be changed.
        device: where to.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    if isinstance(model, PyraNet) and device.type == "cpu":
        return optimize_for_inference(model, precision), "fp32"
    return model.to(device, memory_format=torch.channels_last), precision  # type: ignore[call-overload]


def score_maps(
    model: nn.Module,
    images: Tensor,
    skeleton: Skeleton,
    *,
    flip: bool = True,
    device: torch.device | str | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Score maps of the last stack.

    With ``flip`` they are the mean of the maps of each image and of its mirror (mirrored back, left and right
    joints changed over, no one-pixel shift: with pixel centres at (input + 0.5) / 4 - 0.5 the two agree
    exactly). Both go through the network in one batch.

    Args:
        model: gives a list of score maps, of which the last counts, or a single tensor. It is run in eval
            mode and left in the mode it was in.
        images: (N, 3, S, S) uint8 RGB, on any device.
        skeleton: what the K maps mean.
        device: where the model is and the work is done; None means where the model's parameters are.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.

    Returns:
        (N, K, S/4, S/4) float32 on ``device``.

    Raises:
        TypeError, ValueError: an argument is not as described, or the model gives another number of maps.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"images is {got}; a uint8 tensor (N, 3, S, S) is accepted")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}; (N, 3, S, S) is accepted")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; accepted are {', '.join(map(repr, PRECISIONS))}")
    where = torch.device(device) if device is not None else _home(model)

    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            batch = normalise(images.to(where, non_blocking=True))
            if flip:
                batch = torch.cat([batch, batch.flip(3)])
            maps = _last(model(batch.contiguous(memory_format=torch.channels_last))).float()
            if maps.dim() != 4 or maps.shape[1] != len(skeleton):
                raise ValueError(
                    f"the model gives maps of shape {tuple(maps.shape)}; "
                    f"(N, {len(skeleton)}, h, w) is needed for skeleton {skeleton.name!r}"
                )
            if flip:
                straight, mirrored = maps.chunk(2)
                maps = ops.reference.mirrored_mean(straight, mirrored, skeleton.flip_permutation)
    finally:
        model.train(training)
    return maps


def _home(model: nn.Module) -> torch.device:
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _last(outputs: Any) -> Tensor:
    last: Tensor = outputs if isinstance(outputs, Tensor) else outputs[-1]
    return last


def decode(maps: Tensor, inverse: Tensor | npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Joints in image pixels: maximum, a quarter pixel toward the larger neighbour, affine map back.

    Args:
        maps: (N, K, h, w) float.
        inverse: (N, 2, 3), affine maps from input pixels to image pixels; one map pixel is four input pixels,
            input = (map + 0.5) * 4 - 0.5.

    Returns:
        ``(joints, scores)``: joints (N, K, 2) float32, x and y in image pixels; scores (N, K)
            float32, the maxima.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    places, scores = ops.heatmap_argmax(maps.detach(), refine="quarter")
    back = np.asarray(inverse.cpu() if isinstance(inverse, Tensor) else inverse, dtype=np.float64)
    if back.shape != (len(maps), 2, 3):
        raise ValueError(f"inverse has shape {back.shape}; ({len(maps)}, 2, 3), one map per image, is accepted")
    points = from_map(places.cpu().numpy())
    joints = np.einsum("nij,nkj->nki", back[:, :, :2], points) + back[:, None, :, 2]
    return joints.astype(np.float32), scores.float().cpu().numpy()
