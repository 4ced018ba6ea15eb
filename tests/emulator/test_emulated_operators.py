"""The operators of csrc/cuda/*.cu, host functions included, on CPU tensors in the emulator.

Their parity with the reference is that of tests/gpu, on a choice of its cases in which every dtype meets every layout;
wrong arguments are refused in the sentence of the CPU's operators.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from tests.emulator.conftest import EMULATED
from tests.emulator.emulation import ways
from tests.gpu import test_gpu_parity as parity
from tests.ops import direct_calls

DTYPES, LAYOUTS = parity.DTYPES, parity.LAYOUTS
PAIRS = list(itertools.product(DTYPES, LAYOUTS))
# Each pair with one shape, each layout with all: odd sizes, one channel, many, a level of one pixel.
SHAPED = [(*pair, parity.SHAPES[2:][(i + i // 4) % 4]) for i, pair in enumerate(PAIRS)]
SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
CUDA_ONLY = (
    "fractional_max_pool_canvas",
    "heatmap_argmax_mirrored",
    "upsample_sum_affine",
    "upsample_sum_canvas",
    "upsample_sum_canvas_backward",
)
"""Operators without a kernel for the CPU."""
WAYS = ways()


@pytest.fixture(autouse=True)
def emulated(operators: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors that go to the GPU stay, and kernels run in another way in every test; some kernel does run."""
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    operators.configure(next(WAYS))
    yield
    assert operators.launches()


def emulated_ops() -> Any:
    return getattr(torch.ops, EMULATED)


def registered() -> set[str]:
    """The operators that csrc/cuda registers."""
    return set(re.findall(r'm\.impl\("(\w+)"', "".join(p.read_text() for p in SOURCES.glob("*.cu"))))


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "layout", "case"), SHAPED)
def test_pool(dtype: torch.dtype, layout: str, case: Any) -> None:
    for shared in (False, True):
        parity.test_pool("native", case, dtype, layout, shared)


@pytest.mark.parametrize(("dtype", "layout", "case"), SHAPED)
def test_upsample_sum(dtype: torch.dtype, layout: str, case: Any) -> None:
    for align_corners in (True, False):
        parity.test_upsample_sum("native", case, dtype, layout, align_corners)


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
def test_pool_with_affine(dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SHAPES", [None, (2, 14, (9, 11), [(7, 9), (5, 5)])])
    parity.test_pool_with_affine("native", dtype, layout)


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
def test_argmax(dtype: torch.dtype, layout: str) -> None:
    for size, refine in (((17, 23), "quarter"), ((1, 1), "none")):
        parity.test_argmax("native", size, dtype, layout, refine)


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
def test_loss_and_targets(dtype: torch.dtype, layout: str) -> None:
    for size in ((17, 23), (1, 1)):
        parity.test_loss_and_targets("native", size, dtype, layout)


@pytest.mark.parametrize(("dtype", "layout"), [pair for pair in PAIRS if pair[1] != "permuted"])
def test_add_affine_relu(dtype: torch.dtype, layout: str) -> None:
    for outputs, other in ((1, None), (3, "twice"), (5, "same")):
        parity.test_add_affine_relu("native", outputs, dtype, layout, other)


def test_the_networks_shape() -> None:
    parity.test_pool("native", (1, 28, (64, 64), parity.PYRAMID), torch.bfloat16, "channels_last", False)
    parity.test_upsample_sum("native", (1, 28, (64, 64), parity.PYRAMID), torch.bfloat16, "channels_last", True)


def test_empty_batches() -> None:
    parity.test_empty_batches("native")
    empty = [torch.zeros(0, 3, 8, 8), torch.zeros(2, 0, 8, 8)]
    for x in (*empty, *(x.to(memory_format=torch.channels_last) for x in empty)):
        n, c = x.shape[:2]
        vectors = torch.zeros(2, c)
        assert [y.shape for y in emulated_ops().add_affine_relu(x, None, vectors, vectors, True)] == [x.shape] * 3
        assert emulated_ops().gaussian_heatmaps(torch.zeros(n, c, 2), torch.zeros(n, c), 4, 5, 1.0).shape[2:] == (4, 5)
        samples = torch.zeros(1, n or 1, c or 1, 2)
        (level,), positions = emulated_ops().fractional_max_pool_pyramid(
            x, samples, [4, 5], vectors[0], vectors[1], True, True
        )
        assert level.shape == (n, c, 4, 5) and positions.shape == x.shape
        _, *sums = emulated_ops().fractional_max_pool_pyramid_backward(
            [level], positions, samples, x, vectors[0], vectors[1], True
        )
        assert all(s.shape == (c,) and not s.any() for s in sums)
        whole, _ = emulated_ops().fractional_max_pool_canvas(x, samples, [0, 0, 4, 5], 4, 6, None, None, False, False)
        assert emulated_ops().upsample_sum_canvas(whole, [0, 0, 4, 5], 8, 8, None, True).shape == x.shape
        assert emulated_ops().upsample_sum_canvas_backward(x, [0, 0, 4, 5], 4, 6, True).shape == whole.shape
        assert emulated_ops().heatmap_loss(x, torch.zeros(n, c, 2), torch.zeros(n, c), 1.0) == 0
        assert emulated_ops().heatmap_argmax_mirrored(x, x, torch.arange(c), True)[1].shape == (n, c)
    emulated_ops().heatmap_argmax(torch.zeros(1, 1, 1, 1), True)  # one launch


# --- what only CUDA has ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "layout"), [pair for pair in PAIRS if pair[1] != "permuted"])
def test_upsample_sum_with_affine(dtype: torch.dtype, layout: str) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    maps = [parity.draw((2, 14, 9, 11), dtype, 0), parity.draw((2, 14, 5, 4), dtype, 1)]
    base = parity.draw((2, 14, 13, 12), dtype, 4)
    scale, shift = parity.draw((28,), torch.float32, 2)[::2], parity.draw((14,), torch.float16, 3)
    with ops.backend("reference"):
        expected = ops.upsample_sum(
            [m.to(wide) for m in maps], (13, 12), base=base.to(wide), scale=scale, shift=shift, relu=True
        )
    got = emulated_ops().upsample_sum_affine(
        [parity.arrange(m, layout) for m in maps], 13, 12, parity.arrange(base, layout), True, scale, shift, True
    )
    rtol = parity.TOLERANCES[dtype][0]
    torch.testing.assert_close(got.double(), expected.double(), rtol=3 * rtol, atol=max(2e-2 * rtol, 1e-5))


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
def test_canvas(dtype: torch.dtype, layout: str) -> None:
    """On a canvas everything is what it is without, to the bit; between the levels there are zeros."""
    n, c, size, levels = 2, 14, (16, 17), [(13, 14), (11, 12), (9, 9)]
    canvas = ops.canvas_of(levels)
    flat, samples = [side for level in levels for side in level], torch.rand(3, n, c, 2)
    x = parity.arrange(parity.draw((n, c, *size), dtype, 0), layout)
    scale, shift = torch.randn(c), torch.randn(c)
    whole, positions = emulated_ops().fractional_max_pool_canvas(
        x, samples, canvas.flat, canvas.height, canvas.width, scale, shift, True, True
    )
    values, others = emulated_ops().fractional_max_pool_pyramid(x, samples, flat, scale, shift, True, True)
    assert torch.equal(positions, others)
    grad = parity.arrange(parity.draw((n, c, *size), dtype, 1), layout)
    down = emulated_ops().upsample_sum_canvas_backward(grad, canvas.flat, canvas.height, canvas.width, True)
    grads = emulated_ops().upsample_sum_backward(grad, flat, True)
    for on_canvas, apart in ((whole, values), (down, grads)):
        assert all(map(torch.equal, canvas.views(on_canvas), apart))
        between = torch.ones_like(on_canvas, dtype=torch.bool)
        for view in canvas.views(between):
            view.fill_(False)
        assert not on_canvas[between].any()
    up = emulated_ops().upsample_sum_canvas(whole, canvas.flat, *size, x, True)
    assert torch.equal(up, emulated_ops().upsample_sum(values, *size, x, True))
    rest = positions, samples, x, scale, shift, True
    of_views = emulated_ops().fractional_max_pool_pyramid_backward(canvas.views(down), *rest)
    assert all(map(torch.equal, of_views, emulated_ops().fractional_max_pool_pyramid_backward(grads, *rest)))


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
def test_argmax_of_mirrored_maps(dtype: torch.dtype, layout: str) -> None:
    maps, mirrored = parity.draw((3, 5, 7, 9), dtype, 0), parity.draw((3, 5, 7, 9), dtype, 1)
    swap = torch.tensor([1, 9, 0, 9, 2, 9, 4, 9, 3])[::2]
    with ops.backend("reference"):
        expected = ops.heatmap_argmax(maps, refine="quarter", mirrored=mirrored, swap=swap)
    got = emulated_ops().heatmap_argmax_mirrored(parity.arrange(maps, layout), mirrored, swap, True)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- wrong arguments -------------------------------------------------------------------------------------------------


def test_every_operator_is_here() -> None:
    made = {
        name for name in registered() if torch._C._dispatch_has_kernel_for_dispatch_key(f"{EMULATED}::{name}", "CPU")
    }
    assert made == registered()
    assert made == ({*direct_calls.valid_arguments()} & made) | {*CUDA_ONLY}
    emulated_ops().heatmap_argmax(torch.zeros(1, 1, 1, 1), True)  # one launch


def is_small(value: Any) -> bool:
    """Whether an argument, where it is taken, is soon worked on."""
    if isinstance(value, Tensor):
        return value.numel() <= 10_000
    if isinstance(value, list):
        return all(map(is_small, value))
    return not isinstance(value, int) or not 1000 < value < 2**31


def are_moderate(value: Any) -> bool:
    """Whether an argument has no NaN and nothing near infinity."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool((value.abs() < 1e20).all())
    return (
        all(map(are_moderate, value)) if isinstance(value, list) else not isinstance(value, float) or abs(value) < 1e20
    )


def outcome(namespace: str, name: str, arguments: list[Any]) -> Any:
    """The results of an operator, what it writes in place among them, or its refusal's sentence."""
    in_place = name.endswith("_")
    if in_place:
        arguments = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    try:
        with torch.no_grad():
            made = getattr(getattr(torch.ops, namespace), name)(*arguments)
        if in_place:
            made = tuple(a for a in arguments if isinstance(a, Tensor))
    except direct_calls.EXPECTED as error:
        sentence = re.sub(r"^\S+, \S+:\d+, ", "", str(error).split("\n")[0])  # without the line that says it
        return sentence.replace(EMULATED, "pyranet_fast").split("Available functions")[0]
    return [t for part in (made if isinstance(made, tuple | list) else [made])
            for t in (part if isinstance(part, list) else [part])]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted({*direct_calls.valid_arguments()} & registered()))
def test_wrong_arguments_are_refused_as_on_the_cpu(name: str) -> None:
    """Same arguments, same results or the same sentence."""
    refused = taken = 0
    torch.use_deterministic_algorithms(False)  # else absurdly large tensors that nobody reads are filled
    argument_lists = [a for a in direct_calls.calls(name, 100, 1) if all(map(is_small, a))]
    torch.use_deterministic_algorithms(True)
    for arguments in argument_lists:
        native, emulated = (outcome(namespace, name, arguments) for namespace in ("pyranet_fast", EMULATED))
        said = f"{name}({', '.join(map(direct_calls.described, arguments))})"
        if native == "heatmap_argmax_backward: an index is outside its map":
            continue  # values are not looked at on a GPU: such an index gives a gradient of zeros
        if isinstance(emulated, str) and "on CUDA there must be at most" in emulated and not isinstance(native, str):
            continue  # a limit that the CPU does not have
        if isinstance(native, str) or isinstance(emulated, str):
            assert native == emulated, said
            refused += 1
            continue
        taken += 1
        for a, b in zip(native, emulated, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride(), said
            if not are_moderate(arguments):
                continue  # where infinities and NaN come out has tests of its own
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4, equal_nan=True)
    assert refused > 5 and taken > 5, (refused, taken)


def wrong_calls() -> dict[str, tuple[str, list[Any], str]]:
    """Of the operators that only CUDA has, and of limits that only CUDA has."""
    x, samples, place = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 1, 2), [0, 0, 2, 2]
    pooled = [x, samples, place, 3, 3, None, None, False, False]
    many = [torch.zeros(1, 1, 2, 2)] * 33
    cases: dict[str, tuple[str, list[Any], str]] = {
        "a level off its canvas": ("fractional_max_pool_canvas", [*pooled[:3], 1, *pooled[4:]], "outside its canvas"),
        "a level as large as x": (
            "fractional_max_pool_canvas",
            [x, samples, [0, 0, 4, 4], 4, 4, *pooled[5:]],
            "between 1 and the input size",
        ),
        "a scale of too few": (
            "fractional_max_pool_canvas",
            [*pooled[:5], torch.zeros(1), *pooled[6:]],
            r"scale and shift must be \(C,\)",
        ),
        "no places": ("upsample_sum_canvas", [x, [], 4, 4, None, True], r"places must be \(y, x, h, w\)"),
        "a base of other size": ("upsample_sum_canvas", [x, place, 4, 4, x[:, :, :3], True], "base must be"),
        "a gradient of three axes": (
            "upsample_sum_canvas_backward",
            [x[0], place, 3, 3, True],
            r"must be \(N, C, H, W\)",
        ),
        "a shift of whole numbers": (
            "upsample_sum_affine",
            [[x], 4, 4, None, True, None, torch.zeros(2, dtype=torch.int64), True],
            "must be floating-point",
        ),
        "maps of whole numbers": (
            "upsample_sum_affine",
            [[x.int()], 4, 4, None, True, None, None, True],
            "must be float32",
        ),
        "a mirrored stack of other size": (
            "heatmap_argmax_mirrored",
            [x, x[:, :, :3], torch.arange(2), True],
            "mirrored must have the shape",
        ),
        "a swap of 32 bits": (
            "heatmap_argmax_mirrored",
            [x, x, torch.arange(2).int(), True],
            r"swap must be \(K,\), int64",
        ),
        "33 maps": ("upsample_sum", [many, 3, 3, None, True], "must be at most 32 levels, got 33"),
        "33 gradients": ("upsample_sum_backward", [x, [2] * 66, True], "must be at most 32 levels, got 33"),
        "33 levels": (
            "fractional_max_pool_pyramid",
            [x, torch.zeros(33, 1, 1, 2), [2] * 66, None, None, False, False],
            "must be at most 32 levels, got 33",
        ),
    }
    return cases


@pytest.mark.parametrize("case", wrong_calls())
def test_sentences(case: str) -> None:
    name, arguments, sentence = wrong_calls()[case]
    with pytest.raises(RuntimeError, match=sentence):
        getattr(emulated_ops(), name)(*arguments)
    emulated_ops().heatmap_argmax(torch.zeros(1, 1, 1, 1), True)  # one launch
