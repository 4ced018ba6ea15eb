"""Operator benchmarks against native PyTorch on CPU and GPU: one entry of `OPERATORS` each.

All forms of a case run in turn, round by round, with a copy of as many bytes as the operator must move.
`python -m pytest bench -s` runs the cases of the CPU (bench/test_operators.py) and prints, for each, our time, the
native times (eager, contiguous and channels_last), our ratio to the best of them and the share of the copy's speed;
``-k heatmap_loss`` chooses an operator. `bench.gpu` runs those of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import runner
from bench.cases import DTYPES, LAYOUTS
from pyranet_fast import ops
from pyranet_fast.nn import BatchNormReLU

ROUNDS = 30
COPY = "copy"
Shape = tuple[int, ...]
Function = Callable[..., list[Tensor]]


@dataclass(frozen=True)
class OperatorCase:
    """What all forms of an operator's comparison share."""

    operator: str
    shape: Shape
    dtype: str
    layout: str
    backward: bool
    device: str = "cpu"
    windows: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The case as the rows of a results file name it."""
        row = {
            "operator": self.operator, "shape": list(self.shape), "dtype": self.dtype, "layout": self.layout,
            "direction": self.direction, "device": torch.device(self.device).type,
        }  # fmt: skip
        return row if self.windows is None else {**row, "windows": self.windows}

    @property
    def direction(self) -> str:
        """``"forward"`` or ``"forward+backward"``."""
        return "forward+backward" if self.backward else "forward"

    def __str__(self) -> str:
        windows = [] if self.windows is None else [f"window-per-{self.windows}"]
        return "-".join([self.operator, self.dtype, *windows, self.layout, self.direction, str(self.shape)])


@dataclass
class Work:
    """What one case computes.

    Attributes:
        inputs: float32 tensors that both functions take; gradients are those of these.
        ours, native: the same function of the inputs.
        forward: values that a forward must read and write.
        both: values that a forward with its backward must read and write.
    """

    inputs: list[Tensor]
    ours: Function
    native: Function
    forward: int
    both: int

    def size(self, case: OperatorCase) -> int:
        """Bytes that must move."""
        return (self.both if case.backward else self.forward) * DTYPES[case.dtype].itemsize


def batch_norm_relu(case: OperatorCase) -> Work:
    """Batch norm and ReLU in training in one operator; native: nn.BatchNorm2d and an in-place ReLU."""
    channels, values = case.shape[1], torch.Size(case.shape).numel()
    ours, native = (kind(channels).to(case.device) for kind in (BatchNormReLU, nn.BatchNorm2d))
    return Work(
        [torch.randn(case.shape, device=case.device)],
        lambda x: [ours(x)],
        lambda x: [F.relu(native(x), inplace=True)],
        forward=2 * values,  # x in, y out
        both=5 * values,  # gradient and x in again, gradient out
    )


SIDES = (53, 45, 38, 32)  # of the four levels of a pyramid, for maps of 64 px


def _level_sizes(h: int, w: int) -> list[tuple[int, int]]:
    return [(h * side // 64, w * side // 64) for side in SIDES]


def _pyramid_values(shape: Shape) -> int:
    """Values of maps and of the four levels made from them, or that they are made from."""
    n, c, h, w = shape
    return n * c * (h * w + sum(a * b for a, b in _level_sizes(h, w)))


def fractional_max_pool_pyramid(case: OperatorCase) -> Work:
    """Pooling to four levels; native: one fractional_max_pool2d a level."""
    n, c, h, w = case.shape
    sizes = _level_sizes(h, w)
    samples = torch.rand(len(sizes), n, 1 if case.windows == "sample" else c, 2, device=case.device)
    # PyTorch takes samples in the dtype of the maps, one a channel, and computes bfloat16 windows in bfloat16.
    native_samples = {dtype: samples.expand(-1, -1, c, -1).to(dtype).contiguous() for dtype in DTYPES.values()}

    def native(x: Tensor) -> list[Tensor]:
        pairs = zip(sizes, native_samples[x.dtype], strict=True)
        return [F.fractional_max_pool2d(x, 2, output_size=size, _random_samples=u) for size, u in pairs]

    values = _pyramid_values(case.shape)
    return Work(
        [torch.randn(case.shape, device=case.device)],
        lambda x: ops.fractional_max_pool_pyramid(x, sizes, samples),
        native,
        forward=values,
        both=2 * values,
    )


def upsample_sum(case: OperatorCase) -> Work:
    """The sum of four levels, upsampled; native: one interpolate and one addition a level."""
    n, c, h, w = case.shape

    def native(*maps: Tensor) -> list[Tensor]:
        ups = [F.interpolate(m, size=(h, w), mode="bilinear", align_corners=True) for m in maps]
        return [ups[0] + ups[1] + ups[2] + ups[3]]

    values = _pyramid_values(case.shape)
    return Work(
        [torch.randn(n, c, *size, device=case.device) for size in _level_sizes(h, w)],
        lambda *maps: [ops.upsample_sum(maps, (h, w))],
        native,
        forward=values,
        both=2 * values,
    )


def heatmap_argmax(case: OperatorCase) -> Work:
    """The largest value's place with refinement; native: one max over the flattened map and four gathers of neighbors.

    On a GPU native goes without refinement, which is less work and another result: each gather would be a launch.
    """
    n, k, h, w = case.shape
    on_gpu = torch.device(case.device).type == "cuda"
    if on_gpu:
        heatmaps = torch.randn(case.shape, device=case.device)
    else:
        # Integers without ties among the largest, in bfloat16 either: ties are broken in no particular order natively.
        ranks = torch.rand(n * k, h * w, device=case.device).argsort(1).view(case.shape)
        heatmaps = (ranks - h * w + 200).clamp_min(0).float()

    def native(x: Tensor) -> list[Tensor]:
        flat = x.flatten(2)
        scores, index = flat.max(2)
        column, row = index % w, index // w
        if on_gpu:
            return [torch.stack((column, row), 2).float(), scores]
        neighbors = torch.stack((index + 1, index - 1, index + w, index - w), 2).clamp_(0, h * w - 1)
        right, left, below, above = flat.gather(2, neighbors).unbind(2)
        step_x = (right - left).sign() * 0.25 * ((column > 0) & (column < w - 1))
        step_y = (below - above).sign() * 0.25 * ((row > 0) & (row < h - 1))
        return [torch.stack((column + step_x, row + step_y), 2).float(), scores]

    values = heatmaps.numel()
    return Work([heatmaps], lambda x: list(ops.heatmap_argmax(x, refine="quarter")), native, values, values)


def heatmap_loss(case: OperatorCase) -> Work:
    """Mean squared error against Gaussians, weights of 1; native: separable Gaussians, then mse_loss.

    Native makes its targets in every step, since every step of a training has other joints.
    """
    n, k, _, side = case.shape  # square
    joints, weight = torch.rand(n, k, 2, device=case.device) * side, torch.ones(n, k, device=case.device)
    at = torch.arange(side, dtype=torch.float32, device=case.device)

    def native(x: Tensor) -> list[Tensor]:
        gauss = torch.exp((at - joints.unsqueeze(3)).square_().mul_(-0.5))
        target = gauss[:, :, 1].unsqueeze(3) * gauss[:, :, 0].unsqueeze(2)
        return [F.mse_loss(x.float(), target)]

    values = torch.Size(case.shape).numel()
    return Work(
        [torch.randn(case.shape, device=case.device)],
        lambda x: [ops.heatmap_loss(x, joints, weight)],
        native,
        forward=values,
        both=3 * values,  # maps in again, gradient out
    )


@dataclass(frozen=True)
class Operator:
    """How one operator is compared.

    Attributes:
        work: makes the tensors and functions of a case.
        shapes: that are timed on the CPU.
        gpu_shapes: that are timed on a GPU; none: the operator is left out there.
        tolerances: (rtol, atol) to native PyTorch in the same dtype, on the CPU; a dtype that is missing is not
            compared.
        coarse_in_bf16: whether native bfloat16 is too far from native float32 to be held to it.
        windows: the values of `OperatorCase.windows` on the CPU.
        differentiable: whether there is a backward to time.
    """

    work: Callable[[OperatorCase], Work]
    shapes: list[Shape]
    gpu_shapes: list[Shape]
    tolerances: dict[str, tuple[float, float]]
    coarse_in_bf16: bool = False
    windows: tuple[str | None, ...] = (None,)
    differentiable: bool = True


PYRAMID_SHAPES: list[Shape] = [(4, 28, 64, 64), (16, 28, 64, 64)]
PYRAMID_GPU_SHAPES: list[Shape] = [*((16, 28, side, side) for side in (64, 32, 16, 8)), (64, 128, 256, 256)]
HEATMAP_SHAPES: list[Shape] = [(4, 16, 64, 64), (16, 16, 64, 64)]
HEATMAP_GPU_SHAPES: list[Shape] = [(16, 16, 64, 64), (128, 64, 256, 256)]
OPERATORS = {
    "batch_norm_relu": Operator(
        batch_norm_relu, [(4, 256, 64, 64), (16, 128, 32, 32), (16, 28, 64, 64)], [],
        {"fp32": (1e-4, 1e-4), "bf16": (3e-2, 3e-2)},
    ),
    "fractional_max_pool_pyramid": Operator(
        fractional_max_pool_pyramid, PYRAMID_SHAPES, PYRAMID_GPU_SHAPES,
        {"fp32": (1e-5, 1e-5)}, coarse_in_bf16=True,  # native bfloat16 has other windows
        windows=("channel", "sample"),
    ),
    "upsample_sum": Operator(
        upsample_sum, PYRAMID_SHAPES, PYRAMID_GPU_SHAPES,
        {"fp32": (1e-5, 1e-5), "bf16": (6e-2, 6e-2)}, coarse_in_bf16=True,  # native rounds every addition
    ),
    "heatmap_argmax": Operator(
        heatmap_argmax, HEATMAP_SHAPES, HEATMAP_GPU_SHAPES, {"fp32": (0, 0), "bf16": (0, 0)}, differentiable=False
    ),
    "heatmap_loss": Operator(
        heatmap_loss, HEATMAP_SHAPES, HEATMAP_GPU_SHAPES, {"fp32": (1e-4, 1e-9), "bf16": (1e-2, 1e-9)}
    ),
}  # fmt: skip


def cases_of(operator: str, shapes: Iterable[Shape], *, device: str, each_window: bool) -> Iterator[OperatorCase]:
    """An operator's cases: dtypes, windows (or PyTorch's, one a channel, alone), layouts, directions and shapes."""
    entry, shapes = OPERATORS[operator], list(shapes)
    for dtype in DTYPES:
        for windows in entry.windows if each_window else (None,):
            for layout in LAYOUTS:
                for backward in (False, True) if entry.differentiable else (False,):
                    for shape in shapes:
                        yield OperatorCase(operator, shape, dtype, layout, backward, device, windows)


def cpu_cases() -> list[OperatorCase]:
    """What bench/test_operators.py times."""
    return [
        case
        for name, entry in OPERATORS.items()
        for case in cases_of(name, entry.shapes, device="cpu", each_window=True)
    ]


def gpu_cases(operator: str, shapes: Iterable[Shape], device: str) -> list[OperatorCase]:
    """What `bench.gpu` times of an operator, shape by shape."""
    return [case for shape in shapes for case in cases_of(operator, [shape], device=device, each_window=False)]


def step_of(function: Function, inputs: list[Tensor], layout: str, backward: bool) -> Callable[[], list[Tensor]]:
    """A call of the function, or of it and the gradients of its inputs.

    The gradients that arrive are random numbers in the form's layout, as from the convolution that follows; they are
    made in the first call. Where the function returns a loss, the backward begins there, with 1.
    """
    if not backward:
        return lambda: function(*inputs)
    leaves = [x.detach().requires_grad_() for x in inputs]
    grads: list[Tensor] = []

    def step() -> list[Tensor]:
        outs = function(*leaves)
        if not grads:
            grads.extend(_gradients(outs, LAYOUTS[layout]))
        return list(torch.autograd.grad(outs, leaves, grads))

    return step


def _gradients(outs: list[Tensor], layout: torch.memory_format) -> list[Tensor]:
    """Numbers that are the same in every dtype and for every form."""
    generator = torch.Generator(outs[0].device).manual_seed(1)
    drawn = [torch.randn(out.shape, generator=generator, device=out.device).bfloat16().to(out.dtype) for out in outs]
    return [grad.contiguous(memory_format=layout) if grad.dim() else torch.ones_like(grad) for grad in drawn]


def rows_of(
    case: dict[str, Any], times: dict[str, list[float]], first: dict[str, float], size: int, ours: list[str]
) -> list[dict[str, Any]]:
    """A row for every form: quartiles, first call, bytes a second, and their share of a copy's in the same rounds."""
    best_plain = runner.fastest(times, [name for name in times if name not in (*ours, COPY)])
    rows = []
    for name, own in times.items():
        row = {**case, "form": name, **runner.summary(own), "first_s": runner.significant(first[name], 3)}
        row["MB"] = runner.significant(size / 1e6)
        row["GB_per_s"] = runner.significant(size / row["ms"] / 1e6)
        if name != COPY:
            row["of_copy"] = runner.median_ratio(times[COPY], own)
        if best_plain is not None and name in ours:
            row["times_the_best_plain"] = runner.median_ratio(times[best_plain], own)
        rows.append(row)
    return rows


def measure_on_cpu(case: OperatorCase, rounds: int = ROUNDS) -> tuple[list[dict[str, Any]], Callable[[], Any]]:
    """Rows of ours, every native form and a copy, and the step of ours.

    Every form has inputs of its own, so that none finds them in the cache that another filled.

    Raises:
        AssertionError: ours differs from a native form.
    """
    torch.manual_seed(0)
    entry = OPERATORS[case.operator]
    work = entry.work(case)

    def step(function: Function, layout: str) -> runner.Step:
        form, dtype = LAYOUTS[layout], DTYPES[case.dtype]
        return step_of(
            function, [x.to(dtype, copy=True, memory_format=form) for x in work.inputs], layout, case.backward
        )

    steps = {"ours": step(work.ours, case.layout)}
    steps |= {f"eager {layout}": step(work.native, layout) for layout in LAYOUTS}
    steps[COPY] = runner.copy_of(work.size(case), case.device)
    calls = {name: runner.first_call(each, case.device) for name, each in steps.items()}
    if (tolerance := entry.tolerances.get(case.dtype)) is not None:
        for name in steps:
            if name not in ("ours", COPY):
                rtol, atol = tolerance
                torch.testing.assert_close(calls["ours"][0], calls[name][0], rtol=rtol, atol=atol)
    first = {name: took for name, (_, took) in calls.items()}
    calls.clear()
    times = runner.in_rounds(steps, rounds, case.device)
    return rows_of(case.row, times, first, work.size(case), ["ours"]), steps["ours"]
