"""The CUDA kernels of shared_batch_norm_relu, run by the emulator, against PyTorch's batch norms in double."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.emulator.emulation import DTYPES, draw, name_of, to_numpy, to_torch, ways, wide_of

WAYS = ways()
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
EPS = 1e-5


@pytest.mark.parametrize("layout", ["channels_last", "channels_last_off"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms, missing, skip", [(1, None, False), (2, None, True), (3, 1, True), (3, None, False)])
@pytest.mark.parametrize("shape", [(2, 28, 9, 11), (3, 7, 5, 4), (1, 136, 12, 10), (2, 3, 40, 30)], ids=str)
def test_equals_norms_one_by_one(
    emulator: ModuleType,
    shape: tuple[int, ...],
    norms: int,
    missing: int | None,
    skip: bool,
    dtype: torch.dtype,
    layout: str,
) -> None:
    how: dict[str, Any] = {**next(WAYS), "layout": layout}
    name, wide, c = name_of(dtype), wide_of(dtype), shape[1]
    x = (draw(shape, torch.float64, 0) * 3 + 20).to(dtype)
    weight, bias = draw((norms, c), wide, 1), draw((norms, c), wide, 2)
    grads = [None if j == missing else draw(shape, dtype, 3 + j) for j in range(norms)]
    extra = draw(shape, dtype, 9) if skip else None
    vectors = to_numpy(weight), to_numpy(bias)
    outputs, mean, var = emulator.shared_batch_norm_relu(name, to_numpy(x), *vectors, EPS, how)
    arguments = (name, [None if g is None else to_numpy(g) for g in grads], None if extra is None else to_numpy(extra))
    arguments += (to_numpy(x), *vectors, mean, var, EPS)
    found = emulator.shared_batch_norm_relu_backward(*arguments, how)
    for one, two in zip(
        found,
        emulator.shared_batch_norm_relu_backward(*arguments, {**how, "seed": 77, "order": "backward"}),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two, "two orders of blocks and threads, other bits")

    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = [
        F.relu(F.batch_norm(leaves[0], None, None, w, b, True, 0.1, EPS)) for w, b in zip(*leaves[1:], strict=True)
    ]
    read = [(y, g.double()) for y, g in zip(expected, grads, strict=True) if g is not None]
    if extra is not None:
        read.append((leaves[0] * 1, extra.double()))
    torch.autograd.backward([y for y, _ in read], [g for _, g in read])
    expected_var, expected_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    pairs = [
        *((y, e.detach(), dtype) for y, e in zip(outputs, expected, strict=True)),
        (found[0], leaves[0].grad, dtype),
    ]
    pairs += [(found[1], leaves[1].grad, wide), (found[2], leaves[2].grad, wide)]
    pairs += [(mean, expected_mean, wide), (var, expected_var, wide)]
    for number, (got, exact, kind) in enumerate(pairs):
        assert exact is not None
        tolerance = 2 * (ROUNDING[dtype] if kind == dtype else 2e-5)
        torch.testing.assert_close(
            to_torch(got, kind).double(),
            exact,
            rtol=tolerance,
            atol=tolerance * exact.abs().max().item(),
            msg=str(number),
        )
