"""Joint positions from score maps: argmax and quarter-pixel refinement in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import dispatch, reference
from .checks import check_map, check_same_device, check_shape, has_values, wide_dtype
from .registration import describe, folded


def heatmap_argmax(
    heatmaps: Tensor, *, refine: str = "none", mirrored: Tensor | None = None, swap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find position and value of the maximum of every map, or of its mean with the map of the mirrored image.

    Ties go to the lowest flat index; NaN wins over numbers.

    Args:
        heatmaps: (N, K, H, W), float32, float64, bfloat16 or float16, H and W at least 1.
        refine: ``"none"``, or ``"quarter"``: move 0.25 px toward the larger neighbor on each axis, only where
            the maximum is off that axis's border; equal neighbors (or a NaN) do not move it.
        mirrored: (N, K, H, W), unmodified maps of the mirrored images, for flip testing: the maximum of the mean of
            ``heatmaps[n, k, y, x]`` and ``mirrored[n, swap[k], y, W - 1 - x]`` is returned.
        swap: (K,) int64, mirror partner of every joint, such as ``Skeleton.flip_permutation``; None: identity. Only
            with ``mirrored``.

    Returns:
        ``(coords, scores)``: coords (N, K, 2) float32, x and y in map pixels, without gradient; scores (N, K)
        in the maps' dtype, whose gradient goes to the pixel of the maximum. With ``mirrored`` the means and
        scores are float32 (float64 for float64 maps). Supports derivatives of every order of the scores,
        forward mode too, and torch.vmap.

    Raises:
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    check_map("heatmaps", heatmaps)
    if heatmaps.shape[2] < 1 or heatmaps.shape[3] < 1:
        raise ValueError(f"heatmaps must have a height and width of at least 1, got shape {tuple(heatmaps.shape)}")
    if refine not in ("none", "quarter"):
        raise ValueError(f"refine must be 'none' or 'quarter', got {refine!r}")
    if swap is not None and mirrored is None:
        raise ValueError("swap is given without mirrored; it says which joint is which in the mirrored maps")
    ops = dispatch.operators(heatmaps)
    if mirrored is not None:
        swap = _check_mirrored(heatmaps, mirrored, swap)
        fused = ops is not None and heatmaps.device.type == "cuda" and not torch.is_grad_enabled()
        if fused:  # with a gradient, or on the CPU, the mean is worth its memory
            return ops.heatmap_argmax_mirrored(heatmaps, mirrored, swap, refine == "quarter")
        heatmaps = reference.mirrored_mean(heatmaps, mirrored, swap)
    if ops is None:
        return reference.heatmap_argmax(heatmaps, refine == "quarter")
    coords, scores, _ = ops.heatmap_argmax(heatmaps, refine == "quarter")
    return coords.detach(), scores


def _check_mirrored(heatmaps: Tensor, mirrored: Tensor, swap: Tensor | None) -> Tensor:
    check_shape("mirrored", mirrored, heatmaps.shape, "(N, K, H, W) as heatmaps")
    if mirrored.dtype != heatmaps.dtype:
        raise TypeError(f"mirrored must have the dtype of heatmaps, {heatmaps.dtype}, got {mirrored.dtype}")
    check_same_device("mirrored", mirrored, "heatmaps", heatmaps)
    k = heatmaps.shape[1]
    if swap is None:
        return torch.arange(k, device=heatmaps.device)
    check_shape("swap", swap, (k,), "(K,), a joint for every joint")
    if swap.dtype != torch.int64:
        raise TypeError(f"swap must have dtype int64, got {swap.dtype}")
    if k > 0 and has_values(swap):
        low, high = (int(v) for v in swap.aminmax())
        if low < 0 or high >= k:
            raise ValueError(f"swap must hold joints from 0 to {k - 1}, got {low} to {high}")
    return swap.to(heatmaps.device)


def _fake(heatmaps: Tensor, quarter: bool) -> tuple[Tensor, Tensor, Tensor]:
    n, k = heatmaps.shape[:2]
    coords = heatmaps.new_empty((n, k, 2), dtype=torch.float32)
    return coords, heatmaps.new_empty((n, k)), heatmaps.new_empty((n, k), dtype=torch.int64)


def _fake_mirrored(heatmaps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool) -> tuple[Tensor, Tensor]:
    n, k = heatmaps.shape[:2]
    return heatmaps.new_empty((n, k, 2), dtype=torch.float32), heatmaps.new_empty((n, k), dtype=wide_dtype(heatmaps))


def _fake_backward(grad_scores: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    return grad_scores.new_empty((*indices.shape, height, width))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.size = inputs[0].shape[2:]
    ctx.set_materialize_grads(False)


def _backward(ops: Any, ctx: Any, _: Any, grad_scores: Tensor | None, __: Any) -> tuple[Tensor | None, None]:
    if grad_scores is None:
        return None, None
    (indices,) = ctx.saved_tensors
    return ops.heatmap_argmax_backward(grad_scores, indices, *ctx.size), None


def _scores_at(heatmaps: Tensor, indices: Tensor) -> Tensor:
    return heatmaps.flatten(2).gather(2, indices.unsqueeze(2)).squeeze(2)


def _composite(ops: Any, heatmaps: Tensor, quarter: bool) -> tuple[Tensor, Tensor, Tensor]:
    coords, _, indices = ops.heatmap_argmax(heatmaps.detach(), quarter)
    return coords, _scores_at(heatmaps, indices), indices


def _composite_mirrored(
    ops: Any, heatmaps: Tensor, mirrored: Tensor, swap: Tensor, quarter: bool
) -> tuple[Tensor, Tensor]:
    coords, scores, _ = ops.heatmap_argmax(reference.mirrored_mean(heatmaps, mirrored, swap), quarter)
    return coords.detach(), scores


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _double_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _scores_at(grad, *ctx.saved_tensors), None, None, None


describe("heatmap_argmax", _fake, save=_save, backward=_backward, composite=_composite, batched=folded({"heatmaps": 0}))
describe(
    "heatmap_argmax_backward", _fake_backward, save=_save_backward, backward=_double_backward, linear=["grad_scores"],
    batched=folded({"grad_scores": 0, "indices": 0}),
)  # fmt: skip
describe(
    "heatmap_argmax_mirrored", _fake_mirrored, composite=_composite_mirrored,
    batched=folded({"heatmaps": 0, "mirrored": 0}),
)  # fmt: skip
