"""Bilinear upsampling of several maps to one size and their sum, in one pass (paper equation 2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import reference
from ._common import check_map, check_same_device, check_shape, check_size


def upsample_sum(
    maps: Sequence[Tensor], size: tuple[int, int], *, base: Tensor | None = None, align_corners: bool = True
) -> Tensor:
    """Sum over the maps of ``interpolate(map, size, mode="bilinear", align_corners=...)``, plus ``base``.

    Every map is read once and the output written once; the sum is taken in float32 (float64 for float64) and
    rounded once. The backward gathers, so it repeats bit for bit.

    Args:
        maps: list of (N, C, h_l, w_l), at least one, of one dtype: float32, float64, bfloat16 or float16.
            Sizes may be below, at or above ``size``.
        size: (H, W) of the output.
        base: (N, C, H, W), added if given.
        align_corners: as in ``torch.nn.functional.interpolate``; Torch7 and the paper's code align corners.

    Returns:
        (N, C, H, W) in the maps' dtype and the first map's layout.

    Raises:
        ValueError, TypeError: an argument is not as described; the sentence names it.
    """
    if len(maps) == 0:
        raise ValueError("maps is empty; a list of at least one (N, C, h, w) tensor is accepted")
    h, w = check_size("size", size)
    for i, m in enumerate(maps):
        name = f"maps[{i}]"
        check_map(name, m)
        if m.shape[:2] != maps[0].shape[:2] or m.shape[2] < 1 or m.shape[3] < 1:
            n, c = maps[0].shape[:2]
            raise ValueError(
                f"{name} has shape {tuple(m.shape)}; ({n}, {c}, h, w) as in maps[0], h and w at least 1, is accepted"
            )
        if m.dtype != maps[0].dtype:
            raise TypeError(f"{name} has dtype {m.dtype} but maps[0] has {maps[0].dtype}; one dtype is accepted")
        check_same_device(name, m, "maps[0]", maps[0])
    if base is not None:
        check_map("base", base)
        check_shape("base", base, (*maps[0].shape[:2], h, w), "(N, C, H, W)")
        if base.dtype != maps[0].dtype:
            raise TypeError(f"base has dtype {base.dtype} but maps[0] has {maps[0].dtype}; one dtype is accepted")
        check_same_device("base", base, "maps[0]", maps[0])
    return reference.upsample_sum(maps, (h, w), base, align_corners)
