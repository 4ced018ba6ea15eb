"""The CUDA kernels of fractional_max_pool_pyramid, run by the emulator, against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyranet_fast.ops import reference
from tests.emulator.emulation import DTYPES, LAYOUTS, draw, name_of, to_numpy, to_torch, ways
from tests.ops.testing import assert_close

WAYS = ways()
# channels, (H, W), levels: the model's channels and odd ones, one level and many, size 1, ratio near 1 and 1/2
CASES = [
    (28, (9, 11), [(8, 9), (6, 7), (5, 5), (4, 5)]),
    (14, (8, 8), [(7, 7), (4, 4)]),
    (7, (16, 13), [(13, 10), (11, 9), (9, 7), (8, 6)]),
    (1, (33, 40), [(26, 32), (20, 20), (1, 1)]),
    (33, (3, 5), [(1, 4), (2, 1)]),
    (2, (2, 2), [(1, 1)]),
    (3, (20, 19), [(19, 18)] * 5),
]


def pool_in_float(
    x: Tensor, sizes: list[tuple[int, int]], samples: Tensor, affine: dict[str, Any]
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The reference's inputs that want gradients, and its values."""
    wide = torch.promote_types(x.dtype, torch.float32)
    leaf = x.to(wide).clone().requires_grad_()
    vectors = {k: v.to(wide).clone().requires_grad_() for k, v in affine.items() if isinstance(v, Tensor)}
    values = reference.fractional_max_pool_pyramid(
        leaf, sizes, samples.to(wide), vectors.get("scale"), vectors.get("shift"), affine.get("relu", False)
    )
    return leaf, values, vectors


def check(
    emulator: ModuleType,
    x: Tensor,
    sizes: list[tuple[int, int]],
    samples: Tensor,
    layout: str,
    affine: dict[str, Any],
    **settings: int,
) -> None:
    """Values exact (rounded once), gradients of everything close."""
    how = {**next(WAYS), "layout": layout, **settings}
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)
    u = to_numpy(samples.to(wide))
    vectors = [None if affine.get(k) is None else to_numpy(affine[k].to(wide)) for k in ("scale", "shift")]
    relu = affine.get("relu", False)
    got, positions = emulator.fractional_max_pool_pyramid(
        name_of(dtype), to_numpy(x), u, sizes, *vectors, relu, True, how
    )
    leaf, expected, leaves = pool_in_float(x, sizes, samples, affine)
    for a, b in zip(got, expected, strict=True):
        if affine:
            assert_close(to_torch(a, dtype), b.detach())
        else:
            torch.testing.assert_close(to_torch(a, dtype), b.detach().to(dtype), rtol=0, atol=0, equal_nan=True)
    assert (positions[:, :, -1] == 0).all() and (positions[:, :, :, -1] == 0).all()
    alone, none = emulator.fractional_max_pool_pyramid(
        name_of(dtype), to_numpy(x), u, sizes, *vectors, relu, False, {**how, **next(WAYS)}
    )
    assert none is None
    for a, b in zip(alone, got, strict=True):
        np.testing.assert_array_equal(a, b)

    generator = torch.Generator().manual_seed(5)
    grads = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(dtype) for v in expected]
    torch.autograd.backward(expected, [g.to(wide) for g in grads])
    arguments = (name_of(dtype), [to_numpy(g) for g in grads], positions, u, to_numpy(x) if affine else None)
    grad_x, sums = emulator.fractional_max_pool_pyramid_backward(*arguments, *vectors, relu, how)
    assert leaf.grad is not None
    assert_close(to_torch(grad_x, dtype), leaf.grad)  # NaN equals NaN
    again, sums_again = emulator.fractional_max_pool_pyramid_backward(*arguments, *vectors, relu, how | {"seed": 77})
    np.testing.assert_array_equal(grad_x, again, "two orders of blocks and threads, other bits")
    for i, name in enumerate(("scale", "shift")):
        if name in leaves:
            np.testing.assert_array_equal(sums[i], sums_again[i])
            size = float(leaf.numel()) ** 0.5
            torch.testing.assert_close(
                torch.from_numpy(sums[i]), leaves[name].grad, rtol=1e-4, atol=1e-5 * size, equal_nan=True
            )


def draw_samples(levels: int, n: int, c: int, seed: int = 1) -> Tensor:
    return torch.rand(levels, n, c, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_plain(emulator: ModuleType, case: Any, dtype: torch.dtype, layout: str, shared: bool) -> None:
    c, size, levels = case
    samples = draw_samples(len(levels), 2, 1 if shared else c)
    check(emulator, draw((2, c, *size), dtype, 0), levels, samples, layout, {})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "present", [("scale", "shift", "relu"), ("scale",), ("shift", "relu"), ("relu",)], ids="+".join
)
def test_affine(emulator: ModuleType, present: tuple[str, ...], dtype: torch.dtype, layout: str, shared: bool) -> None:
    c, size, levels = CASES[1]
    x = draw((2, c, *size), dtype, 0)
    x[0, 1, 3, 2], x[1, 2, 0, 0] = torch.nan, torch.inf
    affine: dict[str, Any] = {"scale": draw((c,), torch.float32, 2), "shift": draw((c,), torch.float32, 3)}
    affine = {k: v for k, v in affine.items() if k in present} | {"relu": "relu" in present}
    check(emulator, x, levels, draw_samples(len(levels), 1 if shared else 2, 1 if shared else c), layout, affine)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 2.0**-24])
def test_ties_nan_infinities_and_extreme_samples(emulator: ModuleType, layout: str, u: float) -> None:
    x = draw((1, 4, 12, 12), torch.float32, 0).round()  # few different values: ties
    x[0, 0, 3, 4] = x[0, 1, 0, 0] = x[0, 1, 5, 5] = x[0, 1, 5, 6] = torch.nan
    x[0, 2] = -torch.inf
    x[0, 3, ::3] = torch.inf
    check(emulator, x, [(11, 11), (6, 7), (9, 1)], torch.full((3, 1, 4, 2), u), layout, {})


def test_samples_outside_the_range_stay_inside_the_map(emulator: ModuleType) -> None:
    samples = torch.tensor([[-1.0, 2.0], [torch.nan, torch.inf]]).view(1, 1, 2, 2)
    x = draw((1, 2, 6, 6), torch.float32, 0)
    for side in ("end", "start"):
        emulator.fractional_max_pool_pyramid(
            "float32", to_numpy(x), to_numpy(samples), [(4, 5)], None, None, False, True, {"side": side}
        )


def test_many_blocks_of_a_larger_map(emulator: ModuleType) -> None:
    levels = [(53, 53), (45, 45), (38, 38), (32, 32)]
    check(emulator, draw((1, 2, 64, 64), torch.float32, 0), levels, draw_samples(4, 1, 2), "contiguous", {})


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_one_block_of_many_workers_takes_on_every_task(emulator: ModuleType, layout: str) -> None:
    affine = {"scale": draw((8,), torch.float32, 2), "shift": draw((8,), torch.float32, 3), "relu": True}
    x, samples = draw((3, 8, 12, 11), torch.float32, 0), draw_samples(2, 3, 8)
    for seed in range(4):
        check(emulator, x, [(9, 9), (5, 4)], samples, layout, affine, blocks=1, threads=128, seed=seed)
        check(emulator, x, [(9, 9), (5, 4)], samples, layout, {}, blocks=1, threads=128, seed=seed)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "shape, levels",
    [
        pytest.param((2, 28, 3, 300), [(2, 250), (2, 200), (1, 150), (2, 299)], id="a table of fewer channels fits"),
        pytest.param((1, 3, 300, 3), [(250, 2), (200, 1), (150, 2), (299, 2)], id="many rows"),
        pytest.param((1, 2, 2, 9000), [(1, 8000), (1, 7000), (1, 4600)], id="no table fits for each channel"),
        pytest.param((1, 2, 2, 800), [(1, 700)] * 32, id="no table fits at all"),
        pytest.param((1, 1, 66000, 2), [(65999, 1)], id="more windows than 16 bits number"),
    ],
)
def test_large_tables_of_windows(
    emulator: ModuleType, shape: tuple[int, ...], levels: list[tuple[int, int]], layout: str, shared: bool
) -> None:
    samples = draw_samples(len(levels), shape[0], 1 if shared else shape[1])
    check(emulator, draw(shape, torch.float32, 0), levels, samples, layout, {})


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradients_of_many_channels_out_of_many_parts(emulator: ModuleType, layout: str) -> None:
    affine = {"scale": draw((70,), torch.float32, 2), "shift": draw((70,), torch.float32, 3), "relu": True}
    x, samples = draw((4, 70, 9, 8), torch.float32, 0), draw_samples(2, 4, 1)
    for fill in (1, 264):
        check(emulator, x, [(7, 7), (4, 4)], samples, layout, affine, fill=fill)
