"""Triton's Gaussian target maps, in its interpreter, against plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyranet_fast import ops
from tests.ops.testing import (
    NAN,
    assert_close,
    compile_in_subprocess,
    example,
    heatmaps_as_if_huge,
    on,
    spoilt,
    triton_marks,
)

__all__ = ["spoilt"]
pytestmark = triton_marks


@pytest.mark.usefixtures("spoilt")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("small", [False, True], ids=["natural tiles", "small tiles"])
def test_gaussians(small: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        heatmaps_as_if_huge(monkeypatch)
    for shape in ((2, 3, 9, 7), (1, 1, 1, 1), (1, 2, 1, 19), (1, 2, 19, 1), (1, 1, 40, 70)):
        _, joints, weight = example(shape, dtype)
        joints[(weight == 0).nonzero(as_tuple=True)] = NAN
        expected = on("reference", ops.gaussian_heatmaps, joints, weight, shape[2:], sigma=1.7)
        strided = joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t()
        for j, w in ((joints, weight.double()), (strided[0], strided[1].float())):
            maps = on("triton", ops.gaussian_heatmaps, j, w, shape[2:], sigma=1.7)
            assert maps.dtype == dtype and maps.is_contiguous()
            assert_close(maps, expected)
            assert not maps[weight == 0].any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    joints, weight = torch.zeros(*shape[:2], 2), torch.ones(shape[:2])
    assert on("triton", ops.gaussian_heatmaps, joints, weight, (4, 4)).shape == shape


def test_opcheck() -> None:
    _, joints, weight = example((2, 3, 4, 5))
    torch.library.opcheck(torch.ops.pyranet_fast_triton.gaussian_heatmaps.default, (joints, weight, 4, 5, 1.0))


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert len(compile_in_subprocess("gaussian_heatmaps", tmp_path)) == 3
