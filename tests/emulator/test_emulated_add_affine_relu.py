"""The CUDA kernel of add_affine_relu, run by the emulator, against the reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from pyranet_fast.ops import reference
from tests.emulator.emulation import DTYPES, LAYOUTS, draw, name_of, to_numpy, to_torch, ways, wide_of
from tests.ops.testing import assert_close

WAYS = ways()
# Channels and size: packs of every width and none, groups of channels, a side of 1, several strips.
CASES = [(28, (6, 10)), (7, (2, 4)), (264, (2, 2)), (1, (34, 2))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_and_norms(
    emulator: ModuleType, case: tuple[int, tuple[int, int]], dtype: torch.dtype, layout: str
) -> None:
    c, (h, w) = case
    wide = wide_of(dtype)
    for outputs, other, keep in ((3, "twice", True), (2, "same", False), (1, None, False), (0, "twice", True)):
        x = draw((2, c, h // 2, w // 2) if other == "twice" else (2, c, h, w), dtype, 0)
        more = None if other is None else draw((2, c, h, w), dtype, 1)
        scale, shift = draw((outputs, c), wide, 2), draw((outputs, c), wide, 3)
        vectors = to_numpy(scale), to_numpy(shift)
        how = {**next(WAYS), "layout": layout}
        arguments = name_of(dtype), to_numpy(x), None if more is None else to_numpy(more), *vectors, keep
        got = emulator.add_affine_relu(*arguments, how)
        expected = reference.add_affine_relu(x, more, scale, shift, keep)
        assert len(got) == len(expected) == outputs + keep
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            if keep and i == 0:
                assert torch.equal(to_torch(a, dtype), b)
            else:
                assert_close(to_torch(a, dtype), b)
        for a, b in zip(
            got, emulator.add_affine_relu(*arguments, how | {"seed": 99, "order": "shuffled"}), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_stays(emulator: ModuleType, layout: str) -> None:
    x = draw((1, 20, 2, 2), torch.float32, 0)
    x[0, 3, 1, 1] = torch.nan
    one, zero = np.ones((1, 20), np.float32), np.zeros((1, 20), np.float32)
    (y,) = emulator.add_affine_relu("float32", to_numpy(x), None, one, zero, False, {**next(WAYS), "layout": layout})
    assert torch.equal(to_torch(y, torch.float32).isnan(), x.isnan())
