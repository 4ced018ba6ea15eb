"""The CUDA kernel of gaussian_heatmaps, run by the emulator, against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast.ops import reference
from tests.emulator.emulation import draw_joints, name_of, to_numpy, to_torch, ways
from tests.ops.testing import assert_close

WAYS = ways()


def check_gaussians(
    emulator: ModuleType, joints: Tensor, weight: Tensor, size: tuple[int, int], settings: dict[str, Any]
) -> None:
    how = {**next(WAYS), **settings}
    dtype = joints.dtype
    got = to_torch(
        emulator.gaussian_heatmaps(name_of(dtype), to_numpy(joints), to_numpy(weight), *size, 1.7, how), dtype
    )
    assert_close(got, reference.gaussian_heatmaps(joints, weight, size, 1.7))
    assert not got[weight == 0].any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded"])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 5), (64, 48), (2, 1), (130, 8), (1, 6300)], ids=str)
def test_gaussians(
    emulator: ModuleType, size: tuple[int, int], dtype: torch.dtype, weight_dtype: torch.dtype, layout: str
) -> None:
    joints, weight = draw_joints((2, 3, *size))
    joints[1, 1], weight[1, 1] = torch.nan, 0  # nobody knows where
    weight[0, 2] = 0
    check_gaussians(emulator, joints.to(dtype), weight.to(weight_dtype), size, {"layout": layout})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded"])
def test_more_maps_than_blocks(emulator: ModuleType, layout: str) -> None:
    joints, weight = (x.float() for x in draw_joints((300, 2, 5, 4)))
    check_gaussians(emulator, joints, weight.sub(0.2).relu(), (5, 4), {"threads": 32, "layout": layout})
