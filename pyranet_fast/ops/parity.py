"""Comparison of all kernels with the reference on this machine: `python -m pyranet_fast.env --check`.

Small problems, in all precisions and both layouts, forward and backward. The reference computes on the CPU in float32
(float64 for float64) from the same inputs, so that no GPU result is compared with itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch, reference
from .add_affine_relu import add_affine_relu
from .batch_norm_relu import batch_norm_relu
from .canvas import canvas_of, fractional_max_pool_canvas, upsample_sum_canvas
from .checks import FLOATS
from .cpu import batch_norm_relu as shared
from .cpu import fused_pointwise, pooled_pyramid, winograd
from .fractional_max_pool_pyramid import fractional_max_pool_pyramid
from .gaussian_heatmaps import gaussian_heatmaps
from .heatmap_argmax import heatmap_argmax
from .heatmap_loss import heatmap_loss
from .upsample_sum import upsample_sum

SECONDS = 18.0
"""No row of Triton, whose kernels are compiled, begins later."""
ALLOWED = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Largest difference from the reference, of the largest value of a result: one rounding, or sums in another order."""
LEVELS = [(27, 27), (22, 22), (19, 19), (16, 16)]
SHAPE = (2, 28, 32, 32)
WIDE = (torch.float32, torch.float64)


@dataclass
class Problem:
    """What an operator is given.

    Attributes:
        maps: in the precision and layout that is checked; their gradients are compared.
        vectors: in the precision of sums; their gradients are compared.
        fixed: taken as they are.
    """

    maps: list[Tensor]
    vectors: list[Tensor]
    fixed: list[Any]

    def to(self, dtype: torch.dtype, device: torch.device, layout: torch.memory_format, gradient: bool) -> Problem:
        """The same values elsewhere; leaves that record a gradient."""
        wide = torch.promote_types(dtype, torch.float32)
        maps = [x.to(device, dtype) for x in self.maps]
        maps = [x.contiguous(memory_format=layout) if x.dim() == 4 else x for x in maps]
        vectors = [x.to(device, wide) for x in self.vectors]
        fixed = [x.to(device) if isinstance(x, Tensor) else x for x in self.fixed]
        for x in (*maps, *vectors) if gradient else ():
            x.requires_grad_()
        return Problem(maps, vectors, fixed)


Function = Callable[[Problem], Sequence[Tensor]]


@dataclass(frozen=True)
class Check:
    """One function beside the reference.

    Attributes:
        operator: the function's name, as the table has it; indented: another use of the function before.
        runs: the registered operators that it calls.
        problem: what it is given, in float64.
        function: what it does, by the backend in use.
        expected: the same in plain PyTorch; None: ``function`` on the reference.
        gradient: whether it has one.
        dtypes: of the maps.
        allowed: instead of `ALLOWED`.
    """

    operator: str
    runs: tuple[str, ...]
    problem: Callable[[], Problem]
    function: Function
    expected: Function | None = None
    gradient: bool = True
    dtypes: tuple[torch.dtype, ...] = FLOATS
    allowed: float | None = None

    def has_kernels(self, backend: str, device_type: str) -> bool:
        """Whether a backend has its own kernels for it, on the device."""
        key = {"cpu": "CPU", "cuda": "CUDA"}[device_type]
        namespace = dispatch.NAMESPACES[backend]
        return all(dispatch.has_kernel(f"{namespace}::{name}", key) for name in self.runs)


@dataclass(frozen=True)
class Row:
    """What was found for one check.

    Attributes:
        operator, backend, dtype: what was checked.
        error: the largest difference of any result or gradient, of its largest value; None where nothing was compared.
        verdict: ``"ok"``, ``"wrong"``, ``"failed"`` (it raised) or ``"left out"``.
        note: the reason of every other verdict than "ok".
    """

    operator: str
    backend: str
    dtype: str
    error: float | None
    verdict: str
    note: str = ""

    @property
    def bad(self) -> bool:
        """Whether a defect was found."""
        return self.verdict in ("wrong", "failed")


def run_checks(device: torch.device, seconds: float = SECONDS) -> Iterator[Row]:
    """Compare all kernels of a device with the reference.

    Args:
        device: the CPU or a GPU.
        seconds: no row of Triton begins later.

    Yields:
        A row for each operator, backend and precision; Triton's, whose kernels are compiled, come last, in bfloat16 and
        float32 and one layout alone.
    """
    until = time.monotonic() + seconds
    for check, backend, dtype in _planned(device):
        name = str(dtype).removeprefix("torch.")
        if backend == "triton" and time.monotonic() > until:
            yield Row(check.operator, backend, name, None, "left out", f"{seconds:g} seconds were over")
            continue
        allowed = ALLOWED[dtype] if check.allowed is None else check.allowed
        layouts = [torch.channels_last] if backend == "triton" else [torch.channels_last, torch.contiguous_format]
        try:
            error = max(_error(check, backend, dtype, device, layout) for layout in layouts)
        except Exception as raised:  # anything at all is a finding, and must not end the others
            first = (str(raised).strip().splitlines() or [""])[0]
            yield Row(check.operator, backend, name, None, "failed", f"{type(raised).__name__}: {first[:300]}")
            continue
        bad = not error <= allowed
        yield Row(check.operator, backend, name, error, *(("wrong", f"above {allowed:.1e}") if bad else ("ok",)))


def _planned(device: torch.device) -> Iterator[tuple[Check, str, torch.dtype]]:
    backends = ["native"] if dispatch.native.here else []
    if device.type == "cuda":
        backends = ["native"] if dispatch.native_on(device.index).here else []
        backends += ["triton"] if dispatch.triton_on(device.index).here else []
    for backend in backends:
        dtypes = (torch.bfloat16, torch.float32) if backend == "triton" else FLOATS
        for dtype in dtypes if backend == "triton" else (None,):
            for check in CHECKS:
                if check.has_kernels(backend, device.type):
                    wanted = check.dtypes if dtype is None else (dtype,)
                    yield from ((check, backend, d) for d in wanted if d in check.dtypes)


def _error(check: Check, backend: str, dtype: torch.dtype, device: torch.device, layout: torch.memory_format) -> float:
    """The largest difference of a result or gradient from the reference's, of its largest value; infinite for NaN."""
    problem, wide = check.problem(), torch.promote_types(dtype, torch.float32)
    exact = Problem([x.to(dtype) for x in problem.maps], problem.vectors, problem.fixed)
    exact = exact.to(wide, torch.device("cpu"), torch.contiguous_format, check.gradient)
    with dispatch.backend("reference"):
        expected = _results(check.expected or check.function, exact, check.gradient)
    with dispatch.backend(backend):
        got = _results(check.function, problem.to(dtype, device, layout, check.gradient), check.gradient)
    return max(_difference(a, e) for a, e in zip(got, expected, strict=True))


def _results(function: Function, problem: Problem, gradient: bool) -> list[Tensor]:
    """What a function gives and, of fixed combinations of that, the gradients of all leaves."""
    with torch.set_grad_enabled(gradient):
        results = list(function(problem))
        recorded = [y for y in results if y.requires_grad]
        given = [_draw_eighths(y.shape, 90 + i).to(y.device, y.dtype) for i, y in enumerate(recorded)]
        leaves = [x for x in (*problem.maps, *problem.vectors) if x.requires_grad]
        gradients = torch.autograd.grad(recorded, leaves, given) if gradient else ()
    return [y.detach() for y in (*results, *gradients)]


def _difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return float("inf")
    a, e = got.cpu().double(), expected.double()
    if a.numel() == 0:
        return 0.0
    worst = float((a - e).abs().max() / e.abs().max().clamp_min(1e-30))
    return worst if worst == worst else float("inf")


def _draw(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _draw_eighths(shape: Sequence[int], seed: int) -> Tensor:
    """Values with ties, the same in every precision that is checked."""
    return (_draw(shape, seed) * 8).round().clamp(-31, 31) / 8


def _uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


# --- the checks ------------------------------------------------------------------------------------------------------


def _of_pool(vectors: int, own: bool) -> Callable[[], Problem]:
    def problem() -> Problem:
        samples = _uniform(len(LEVELS), SHAPE[0], SHAPE[1] if own else 1, 2, seed=1)
        return Problem([_draw_eighths(SHAPE, 0)], [_draw(SHAPE[1:2], 2 + i) for i in range(vectors)], [samples])

    return problem


def _pool(p: Problem) -> Sequence[Tensor]:
    scale, shift = p.vectors or (None, None)
    return fractional_max_pool_pyramid(p.maps[0], LEVELS, p.fixed[0], scale=scale, shift=shift, relu=bool(p.vectors))


def _pool_canvas(p: Problem) -> Sequence[Tensor]:
    return [fractional_max_pool_canvas(p.maps[0], canvas_of(LEVELS), p.fixed[0])]


def _of_sum() -> Problem:
    return Problem([_draw((*SHAPE[:2], *size), i) for i, size in enumerate([*LEVELS, SHAPE[2:]])], [], [])


def _sum(p: Problem) -> Sequence[Tensor]:
    *levels, base = p.maps
    return [upsample_sum(levels, SHAPE[2:], base=base)]


def _sum_by_centers(p: Problem) -> Sequence[Tensor]:
    return [upsample_sum(p.maps, SHAPE[2:], align_corners=False)]


def _of_affine_sum() -> Problem:
    return Problem(_of_sum().maps, [_draw(SHAPE[1:2], 7), _draw(SHAPE[1:2], 8)], [])


def _affine_sum(p: Problem) -> Sequence[Tensor]:
    return [upsample_sum(p.maps[:-1], SHAPE[2:], base=p.maps[-1], scale=p.vectors[0], shift=p.vectors[1], relu=True)]


def _of_canvas_sum() -> Problem:
    canvas = canvas_of(LEVELS)
    return Problem([_draw((*SHAPE[:2], canvas.height, canvas.width), 0), _draw(SHAPE, 1)], [], [])


def _canvas_sum(p: Problem) -> Sequence[Tensor]:
    return [upsample_sum_canvas(p.maps[0], canvas_of(LEVELS), SHAPE[2:], base=p.maps[1])]


def _of_heatmaps() -> Problem:
    return Problem([_draw_eighths((2, 16, 33, 20), 0)], [], [torch.arange(15, -1, -1)])


def _argmax(p: Problem) -> Sequence[Tensor]:
    return [*heatmap_argmax(p.maps[0], refine="quarter"), heatmap_argmax(p.maps[0])[0]]


def _mirrored(p: Problem) -> Sequence[Tensor]:
    return heatmap_argmax(p.maps[0], refine="quarter", mirrored=p.maps[0].flip(0), swap=p.fixed[0])


def _of_joints() -> Problem:
    return Problem([_draw((2, 16, 33, 20), 0)], [], [_uniform(2, 16, 2, seed=1) * 20, _uniform(2, 16, seed=2)])


def _loss(p: Problem) -> Sequence[Tensor]:
    return [heatmap_loss(p.maps[0], *p.fixed, sigma=1.5)]


def _of_targets() -> Problem:
    return Problem([_of_joints().fixed[0].double(), _of_joints().fixed[1].double()], [], [])


def _targets(p: Problem) -> Sequence[Tensor]:
    return [gaussian_heatmaps(p.maps[0], p.maps[1], (33, 20), sigma=1.5)]


def _of_norm() -> Problem:
    return Problem([_draw(SHAPE, 0)], [_draw(SHAPE[1:2], 1), _draw(SHAPE[1:2], 2)], [])


def _norm(p: Problem) -> Sequence[Tensor]:
    x, (weight, bias) = p.maps[0], p.vectors
    mean, var, batches = torch.zeros_like(weight), torch.ones_like(weight), torch.zeros((), dtype=torch.int64)
    mean, var, batches = mean.detach(), var.detach(), batches.to(x.device)
    return [batch_norm_relu(x, weight, bias, mean, var, batches), mean, var, batches]


def _norm_in_two_calls(p: Problem) -> Sequence[Tensor]:
    x, (weight, bias) = p.maps[0], p.vectors
    y, mean, var = torch.ops.pyranet_fast.batch_norm_relu(x, weight, bias, 1e-5)
    averages = torch.zeros_like(mean), torch.ones_like(var), torch.zeros((), dtype=torch.int64, device=x.device)
    shared.update_averages_(*averages, mean.detach(), var.detach(), 0.1, x.numel() // x.shape[1])
    return [y, *averages]


def _of_shared_norms() -> Problem:
    return Problem([_draw(SHAPE, 0)], [_draw(SHAPE[1:2], i) for i in range(1, 5)], [])


def _shared_norms(p: Problem) -> Sequence[Tensor]:
    x = p.maps[0].contiguous(memory_format=torch.channels_last)
    kept, outputs, mean, var = shared.shared_batch_norm_relu(x, p.vectors[:2], p.vectors[2:], 1e-5)
    return [kept * 1, *outputs, mean.detach(), var.detach()]


def _expected_shared_norms(p: Problem) -> Sequence[Tensor]:
    x, (w1, w2, b1, b2) = p.maps[0], p.vectors
    var, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
    norms = (reference.batch_norm_relu(x, w, b, None, None, None, 0.1, 1e-5) for w, b in ((w1, b1), (w2, b2)))
    return [x * 1, *norms, mean, var]


def _of_affine_relu() -> Problem:
    n, c, h, w = SHAPE
    # Sums that no precision rounds: rounded before the norm, and compared with what is not, they would differ by more.
    maps = [_draw_eighths((n, c, h // 2, w // 2), 0), _draw_eighths(SHAPE, 1)]
    return Problem(maps, [_draw((2, c), 2), _draw((2, c), 3)], [])


def _affine_relu(p: Problem) -> Sequence[Tensor]:
    return add_affine_relu(*p.maps, *p.vectors, keep=True)


def _of_convolution() -> Problem:
    n, c, h, w = SHAPE
    weights = [_draw((40, c, 3, 3), 1), _draw((40,), 2), _draw((16, 40, 1, 1), 3), _draw((16,), 4)]
    return Problem([_draw(SHAPE, 0), _draw((n, 16, h, w), 5)], [], [x.float() for x in weights])


def _winograd(p: Problem) -> Sequence[Tensor]:
    (x, _), (weight, bias, *_) = p.maps, p.fixed
    x, weight, bias = x.detach().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    with torch.enable_grad():
        y = winograd.differentiable_conv3x3(x, weight, bias)
    grad = _draw_eighths(y.shape, 9).to(y)
    gradients = torch.autograd.grad(y, (x, weight, bias), grad)
    grad_weight, _ = torch.ops.pyranet_fast.winograd_weight_gradient(x.detach(), grad)
    return [y, *gradients, grad_weight]


def _expected_winograd(p: Problem) -> Sequence[Tensor]:
    leaves = [v.detach().double().requires_grad_() for v in (p.maps[0], *p.fixed[:2])]
    with torch.enable_grad():
        y = F.conv2d(leaves[0], leaves[1], leaves[2], padding=1)
    gradients = torch.autograd.grad(y, leaves, _draw_eighths(y.shape, 9).to(y))
    return [y, *gradients, gradients[1]]


def _pointwise(p: Problem) -> Sequence[Tensor]:
    (x, _), (_, _, weight, bias) = p.maps, p.fixed
    x = torch.cat([x, x], 1)[:, :40].contiguous(memory_format=torch.channels_last)
    norm = (torch.full((40,), 0.5), torch.full((40,), 0.25))
    return fused_pointwise.fused_pointwise(x, x, fused_pointwise.prepack([norm], [(weight, bias, True)]), keep=True)


def _expected_pointwise(p: Problem) -> Sequence[Tensor]:
    (x, _), (_, _, weight, bias) = p.maps, p.fixed
    total = 2 * torch.cat([x, x], 1)[:, :40].double()
    return [total, F.relu(F.conv2d(F.relu(total * 0.5 + 0.25), weight.double(), bias.double()))]


def _windows(x: Tensor) -> Tensor:
    return torch.full((len(LEVELS), len(x), 1, 2), 0.5)


def _pyramid(p: Problem) -> Sequence[Tensor]:
    (x, y), (weight, bias, *expand) = p.maps, p.fixed
    packed = pooled_pyramid.prepack([(weight, bias)], (expand[0], expand[1]))
    x, y = (t.detach().clone(memory_format=torch.channels_last) for t in (x, y))
    return [pooled_pyramid.pooled_pyramid_(x, LEVELS, packed, y)]


def _expected_pyramid(p: Problem) -> Sequence[Tensor]:
    (x, y), (weight, bias, *expand) = p.maps, [v.double() for v in p.fixed]
    pooled = reference.fractional_max_pool_pyramid(x, LEVELS, _windows(x))
    total = reference.upsample_sum([F.conv2d(level.double(), weight, bias, padding=1) for level in pooled], SHAPE[2:])
    return [F.relu(y + F.conv2d(F.relu(total), *expand))]


def _row(p: Problem) -> Sequence[Tensor]:
    x, (weight, bias, expand, expand_bias) = p.maps[0].contiguous(memory_format=torch.channels_last), p.fixed
    ops, packed = torch.ops.pyranet_fast, pooled_pyramid.prepack([(weight, bias)], (expand, expand_bias))
    values = [x, winograd.prepack(weight, 2), bias, packed.expand, expand_bias, packed.filters[0]]
    sizes, nothing = [side for size in LEVELS for side in size], len(values)
    program = [
        *(1, 0, 1, 2, -1, len(weight), 0, nothing + 1),  # a 3x3
        *(0, nothing + 1, -1, -1, 0, 0, *(1, nothing), *(1, nothing), *(1, 3), *(1, 4), *(1, 0), nothing + 2),  # a 1x1
        *(2, 0, len(sizes), *sizes, *(1, 5), *(1, 2), 3, 4, nothing + 2),  # a pyramid, added to it
        *(3, 1, nothing + 1),
    ]
    made, _ = ops.run_folded([*values, torch.empty(0)], program, [nothing + 2])
    return list(made)


def _expected_row(p: Problem) -> Sequence[Tensor]:
    weight, bias, *expand = (v.double() for v in p.fixed)
    y = F.conv2d(F.conv2d(p.maps[0].double(), weight, bias, padding=1), *expand)
    return _expected_pyramid(Problem([p.maps[0], y], p.vectors, p.fixed))


_POOL = ("fractional_max_pool_pyramid", "fractional_max_pool_pyramid_backward")
_ARGMAX = ("heatmap_argmax", "heatmap_argmax_backward")
_SUM = ("upsample_sum", "upsample_sum_backward")
_CANVAS_SUM = ("upsample_sum_canvas", "upsample_sum_canvas_backward")
_FLOAT32 = (torch.float32,)
CHECKS = (
    Check("fractional_max_pool_pyramid", _POOL, _of_pool(0, True), _pool),
    Check("  with norm and ReLU", _POOL, _of_pool(2, False), _pool),
    Check("fractional_max_pool_canvas", ("fractional_max_pool_canvas", _POOL[1]), _of_pool(0, False), _pool_canvas),
    Check("upsample_sum", _SUM, _of_sum, _sum),
    Check("  align_corners=False", _SUM, _of_sum, _sum_by_centers),
    Check("  with norm and ReLU", ("upsample_sum_affine",), _of_affine_sum, _affine_sum, gradient=False),
    Check("upsample_sum_canvas", _CANVAS_SUM, _of_canvas_sum, _canvas_sum),
    Check("heatmap_argmax", _ARGMAX, _of_heatmaps, _argmax, allowed=0.0),
    Check("  of mirrored maps", ("heatmap_argmax_mirrored",), _of_heatmaps, _mirrored, gradient=False),
    Check("heatmap_loss", ("heatmap_loss", "heatmap_loss_backward"), _of_joints, _loss),
    Check("gaussian_heatmaps", ("gaussian_heatmaps",), _of_targets, _targets, gradient=False, dtypes=WIDE),
    Check("batch_norm_relu", ("batch_norm_relu_update_", "batch_norm_relu_backward"), _of_norm, _norm),
    Check(
        "  averages apart", ("batch_norm_relu", "batch_norm_relu_backward", "batch_norm_update_"), _of_norm,
        _norm_in_two_calls, _norm,
    ),
    Check("add_affine_relu", ("add_affine_relu",), _of_affine_relu, _affine_relu, gradient=False),
    Check(
        "shared norms", ("shared_batch_norm_relu", "shared_batch_norm_relu_backward"), _of_shared_norms, _shared_norms,
        _expected_shared_norms,
    ),
    Check(
        "3x3 by Winograd", ("winograd_pack", "winograd_conv3x3", "winograd_weight_gradient"), _of_convolution,
        _winograd, _expected_winograd, gradient=False, dtypes=_FLOAT32,
    ),
    Check(
        "norm and 1x1 in one", ("pointwise_pack", "fused_pointwise"), _of_convolution, _pointwise, _expected_pointwise,
        gradient=False, dtypes=_FLOAT32,
    ),
    Check(
        "pyramid in one", ("pyramid_pack", "pooled_pyramid_"), _of_convolution, _pyramid, _expected_pyramid,
        gradient=False, dtypes=_FLOAT32,
    ),
    Check("all three in a row", ("run_folded",), _of_convolution, _row, _expected_row, gradient=False, dtypes=_FLOAT32),
)  # fmt: skip
