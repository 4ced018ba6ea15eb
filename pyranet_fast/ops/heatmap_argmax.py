"""Joint positions from score maps: argmax and quarter-pixel refinement in one pass (FACTS: single-scale decoding)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _backend, reference
from ._common import check_map, raise_double_backward


def heatmap_argmax(heatmaps: Tensor, *, refine: str = "none") -> tuple[Tensor, Tensor]:
    """Position and value of the maximum of every map.

    The lowest flat index wins ties, NaN wins over numbers.

    Args:
        heatmaps: (N, K, H, W), float32, float64, bfloat16 or float16, H and W at least 1.
        refine: ``"none"``, or ``"quarter"``: move 0.25 px toward the larger neighbour on each axis, only where
            the maximum is off that axis's border; equal neighbours (or a NaN) do not move it.

    Returns:
        ``(coords, scores)``: coords (N, K, 2) float32, x and y in map pixels, without gradient; scores (N, K)
        in the maps' dtype, whose gradient goes to the pixel of the maximum.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    check_map("heatmaps", heatmaps)
    if heatmaps.shape[2] < 1 or heatmaps.shape[3] < 1:
        raise ValueError(f"heatmaps has shape {tuple(heatmaps.shape)}; height and width of at least 1 are accepted")
    if refine not in ("none", "quarter"):
        raise ValueError(f"refine is {refine!r}; accepted are 'none', 'quarter'")
    if not _backend.use_native(heatmaps):
        return reference.heatmap_argmax(heatmaps, refine == "quarter")
    coords, scores, _ = torch.ops.pyranet_fast.heatmap_argmax(heatmaps, refine == "quarter")
    return coords.detach(), scores


def _fake(heatmaps: Tensor, quarter: bool) -> tuple[Tensor, Tensor, Tensor]:
    n, k = heatmaps.shape[:2]
    coords = heatmaps.new_empty((n, k, 2), dtype=torch.float32)
    return coords, heatmaps.new_empty((n, k)), heatmaps.new_empty((n, k), dtype=torch.int64)


def _fake_backward(grad_scores: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    return grad_scores.new_empty((*indices.shape, height, width))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.size = inputs[0].shape[2:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, _: Any, grad_scores: Tensor | None, __: Any) -> tuple[Tensor | None, None]:
    if grad_scores is None:
        return None, None
    (indices,) = ctx.saved_tensors
    return torch.ops.pyranet_fast.heatmap_argmax_backward(grad_scores, indices, *ctx.size), None


if _backend.native_error is None:
    torch.library.register_fake("pyranet_fast::heatmap_argmax", _fake)
    torch.library.register_fake("pyranet_fast::heatmap_argmax_backward", _fake_backward)
    torch.library.register_autograd("pyranet_fast::heatmap_argmax", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "pyranet_fast::heatmap_argmax_backward", lambda ctx, *grads: raise_double_backward("heatmap_argmax")
    )
