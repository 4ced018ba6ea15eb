"""Triton's add_affine_relu, in its interpreter, against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import dispatch
from tests.ops.testing import DTYPES, compile_in_subprocess, huge, in_layout, on, spoilt, triton_marks

__all__ = ["huge", "spoilt"]
pytestmark = triton_marks
# The interpreter cuts bfloat16 off, where a GPU rounds to nearest: a unit of its last place.
ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2**-6, torch.float16: 2**-9}
CASES = [  # layouts of x and of other, shape of the sum, norms, whether the sum is kept
    ("channels_last", "channels_last", (2, 28, 6, 4), 3, True),
    ("channels_last", None, (1, 14, 5, 3), 2, False),
    ("contiguous", "channels_last", (1, 3, 4, 6), 1, False),
    ("sliced channels_last", "sliced", (1, 5, 2, 4), 1, True),
    ("permuted", "contiguous", (2, 1, 2, 2), 0, True),
    ("expanded 3", "scalar", (1, 7, 2, 6), 4, False),
]


def draw(*shape: int, seed: int) -> Tensor:
    """Few digits, so that no precision rounds a sum."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(8).round() / 8


def compare(case: Any, dtype: torch.dtype, half: bool) -> None:
    of_x, of_other, (n, c, h, w), outputs, keep = case
    wide = torch.promote_types(dtype, torch.float32)
    x = draw(n, c, h // 2, w // 2, seed=0) if half else draw(n, c, h, w, seed=0)
    x = in_layout(of_x, x.to(dtype))
    other = None if of_other is None else in_layout(of_other, draw(n, c, h, w, seed=1).to(dtype))
    vectors = [draw(outputs, c, seed=s).to(wide) for s in (2, 3)]
    expected = on("reference", ops.add_affine_relu, x, other, *vectors, keep=keep)
    got = on("triton", ops.add_affine_relu, x, other, *vectors, keep=keep)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype and a.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=ALLOWED[dtype], atol=ALLOWED[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case: Any, dtype: torch.dtype, spoilt: None) -> None:
    compare(case, dtype, half=False)
    if case[1] is not None:
        compare(case, dtype, half=True)


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_values_as_if_huge(case: Any, huge: None) -> None:
    compare(case, torch.float32, half=case[1] is not None)


def test_nan_stays_and_empty_batches() -> None:
    x = torch.randn(1, 20, 2, 2)
    x[0, 3, 1, 1] = torch.nan
    one, zero = torch.ones(1, 20), torch.zeros(1, 20)
    (y,) = on("triton", ops.add_affine_relu, x, None, one, zero)
    assert torch.equal(y.isnan(), x.isnan())
    assert on("triton", ops.add_affine_relu, x[:0], None, one, zero)[0].shape == (0, 20, 2, 2)


def test_opcheck() -> None:
    assert dispatch.triton().here
    x, other = draw(2, 3, 2, 3, seed=0), draw(2, 3, 4, 6, seed=1)
    vectors = draw(2, 3, seed=2), draw(2, 3, seed=3)
    torch.library.opcheck(torch.ops.pyranet_fast_triton.add_affine_relu.default, (x, other, *vectors, True))


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert len(compile_in_subprocess("add_affine_relu", tmp_path)) == 2
