"""Joint positions from score maps: argmax and quarter-pixel refinement in one pass (FACTS: single-scale decoding)."""

from __future__ import annotations

from torch import Tensor

from . import reference
from ._common import check_map


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
    return reference.heatmap_argmax(heatmaps, refine == "quarter")
