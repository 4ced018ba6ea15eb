"""Levels on a canvas against levels by themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyranet_fast import ops

SIZES = [(53, 53), (45, 45), (38, 38), (32, 32)]


def test_the_models_canvas_is_the_designs() -> None:
    canvas = ops.canvas_of(SIZES)
    assert (canvas.height, canvas.width) == (92, 99)
    assert canvas.places == ((0, 0, 53, 53), (0, 54, 45, 45), (54, 0, 38, 38), (54, 39, 32, 32))


@pytest.mark.parametrize("count", range(1, 10))
def test_levels_fit_and_keep_a_pixel_between_them(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    sizes = [tuple(torch.randint(1, 9, (2,), generator=generator).tolist()) for _ in range(count)]
    canvas = ops.canvas_of(sizes)
    taken = torch.zeros(canvas.height + 2, canvas.width + 2, dtype=torch.int64)
    for (y, x, h, w), size in zip(canvas.places, sizes, strict=True):
        assert (h, w) == size and y + h <= canvas.height and x + w <= canvas.width
        assert not taken[y : y + h + 2, x : x + w + 2].any(), "a neighbour is nearer than a pixel"
        taken[y + 1 : y + h + 1, x + 1 : x + w + 1] = 1
    assert canvas.flat == [number for place in canvas.places for number in place]


def test_no_levels_is_an_error() -> None:
    with pytest.raises(ValueError, match="sizes must be a list of at least one"):
        ops.canvas_of([])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [False, True])
def test_one_convolution_on_the_canvas_is_one_a_level(layout: torch.memory_format, affine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 16, 18, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    base = torch.randn(2, 6, 16, 18, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 6, 3, 3, generator=generator, dtype=torch.float64)
    bias, scale, shift = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(3))
    sizes = [(13, 15), (11, 12), (9, 10), (8, 9)]
    samples = torch.rand(4, 2, 6, 2, generator=generator)
    leaves = [t.requires_grad_() for t in (x, base, weight, bias, scale, shift)]
    more = {"scale": scale, "shift": shift, "relu": True} if affine else {}

    levels = ops.fractional_max_pool_pyramid(x, sizes, samples, **more)
    filtered = [F.conv2d(level, weight, bias, padding=1) for level in levels]
    expected = ops.upsample_sum(filtered, (16, 18), base=base)
    canvas = ops.canvas_of(sizes)
    pooled = ops.fractional_max_pool_canvas(x, canvas, samples, **more)
    assert pooled.is_contiguous(memory_format=layout)
    got = ops.upsample_sum_canvas(F.conv2d(pooled, weight, bias, padding=1), canvas, (16, 18), base=base)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    used = leaves if affine else leaves[:4]
    for a, b in zip(torch.autograd.grad(got, used, grad), torch.autograd.grad(expected, used, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_map_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"maps must have shape .* = \(1, 2, 92, 99\), got \(1, 2, 3, 3\)"):
        ops.upsample_sum_canvas(torch.zeros(1, 2, 3, 3), ops.canvas_of(SIZES), (64, 64))
