"""heatmap_argmax: the same rule on every backend, layout and dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
BACKENDS = [pytest.param("reference"), pytest.param("native", marks=native)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [
    (2, 14, 32, 32),
    (3, 5, 7, 9),
    (1, 1, 1, 1),
    (2, 16, 64, 48),
    (2, 3, 1, 70),
    (5, 28, 13, 17),
    (1, 2, 2, 2),
]


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values in other strides."""
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": torch.cat([x, x], 3)[..., : x.shape[3]],
        "permuted": x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    }


def by_hand(x: Tensor, quarter: bool) -> tuple[list[float], float]:
    """The docstring's rule for one map, element by element."""
    h, w = x.shape
    values = x.double().flatten().tolist()
    best = next((i for i, v in enumerate(values) if v != v), None)
    if best is None:
        best = values.index(max(values))
    row, column = divmod(best, w)
    place = [float(column), float(row)]
    for axis, (at, size, stride) in enumerate(((column, w, 1), (row, h, w))):
        if quarter and 0 < at < size - 1:
            ahead, behind = values[best + stride], values[best - stride]
            place[axis] += 0.25 if ahead > behind else -0.25 if ahead < behind else 0.0
    return place, values[best]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_rule_with_ties(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).mul(2).round().to(dtype)  # whole numbers: many ties
    for refine in ("none", "quarter"):
        for name, maps in layouts(x).items():
            with ops.backend(backend):
                coords, scores = ops.heatmap_argmax(maps, refine=refine)
            assert coords.dtype == torch.float32 and scores.dtype == dtype
            for n in range(shape[0]):
                for k in range(shape[1]):
                    place, value = by_hand(x[n, k], refine == "quarter")
                    assert coords[n, k].tolist() == place, (name, refine)
                    assert scores[n, k].item() == value


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_nan_wins_and_infinities_are_numbers(channels: int, channels_last: bool, backend: str) -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.randn(2, channels, 6, 35)
    x[0, 0] = -inf  # index 0
    x[1, 0, 2, 3] = nan
    x[1, 0, 4, 30] = nan  # the first of two
    x[1, -1, 1, 1] = inf
    x[0, -1, 5, 34] = inf
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with ops.backend(backend):
        coords, scores = ops.heatmap_argmax(x, refine="quarter")
    for n in range(2):
        for k in range(channels):
            place, _ = by_hand(x[n, k], True)
            assert coords[n, k].tolist() == place, (n, k)
    assert scores[1, 0].isnan()
    zeros = torch.tensor([[[[-0.0, 0.0, -0.0]]]])
    with ops.backend(backend):
        assert ops.heatmap_argmax(zeros)[0].tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty_batches(shape: tuple[int, ...], backend: str) -> None:
    with ops.backend(backend):
        coords, scores = ops.heatmap_argmax(torch.randn(shape, requires_grad=True), refine="quarter")
    assert coords.shape == (*shape[:2], 2) and scores.shape == shape[:2]
    scores.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_score_has_a_gradient_and_the_position_none(backend: str) -> None:
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    with ops.backend(backend):
        coords, scores = ops.heatmap_argmax(x, refine="quarter")
    assert not coords.requires_grad
    scores.backward(torch.arange(1.0, 7).view(3, 2).t())  # a gradient with strides of its own
    assert x.grad is not None
    expected = torch.zeros_like(x)
    weights = torch.arange(1.0, 7).view(3, 2).t()
    for n in range(2):
        for k in range(3):
            i = x[n, k].flatten().argmax().item()
            expected[n, k, i // 6, i % 6] = weights[n, k]
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)


@native
def test_derivatives_and_opcheck() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda v: ops.heatmap_argmax(v)[1], (x,), check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda v: ops.heatmap_argmax(v)[1].sin(), (x,), check_fwd_over_rev=True)
    for maps in layouts(torch.randn(2, 3, 5, 6)).values():
        torch.library.opcheck(torch.ops.pyranet_fast.heatmap_argmax.default, (maps.requires_grad_(), True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole_and_dynamic(backend: str) -> None:
    with ops.backend(backend):
        compiled = torch.compile(
            lambda x: ops.heatmap_argmax(x, refine="quarter"),
            fullgraph=True,
            dynamic=True,
            backend="aot_eager",
        )
        for shape in ((2, 3, 8, 9), (4, 3, 10, 7)):
            x, twin = (torch.manual_seed(1) and torch.randn(shape).requires_grad_() for _ in range(2))
            coords, scores = compiled(x)
            expected = ops.heatmap_argmax(twin, refine="quarter")
            assert torch.equal(coords, expected[0])
            scores.sum().backward()
            expected[1].sum().backward()
            assert torch.equal(x.grad, twin.grad)


def test_autocast_leaves_values_alone() -> None:
    x = torch.randn(1, 2, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coords, scores = ops.heatmap_argmax(x)
    assert coords.dtype == scores.dtype == torch.float32
    assert torch.equal(scores, x.amax((2, 3)))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"heatmaps must be a 4-D tensor .*, got shape \(3, 4\)"):
        ops.heatmap_argmax(torch.randn(3, 4))
    with pytest.raises(TypeError, match=r"heatmaps must have dtype .*, got int32"):
        ops.heatmap_argmax(torch.ones(1, 1, 2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="height and width of at least 1"):
        ops.heatmap_argmax(torch.randn(1, 1, 0, 2))
    with pytest.raises(ValueError, match="refine must be 'none' or 'quarter', got 'half'"):
        ops.heatmap_argmax(torch.randn(1, 1, 2, 2), refine="half")
