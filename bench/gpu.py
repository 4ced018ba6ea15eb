"""`python -m bench.gpu`: every operator on this GPU beside native PyTorch, eager and compiled, in one run.

Writes bench/results/<gpu>.json: a machine line, the ceilings measured in the same run (device copy, bf16 matrix
product), and for every operator, shape, dtype and layout the median time of each form (CUDA events around whole
batches of calls, so launches count where they are the limit), bytes that must move, and ratios. A form that
disagrees with ours gets no number: parity comes first.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import _backend

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDES = [53, 45, 38, 32]
Step = Callable[[], list[Tensor]]


def milliseconds(step: Callable[[], Any], budget: float = 0.15) -> float:
    """Median time of a call over rounds of many calls, GPU time between events."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    calls = max(1, min(50, int(0.01 / max(1e-6, time.perf_counter() - begin))))
    times = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 5:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            step()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / calls)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What this GPU can do at most, measured now."""
    x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    copy = 2 * x.numel() / milliseconds(lambda: y.copy_(x), 0.5) / 1e9
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    product = 2 * 8192**3 / milliseconds(lambda: a @ a, 0.5) / 1e9
    return {"copy_TB_per_s": round(copy, 3), "bf16_matmul_TFLOP_per_s": round(product, 1)}


def draw(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=LAYOUTS[layout])


def differentiated(function: Callable[..., list[Tensor]], leaves: list[Tensor], backward: bool) -> Step:
    """The function, or it and the gradients of its leaves."""
    if not backward:
        return lambda: function(*leaves)
    leaves = [x.detach().requires_grad_() for x in leaves]
    grads = [torch.ones_like(out) for out in function(*leaves)]
    return lambda: list(torch.autograd.grad(function(*leaves), leaves, grads))


def pool(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[list[Tensor], dict[str, Any], float]:
    """Leaves, ours and native's functions, elements that a forward must move."""
    n, c, h, w = shape
    sizes = [(h * s // 64, w * s // 64) for s in SIDES]
    samples = torch.rand(4, n, c, 2, device="cuda")

    def native(x: Tensor) -> list[Tensor]:
        # native bfloat16 windows would be computed in bfloat16: it takes its samples in the maps' dtype
        pairs = zip(samples.to(x.dtype), sizes, strict=True)
        return [F.fractional_max_pool2d(x, 2, output_size=s, _random_samples=u) for u, s in pairs]

    forms = {"ours": lambda x: ops.fractional_max_pool_pyramid(x, sizes, samples), "native": native}
    return [draw(shape, dtype, layout)], forms, n * c * (h * w + sum(a * b for a, b in sizes))


def upsample(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[list[Tensor], dict[str, Any], float]:
    """The same for upsample_sum."""
    n, c, h, w = shape
    sizes = [(h * s // 64, w * s // 64) for s in SIDES]

    def native(*maps: Tensor) -> list[Tensor]:
        ups = [F.interpolate(m, size=(h, w), mode="bilinear", align_corners=True) for m in maps]
        return [ups[0] + ups[1] + ups[2] + ups[3]]

    forms = {"ours": lambda *maps: [ops.upsample_sum(maps, (h, w))], "native": native}
    return [draw((n, c, *s), dtype, layout) for s in sizes], forms, n * c * (h * w + sum(a * b for a, b in sizes))


def argmax(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[list[Tensor], dict[str, Any], float]:
    """The same for heatmap_argmax with refinement (native: without, which is less work)."""

    def native(x: Tensor) -> list[Tensor]:
        scores, flat = x.flatten(2).max(2)
        return [torch.stack((flat % x.shape[3], flat // x.shape[3]), 2).float(), scores]

    forms = {"ours": lambda x: list(ops.heatmap_argmax(x, refine="quarter")), "native": native}
    return [draw(shape, dtype, layout)], forms, float(torch.Size(shape).numel())


def loss(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[list[Tensor], dict[str, Any], float]:
    """The same for heatmap_loss (native: targets made on the GPU, then mse_loss)."""
    n, k, h, w = shape
    joints, weight = torch.rand(n, k, 2, device="cuda") * w, torch.ones(n, k, device="cuda")
    xs, ys = torch.arange(w, device="cuda"), torch.arange(h, device="cuda")

    def native(x: Tensor) -> list[Tensor]:
        gx = torch.exp(-((xs - joints[..., 0:1]) ** 2) / 2)
        gy = torch.exp(-((ys - joints[..., 1:2]) ** 2) / 2)
        return [F.mse_loss(x.float(), gy[..., None] * gx[..., None, :])]

    forms = {"ours": lambda x: [ops.heatmap_loss(x, joints, weight)], "native": native}
    return [draw(shape, dtype, layout)], forms, float(torch.Size(shape).numel())


MODEL = [(16, 28, s, s) for s in (64, 32, 16, 8)]
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], bool]] = {
    "fractional_max_pool_pyramid": (pool, [*MODEL, (64, 128, 256, 256)], True),
    "upsample_sum": (upsample, [*MODEL, (64, 128, 256, 256)], True),
    "heatmap_argmax": (argmax, [(16, 16, 64, 64), (128, 64, 256, 256)], False),
    "heatmap_loss": (loss, [(16, 16, 64, 64), (128, 64, 256, 256)], True),
}


def measure(operator: str, shape: tuple[int, ...], dtype: str, layout: str, backward: bool) -> dict[str, Any]:
    """All forms of one case."""
    make = CASES[operator][0]
    torch._dynamo.reset()
    row: dict[str, Any] = {"operator": operator, "shape": shape, "dtype": dtype, "layout": layout}
    row["direction"] = "forward+backward" if backward else "forward"
    steps: dict[str, Step] = {}
    leaves, forms, elements = make(shape, DTYPES[dtype], layout)
    others, other_forms, _ = make(shape, DTYPES[dtype], next(name for name in LAYOUTS if name != layout))
    steps["eager"] = differentiated(forms["native"], leaves, backward)
    steps["eager, other layout"] = differentiated(other_forms["native"], others, backward)
    steps["compiled"] = differentiated(torch.compile(forms["native"]), leaves, backward)
    row["ms"] = {}
    for backend in ("native", "triton"):
        if backend not in ops.available_backends() or (backend == "native" and _backend.cuda_error):
            continue
        with ops.backend(backend):
            row["ms"][f"ours, {backend}"] = milliseconds(differentiated(forms["ours"], leaves, backward))
    for name, step in steps.items():
        try:
            row["ms"][name] = milliseconds(step)
        except RuntimeError as error:  # native PyTorch may lack a dtype, or memory
            row.setdefault("failed", {})[name] = str(error).splitlines()[0]
    best = min(ms for name, ms in row["ms"].items() if name.startswith("ours"))
    eager = [ms for name, ms in row["ms"].items() if name.startswith("eager")]
    if eager:
        row["times_faster_than_eager"] = round(min(eager) / best, 2)
    if "compiled" in row["ms"]:
        row["times_faster_than_compiled"] = round(row["ms"]["compiled"] / best, 2)
    row["TB_per_s"] = round(elements * leaves[0].element_size() * (2 if backward else 1) / best / 1e9, 3)
    row["ms"] = {name: round(ms, 5) for name, ms in row["ms"].items()}
    return row


def main() -> int:
    """Measure everything, print a line a case, write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder for <gpu>.json")
    parser.add_argument("--operators", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.gpu: there is no GPU that torch can use", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name()
    result: dict[str, Any] = {
        "machine": f"{gpu}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
        "command": "python -m bench.gpu",
        "ceilings": ceilings(),
        "rows": [],
    }
    print(result["machine"], result["ceilings"], flush=True)
    for operator in arguments.operators:
        _, shapes, differentiable = CASES[operator]
        for shape in shapes:
            for dtype in DTYPES:
                for layout in LAYOUTS:
                    for backward in (False, True) if differentiable else (False,):
                        row = measure(operator, shape, dtype, layout, backward)
                        row["of_copy"] = round(row["TB_per_s"] / result["ceilings"]["copy_TB_per_s"], 3)
                        result["rows"].append(row)
                        print(json.dumps(row), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
