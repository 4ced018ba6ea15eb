"""NaN and infinity, anywhere in any input: native operators' results, gradients and running statistics are not finite
where PyTorch's own are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.nn.layers import BatchNormReLU, Conv3x3, norms_of
from pyranet_fast.ops.cpu import policy, winograd

from .testing import DTYPES, INF, LAYOUTS, NAN, native_only

SPECIAL = (NAN, INF, -INF)


class Case(NamedTuple):
    """A function, its arguments, and which of them are differentiated."""

    function: Callable[..., Any]
    arguments: Sequence[Tensor]
    leaves: Sequence[int]


def _norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> list[Tensor]:
    mean, var = mean.clone(), var.clone()
    return [ops.batch_norm_relu(x, weight, bias, mean, var, torch.tensor(0)), mean, var]


def _case(name: str, dtype: torch.dtype, layout: torch.memory_format) -> Case:
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def maps(*size: int) -> Tensor:
        return torch.randn(2, 3, *size).to(dtype).contiguous(memory_format=layout)

    samples, scale, shift = torch.rand(2, 2, 3, 2), torch.randn(3), torch.randn(3)
    joints, weight = torch.rand(2, 3, 2).to(wide) * 5, torch.rand(2, 3).to(wide)
    weight[0, 1] = 0
    vectors = [(torch.rand(3) + 0.5).to(wide), *(torch.randn(3).to(wide) for _ in range(2)), torch.rand(3).to(wide)]
    cases = {
        "batch_norm_relu": Case(_norm, [maps(6, 5), *vectors], (0, 1, 2)),
        "fractional_max_pool_pyramid": Case(
            lambda x, u: ops.fractional_max_pool_pyramid(x, [(4, 3), (2, 2)], u), [maps(6, 5), samples], [0]
        ),
        "fractional_max_pool_pyramid with a norm": Case(
            lambda x, u, a, b: ops.fractional_max_pool_pyramid(x, [(4, 3), (2, 2)], u, scale=a, shift=b, relu=True),
            [maps(6, 5), samples, scale, shift],
            (0, 2, 3),
        ),
        "heatmap_argmax": Case(lambda x: ops.heatmap_argmax(x, refine="none"), [maps(6, 5)], [0]),
        "heatmap_argmax refined": Case(lambda x: ops.heatmap_argmax(x, refine="quarter"), [maps(6, 5)], [0]),
        "heatmap_loss": Case(ops.heatmap_loss, [maps(6, 5), joints, weight], [0]),
        "gaussian_heatmaps": Case(lambda j, w: ops.gaussian_heatmaps(j, w, (6, 5)), [joints, weight], []),
        "add_affine_relu": Case(
            lambda x, y, a, b: ops.add_affine_relu(x, y, a, b, keep=True),
            [maps(6, 5), maps(6, 5), torch.randn(2, 3).to(wide), torch.randn(2, 3).to(wide)],
            [],
        ),
    }
    return cases[name]


NAMES = (
    "batch_norm_relu", "fractional_max_pool_pyramid", "fractional_max_pool_pyramid with a norm",
    "heatmap_argmax", "heatmap_argmax refined", "heatmap_loss", "gaussian_heatmaps",
    "add_affine_relu",
)  # fmt: skip


def spoilt(arguments: Sequence[Tensor], places: int = 4) -> Iterator[tuple[str, list[Tensor]]]:
    """The arguments with one special value: each in each argument, first and last element and some between."""
    for i, argument in enumerate(arguments):
        if argument.dim() == 4 and argument.shape[3] == 2:
            continue  # windows: see below
        count = argument.numel()
        for at in sorted({0, count - 1, *(count * part // places for part in range(1, places))}):
            for value in SPECIAL:
                changed = [a.clone() for a in arguments]
                index = tuple(int(k) for k in torch.unravel_index(torch.tensor(at), argument.shape))
                changed[i][index] = value
                yield f"{value} at {index} of argument {i}", changed


def results(backend: str, case: Case, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, then gradients for outputs of -1, 0 and 1."""
    leaves = [a.clone() for a in arguments]
    for i in case.leaves:
        leaves[i].requires_grad_()
    with ops.backend(backend):
        made = case.function(*leaves)
        outputs = list(made) if isinstance(made, list | tuple) else [made]
        differentiable = [o for o in outputs if o.requires_grad]
        gradients: Sequence[Tensor | None] = []
        if differentiable:
            ups = [(torch.arange(o.numel()) % 3 - 1).view(o.shape).to(o.dtype) if o.dim() else None
                   for o in differentiable]  # fmt: skip
            gradients = torch.autograd.grad(differentiable, [leaves[i] for i in case.leaves], ups, allow_unused=True)
    return [o.detach() for o in outputs] + [g for g in gradients if g is not None]


def assert_same_kinds(got: Tensor, expected: Tensor, why: str) -> None:
    """NaN, infinity and minus infinity are in the same places."""
    for kind in (lambda t: t.isnan(), lambda t: t == INF, lambda t: t == -INF):
        assert torch.equal(kind(got), kind(expected)), f"{why}: got {got}, expected {expected}"


@native_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_where_pytorch_has_them(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    case = _case(name, dtype, layout)
    seen = 0
    for why, arguments in spoilt(case.arguments):
        for k, (got, expected) in enumerate(
            zip(results("native", case, arguments), results("reference", case, arguments), strict=True)
        ):
            assert_same_kinds(got, expected, f"{why}, result {k}")
            seen += int((~expected.isfinite()).sum())
    assert seen > 0


@pytest.mark.parametrize("special", SPECIAL)
def test_windows_that_are_not_finite_are_refused(special: float) -> None:
    case = _case("fractional_max_pool_pyramid", torch.float32, torch.contiguous_format)
    case.arguments[1][1, 0, 2, 1] = special
    with pytest.raises(ValueError, match=r"samples must lie in \[0, 1\), got values from"):
        case.function(*case.arguments)


@native_only
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_upsampling_spoils_the_pixels_that_have_a_share(
    dtype: torch.dtype, layout: torch.memory_format, align_corners: bool
) -> None:
    """PyTorch's interpolation reads a neighbor of weight 0 too, and 0 times infinity is NaN; ours does not. What else
    is not finite is the same: the pixels of which a part is the special value.
    """
    for size in ((3, 2), (4, 3), (5, 5), (1, 1)):
        ones = torch.eye(size[0] * size[1], dtype=torch.float64).view(-1, 1, *size)
        shares = F.interpolate(ones, size=(6, 5), mode="bilinear", align_corners=align_corners)
        base = torch.randn(1, 2, 6, 5).to(dtype).contiguous(memory_format=layout)
        for at in range(len(ones)):
            for value in SPECIAL:
                x = torch.randn(1, 2, *size).to(dtype)
                x[0, 1].view(-1)[at] = value
                x = x.contiguous(memory_format=layout)
                out = ops.upsample_sum([x], (6, 5), base=base, align_corners=align_corners)
                expected = torch.zeros(1, 2, 6, 5, dtype=torch.bool)
                expected[0, 1] = shares[at, 0] > 1e-6
                assert torch.equal(~out.isfinite(), expected), (size, at, value)
                theirs = ops.reference.upsample_sum([x], (6, 5), base, align_corners)
                assert bool((expected <= ~theirs.isfinite()).all())
                grad = torch.zeros_like(base)
                grad[0, 0, 2, 3] = value
                leaf = x.clone().nan_to_num(0, 0, 0).requires_grad_()
                with ops.backend("native"):
                    (made,) = torch.autograd.grad(
                        ops.upsample_sum([leaf], (6, 5), align_corners=align_corners), leaf, grad
                    )
                expected = torch.zeros(1, 2, *size, dtype=torch.bool)
                expected[0, 0] = (shares[:, 0, 2, 3] > 1e-6).view(size)
                assert torch.equal(~made.isfinite(), expected), (size, at, value)


@native_only
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("place", ["x", "weight", "bias", "gradient"])
@pytest.mark.parametrize("norms", [1, 3])
def test_norms_of_one_map(norms: int, place: str, special: float) -> None:
    """What units use: statistics, outputs, averages and gradients of several norms in one pass."""

    def run(backend: str) -> list[Tensor]:
        torch.manual_seed(1)
        modules = [BatchNormReLU(6).train() for _ in range(norms)]
        for norm in modules:
            torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
        x = torch.randn(2, 6, 7, 5).contiguous(memory_format=torch.channels_last)
        grads = [torch.randn(2, 6, 7, 5) for _ in range(norms)]
        with torch.no_grad():
            target = {"x": x, "weight": modules[0].weight, "bias": modules[0].bias, "gradient": grads[0]}[place]
            target[{"x": (0, 2, 3, 1), "gradient": (0,)}.get(place, 2)] = special
        x.requires_grad_()
        with ops.backend(backend):
            assert backend == "reference" or policy.supports_shared_batch_norm_relu(x, modules[0].weight)
            _, outputs = norms_of(x, modules)
            leaves = [x, *(p for norm in modules for p in (norm.weight, norm.bias))]
            gradients = torch.autograd.grad(outputs, leaves, grads)
        averages = [v for norm in modules for v in (norm.running_mean, norm.running_var)]
        return [*(o.detach() for o in outputs), *averages, *gradients]  # type: ignore[list-item]

    ours, theirs = run("native"), run("reference")
    # A bias of minus infinity is a channel of zeros.
    assert (place == "bias" and special == -INF) == all(bool(t.isfinite().all()) for t in theirs)
    for k, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(got.isfinite(), expected.isfinite()), k
        if k < 3 * norms:  # outputs and averages; terms of several norms add up in another order
            assert_same_kinds(got, expected, str(k))


@native_only
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("place", ["x", "weight", "bias", "gradient"])
def test_winograd_convolves_directly_where_a_value_is_not_finite(place: str, special: float) -> None:
    """Its transforms would spread a value over the tile: 36 pixels of a map instead of 9."""

    def run(backend: str) -> list[Tensor]:
        torch.manual_seed(1)
        conv = Conv3x3(32, 32)
        x = torch.randn(2, 32, 32, 32).contiguous(memory_format=torch.channels_last)
        grad = torch.randn(2, 32, 32, 32).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            assert conv.bias is not None
            target = {"x": x, "weight": conv.weight, "bias": conv.bias, "gradient": grad}[place]
            target[{"weight": (3, 5, 1, 2), "bias": (4,)}.get(place, (1, 7, 9, 10))] = special
        x.requires_grad_()
        with ops.backend(backend):
            assert backend == "reference" or policy.trains_with_winograd(x, conv.weight)
            y = conv(x)
            return [y.detach(), *torch.autograd.grad(y, [x, conv.weight, conv.bias], grad)]

    theirs = run("reference")
    for k, (got, expected) in enumerate(zip(run("native"), theirs, strict=True)):
        assert_same_kinds(got, expected, str(k))
        finite = expected.isfinite()
        torch.testing.assert_close(got[finite], expected[finite], rtol=1e-3, atol=1e-3)
    assert 0 < int((~theirs[0].isfinite()).sum()) + int((~theirs[1].isfinite()).sum()) < theirs[0].numel()


@native_only
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("tile", [2, 4])
def test_winograd_of_an_optimized_network(tile: int, relu: bool, special: float) -> None:
    torch.manual_seed(0)
    x, other = (torch.randn(1, 36, 13, 18).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight, bias = torch.randn(36, 36, 3, 3), torch.randn(36)
    for target in (x, other, bias):
        kept = target.flatten()[100 % target.numel()].item()
        index = tuple(int(k) for k in torch.unravel_index(torch.tensor(100 % target.numel()), target.shape))
        target[index] = special
        y = F.conv2d(x, weight, bias, padding=1) + other
        expected = F.relu(y) if relu else y
        got = winograd.conv3x3(x, winograd.prepack(weight, tile), weight, bias, other, relu=relu)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert_same_kinds(got, expected, str(target.shape))
        target[index] = kept
