"""The operators of `python -m bench.gpu`: every one beside native PyTorch, eager in both layouts and compiled.

Short steps are timed in batches of calls, so that launches count where they are the limit, in rounds with a copy of as
many bytes. A form that disagrees with native float32 gets no number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import timing
from bench.paired import COPY, LAYOUTS, described, rows_of
from pyranet_fast import ops
from pyranet_fast.ops import dispatch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDES = [53, 45, 38, 32]
Function = Callable[..., list[Tensor]]


@dataclass
class Work:
    """What one case computes.

    Attributes:
        leaves: float32 inputs, those of the gradients.
        ours, native: the same function of the leaves.
        elements: values that a forward must move.
        backward: how many times as many a forward with its backward moves.
        coarse: native bfloat16 is another function (it rounds windows, or after every addition): not compared.
    """

    leaves: list[Tensor]
    ours: Function
    native: Function
    elements: int
    backward: int = 2
    coarse: bool = False


def pool(shape: tuple[int, ...], device: str) -> Work:
    """fractional_max_pool_pyramid to four levels."""
    n, c, h, w = shape
    sizes = [(h * s // 64, w * s // 64) for s in SIDES]
    samples = torch.rand(4, n, c, 2, device=device)

    def native(x: Tensor) -> list[Tensor]:
        # native bfloat16 windows would be computed in bfloat16: it takes its samples in the maps' dtype
        pairs = zip(samples.to(x.dtype), sizes, strict=True)
        return [F.fractional_max_pool2d(x, 2, output_size=s, _random_samples=u) for u, s in pairs]

    elements = n * c * (h * w + sum(a * b for a, b in sizes))
    ours: Function = lambda x: ops.fractional_max_pool_pyramid(x, sizes, samples)  # noqa: E731
    return Work([torch.randn(shape, device=device)], ours, native, elements, coarse=True)


def upsample(shape: tuple[int, ...], device: str) -> Work:
    """upsample_sum of four levels."""
    n, c, h, w = shape
    sizes = [(h * s // 64, w * s // 64) for s in SIDES]

    def native(*maps: Tensor) -> list[Tensor]:
        ups = [F.interpolate(m, size=(h, w), mode="bilinear", align_corners=True) for m in maps]
        return [ups[0] + ups[1] + ups[2] + ups[3]]

    elements = n * c * (h * w + sum(a * b for a, b in sizes))
    ours: Function = lambda *maps: [ops.upsample_sum(maps, (h, w))]  # noqa: E731
    return Work([torch.randn(n, c, *s, device=device) for s in sizes], ours, native, elements, coarse=True)


def argmax(shape: tuple[int, ...], device: str) -> Work:
    """heatmap_argmax with refinement; native without, which is less work and another result."""

    def native(x: Tensor) -> list[Tensor]:
        scores, flat = x.flatten(2).max(2)
        return [torch.stack((flat % x.shape[3], flat // x.shape[3]), 2).float(), scores]

    ours: Function = lambda x: list(ops.heatmap_argmax(x, refine="quarter"))  # noqa: E731
    return Work([torch.randn(shape, device=device)], ours, native, torch.Size(shape).numel())


def loss(shape: tuple[int, ...], device: str) -> Work:
    """heatmap_loss; native makes targets on the device, then mse_loss."""
    n, k, h, w = shape
    joints, weight = torch.rand(n, k, 2, device=device) * w, torch.ones(n, k, device=device)
    xs, ys = torch.arange(w, device=device), torch.arange(h, device=device)

    def native(x: Tensor) -> list[Tensor]:
        gx = torch.exp(-((xs - joints[..., 0:1]) ** 2) / 2)
        gy = torch.exp(-((ys - joints[..., 1:2]) ** 2) / 2)
        return [F.mse_loss(x.float(), gy[..., None] * gx[..., None, :])]

    ours: Function = lambda x: [ops.heatmap_loss(x, joints, weight)]  # noqa: E731
    return Work([torch.randn(shape, device=device)], ours, native, torch.Size(shape).numel(), backward=3)


MODEL = [(16, 28, s, s) for s in (64, 32, 16, 8)]
CASES: dict[str, tuple[Callable[[tuple[int, ...], str], Work], list[tuple[int, ...]], bool]] = {
    "fractional_max_pool_pyramid": (pool, [*MODEL, (64, 128, 256, 256)], True),
    "upsample_sum": (upsample, [*MODEL, (64, 128, 256, 256)], True),
    "heatmap_argmax": (argmax, [(16, 16, 64, 64), (128, 64, 256, 256)], False),
    "heatmap_loss": (loss, [(16, 16, 64, 64), (128, 64, 256, 256)], True),
}


def differentiated(function: Function, leaves: list[Tensor], backward: bool) -> Callable[[], list[Tensor]]:
    """The function, or it and the gradients of its leaves."""
    if not backward:
        return lambda: function(*leaves)
    leaves = [x.detach().requires_grad_() for x in leaves]
    grads = [torch.ones_like(out) for out in function(*leaves)]

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(function(*leaves), leaves, grads))

    return step


def on_backend(name: str, function: Function) -> Function:
    """The function with our operators on one backend."""

    def chosen(*leaves: Tensor) -> list[Tensor]:
        with ops.backend(name):
            return function(*leaves)

    return chosen


def backends(device: str) -> list[str]:
    """Our backends that have kernels for the device."""
    kind = torch.device(device).type
    native = kind in dispatch.native_devices()
    triton = kind in dispatch.triton_devices() and "triton" in ops.available_backends()
    return [*(["native"] if native else []), *(["triton"] if triton else [])]


def agrees(operator: str, got: list[Tensor], exact: list[Tensor], dtype: str) -> bool:
    """Whether results are those of native float32, within the dtype."""
    if operator == "heatmap_argmax":  # equal maxima: PyTorch says nowhere which one wins, and in bf16 they are common
        near = ((got[0] - exact[0]).abs() <= 0.25).all(2).float().mean().item()
        return bool((got[1].float() == exact[1]).all()) and (dtype == "bf16" or near > 0.999)
    tolerance = 1e-4 if dtype == "fp32" else 3e-2
    return all(((a.float() - b).norm() <= tolerance * b.norm()).item() for a, b in zip(got, exact, strict=True))


def measure(
    operator: str,
    shape: tuple[int, ...],
    dtype: str,
    layout: str,
    backward: bool,
    device: str,
    *,
    rounds: int = 11,
    compiled: bool = True,
) -> list[dict[str, Any]]:
    """A row for every form of one case."""
    torch.manual_seed(0)
    work = CASES[operator][0](shape, device)
    low = [x.to(DTYPES[dtype]) for x in work.leaves]
    laid = {name: [x.contiguous(memory_format=form) for x in low] for name, form in LAYOUTS.items()}
    case = {**described(operator, shape, DTYPES[dtype], layout, backward), "device": torch.device(device).type}
    exact = differentiated(work.native, [x.float() for x in low], backward)()
    steps = {
        f"ours, {name}": differentiated(on_backend(name, work.ours), laid[layout], backward)
        for name in backends(device)
    }
    ours = list(steps)
    for name, leaves in laid.items():
        steps[f"eager {name}"] = differentiated(work.native, leaves, backward)
    if compiled:
        torch._dynamo.reset()
        steps[f"compiled {layout}"] = differentiated(torch.compile(work.native, dynamic=False), laid[layout], backward)
    size = work.elements * DTYPES[dtype].itemsize * (work.backward if backward else 1)
    steps[COPY] = timing.copy_of(size, device)
    first, failed, calls = dict[str, float](), dict[str, str](), dict[str, int]()
    for name, step in steps.items():
        try:
            start = time.perf_counter()
            results = step()
            timing.synchronise(device)
            first[name] = time.perf_counter() - start
            compared = name in ours or (name != COPY and not (work.coarse and dtype == "bf16"))
            if compared and not agrees(operator, results, exact, dtype):
                failed[name] = "differs from native float32"
            else:
                calls[name] = timing.calls_for(step, device)
        except Exception as error:  # native PyTorch may lack a dtype, Inductor a kernel, the GPU memory
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    times = timing.in_rounds({name: steps[name] for name in calls}, rounds, device, calls=calls)
    rows = rows_of(case, times, first, size, ours)
    return rows + [{**case, "form": name, "failed": why} for name, why in failed.items()]
