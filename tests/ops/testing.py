"""What the tests of operators share: tolerances, the pool's cases, layouts, and what Triton's tests need.

Run as a program (`python -m tests.ops.testing OPERATOR`) it compiles an operator's Triton kernels for GPUs. The
interpreter takes what Triton's compiler would refuse (a loop that changes a variable's type, say), so the kernels are
compiled too. That needs no GPU: the driver that would look for one is replaced.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.ops import dispatch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
NAN, INF = float("nan"), float("inf")

native_only = pytest.mark.skipif(not dispatch.native.here, reason="the native library is not built")
"""Of a test of native kernels."""
triton_marks = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles here: see tests/gpu"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning"),  # NumPy's, in the interpreter
]
"""Of a module of tests in Triton's interpreter."""


# --- tolerances ------------------------------------------------------------------------------------------------------

# How close two backends must be: (rtol, atol) by dtype, one table for all operator tests. bfloat16 and float16 results
# are compared with the float32 result rounded once, so one unit in the last place.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (1e-5, 1e-6),
    torch.bfloat16: (2**-7, 1e-5),
    torch.float16: (2**-10, 1e-6),
}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """torch.testing.assert_close with the table's tolerance for ``actual``'s dtype; NaN equals NaN."""
    rtol, atol = TOLERANCES[actual.dtype]
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=atol, equal_nan=True)


# --- fractional_max_pool_pyramid -------------------------------------------------------------------------------------

PYRAMID = [(53, 53), (45, 45), (38, 38), (32, 32)]
POOL_CASES = [
    (2, 28, 64, 64, PYRAMID),
    (2, 14, 16, 32, [(13, 27), (8, 16)]),
    (3, 7, 9, 13, [(1, 1), (8, 12), (5, 3)]),
    (1, 3, 2, 2, [(1, 1)]),
    (2, 1, 11, 7, [(5, 5), (10, 1)]),
    (1, 33, 63, 17, [(62, 16), (31, 2)]),
    (1, 2, 100, 3, [(99, 2), (50, 2), (3, 1)]),
]


def pool(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor, **options: object) -> list[Tensor]:
    return ops.fractional_max_pool_pyramid(x, sizes, samples, **options)


def raw(x: Tensor, sizes: Sequence[tuple[int, int]], samples: Tensor) -> tuple[list[Tensor], Tensor]:
    flat = [side for size in sizes for side in size]
    return torch.ops.pyranet_fast.fractional_max_pool_pyramid(x, samples, flat, None, None, False, True)


def starts(samples: Tensor, size: int, out: int) -> Tensor:
    """(..., out) window starts: the formula, written with tensors."""
    alpha = (torch.tensor(size - 2, dtype=samples.dtype) / max(out - 1, 1)).to(samples.dtype)
    u = samples.unsqueeze(-1)
    first = ((torch.arange(out, dtype=samples.dtype) + u) * alpha).int() - (u * alpha).int()
    first[..., -1] = size - 2
    return first.long()


def with_ties(n: int, c: int, h: int, w: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Few distinct values, so that most windows hold ties."""
    torch.manual_seed(h * w + c)
    return torch.randint(-2, 3, (n, c, h, w)).to(dtype).contiguous(memory_format=layout)


# --- Triton ----------------------------------------------------------------------------------------------------------


def in_layout(layout: str, x: Tensor) -> Tensor:
    """The values of x in other strides; "expanded AXIS" and "scalar": of its first row along an axis or its first
    element, of stride 0."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat([x, x.flip(3)], 3)[..., : x.shape[3]]
    if layout == "sliced channels_last":
        return torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]]
    if layout == "permuted":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    if layout.startswith("expanded"):
        return x.narrow(int(layout[-1]), 0, 1).expand_as(x)
    return x[:1, :1, :1, :1].expand_as(x) if layout == "scalar" else x


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 as a kernel stores it: the interpreter cuts bfloat16 off, where a GPU rounds to nearest."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    return (x.contiguous().view(torch.int32) >> 16 << 16).view(torch.float32).to(dtype)


def spoilt_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new tensor holds NaN, 255 or -1 until it is written."""

    def spoil(real: Any) -> Any:
        def spoilt(*args: Any, **kwargs: Any) -> Tensor:
            x = real(*args, **kwargs)
            return x.fill_(NAN if x.is_floating_point() else 255 if x.dtype == torch.uint8 else -1)

        return spoilt

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))


def as_if_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, and what maps of millions of pixels or elements need."""
    import triton.language as tl

    from pyranet_fast.ops.triton import fractional_max_pool_pyramid, tiles, upsample_sum

    real = tiles.Layout.of.__func__  # type: ignore[attr-defined]

    def of(cls: Any, *args: Any, **kwargs: Any) -> Any:
        layout = real(cls, *args, **kwargs)
        rows, columns, channels = (min(a, b) for a, b in zip(layout[:3], (4, 4, 8), strict=True))
        return layout._replace(rows=rows, columns=columns, channels=channels, offset=tl.int64)

    monkeypatch.setattr(tiles.Layout, "of", classmethod(of))
    monkeypatch.setattr(fractional_max_pool_pyramid, "window_repeats", lambda size: 3)
    for module in (fractional_max_pool_pyramid, upsample_sum):
        monkeypatch.setattr(module, "search_margin", lambda size: 2)


def heatmaps_as_if_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every loop turn, where small maps would fit in one tile, and compute offsets as in huge maps."""
    import triton.language as tl

    from pyranet_fast.ops.triton import heatmap_argmax, heatmap_loss, heatmap_tiles

    def of(cls: Any, height: int, width: int, channels: int = 1, elements: int = 0) -> Any:
        return cls(2, 4, channels)

    monkeypatch.setattr(heatmap_tiles.Tile, "of", classmethod(of))
    for module in (heatmap_argmax, heatmap_loss):
        monkeypatch.setattr(module, "offset_dtype", lambda *maps: tl.int64)
    monkeypatch.setattr(heatmap_loss, "_PROGRAMS", 4)
    monkeypatch.setattr(heatmap_loss, "_SUMS", 4)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is seen."""
    spoilt_memory(monkeypatch)


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch, spoilt: None) -> None:
    """As if maps were huge."""
    as_if_huge(monkeypatch)


@pytest.fixture(params=[*DTYPES, "small tiles"], ids=str)
def heatmap_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """All dtypes, and float32 in small tiles."""
    if isinstance(request.param, torch.dtype):
        return request.param
    heatmaps_as_if_huge(monkeypatch)
    return torch.float32


# The interpreter takes 20 ms for a program, so few maps: every layout, size 1, odd sizes, groups of channels that are
# full and not.
HEATMAP_CASES = [
    ("contiguous", (2, 2, 9, 7)),
    ("contiguous", (1, 1, 1, 1)),
    ("contiguous", (1, 2, 1, 19)),
    ("channels_last", (1, 5, 19, 1)),
    ("channels_last", (2, 14, 5, 6)),
    ("channels_last", (1, 33, 3, 5)),
    ("sliced", (2, 1, 4, 6)),
    ("sliced channels_last", (1, 28, 4, 3)),
    ("permuted", (1, 3, 6, 5)),
    ("expanded 0", (2, 2, 3, 4)),
    ("expanded 1", (1, 3, 4, 3)),
    ("expanded 2", (1, 2, 4, 3)),
    ("expanded 3", (1, 2, 3, 4)),
]


def whole_numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Maps with many ties."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).round().to(dtype)


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Score maps, joints of which some are off the maps, and weights of which one in four is 0."""
    generator = torch.Generator().manual_seed(0)
    n, k, h, w = shape
    wide = torch.promote_types(dtype, torch.float32)
    pred = torch.randn(shape, generator=generator).to(dtype)
    joints = torch.rand(n, k, 2, generator=generator) * torch.tensor([w + 4.0, h + 4.0]) - 2
    weight = (torch.rand(n, k, generator=generator) - 0.25).clamp_min(0)
    weight[0, 0] = 0.5
    return pred, joints.to(wide), weight.to(wide)


def on(backend: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    with ops.backend(backend):
        return function(*args, **kwargs)


def compile_in_subprocess(operator: str, cache: Path) -> list[str]:
    """The kernels that were compiled, one line each."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    del environment["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.ops.testing", operator]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def print_name(function: Any, kernel: Any) -> None:
    print(kernel.metadata.name, len(kernel.asm["cubin"]), flush=True)


def compile_only(arch: int, check: Callable[[Any, Any], None] = print_name) -> None:
    """Let kernel launches compile for this GPU and not launch; ``check(function, kernel)`` looks at what came out."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver, jit

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

        def get_current_device(self) -> int:
            return arch  # Triton keeps what it compiled by device

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Driver())
    real = getattr(jit.JITFunction, "compiled", jit.JITFunction.run)

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = real(self, *args, grid=grid, warmup=True, **kwargs)
        check(self, kernel)

    jit.JITFunction.compiled, jit.JITFunction.run = real, run


def compile_pool() -> None:
    from pyranet_fast.ops.triton import fractional_max_pool_pyramid as pool

    def compile_for(
        arch: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype, own: bool, affine: bool
    ) -> None:
        compile_only(arch)
        x = in_layout(layout, torch.zeros(shape, dtype=dtype))
        flat, vector = [4, 5, 3, 1], torch.ones(shape[1]) if affine else None
        samples = torch.zeros(2, shape[0], shape[1] if own else 1, 2)
        values, positions = pool.forward(x, samples, flat, vector, vector, affine, True)
        pool.forward(x, samples, flat, None, vector, affine, False)
        pool.backward(values, positions, samples, x if affine else None, vector, vector, affine)

    compile_for(80, (2, 28, 8, 8), "channels_last", torch.bfloat16, False, True)
    compile_for(90, (1, 1, 5, 3000), "contiguous", torch.float32, True, False)
    compile_for(90, (2, 3, 7, 8), "permuted", torch.float64, True, True)


def compile_upsample() -> None:
    from pyranet_fast.ops.triton import upsample_sum as upsample

    def compile_for(arch: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype, align_corners: bool) -> None:
        compile_only(arch)
        maps = [in_layout(layout, torch.zeros(*shape[:2], *size, dtype=dtype)) for size in ((4, 5), (3, 1))]
        base = in_layout(layout, torch.zeros(shape, dtype=dtype)) if align_corners else None
        out = upsample.forward(maps, *shape[2:], base, align_corners)  # type: ignore[call-arg]
        upsample.backward(out, [4, 5, 3, 1], align_corners)

    compile_for(80, (2, 28, 8, 8), "channels_last", torch.bfloat16, True)
    compile_for(90, (1, 1, 1, 1), "contiguous", torch.float16, False)
    compile_for(90, (2, 3, 7, 8), "permuted", torch.float64, True)


def compile_heatmaps(run: Callable[[Tensor, Tensor, Tensor], None]) -> None:
    """What ``run(maps, joints, weight)`` launches; no arithmetic in float64 but for float64 maps."""
    for dtype, layout in (
        (torch.float32, "contiguous"),
        (torch.bfloat16, "channels_last"),
        (torch.float64, "channels_last"),
    ):

        def check(function: Any, kernel: Any, dtype: torch.dtype = dtype) -> None:
            lines = [line for line in kernel.asm["ptx"].splitlines() if ".f64" in line]
            arithmetic = [line for line in lines if ".param" not in line]
            # 2 sigma^2 arrives as float64 and is rounded
            assert dtype == torch.float64 or len(arithmetic) <= 1, arithmetic
            assert "two_sigma_squared" not in function.arg_names or any(".param" in line for line in lines)
            print_name(function, kernel)

        compile_only(80, check)
        wide = torch.promote_types(dtype, torch.float32)
        x = in_layout(layout, torch.zeros(2, 16, 16, 16, dtype=dtype))
        run(x, torch.zeros(2, 16, 2, dtype=wide), torch.ones(2, 16, dtype=wide))


def compile_argmax() -> None:
    from pyranet_fast.ops.triton import heatmap_argmax as argmax

    def run(x: Tensor, joints: Tensor, weight: Tensor) -> None:
        _, scores, indices = argmax.forward(x, True)
        argmax.backward(scores, indices, 16, 16)
        argmax.forward_mirrored(x, x, torch.arange(16), True)

    compile_heatmaps(run)


def compile_loss() -> None:
    from pyranet_fast.ops.triton import heatmap_loss as loss

    def run(x: Tensor, joints: Tensor, weight: Tensor) -> None:
        loss.backward(loss.forward(x, joints, weight, 1.0), x, joints, weight, 1.0)

    compile_heatmaps(run)


def compile_gaussians() -> None:
    from pyranet_fast.ops.triton import gaussian_heatmaps as gaussian

    def run(x: Tensor, joints: Tensor, weight: Tensor) -> None:
        gaussian.forward(joints, weight, 16, 16, 1.0)

    compile_heatmaps(run)


def compile_add_affine_relu() -> None:
    from pyranet_fast.ops.triton import add_affine_relu as affine

    compile_only(90)
    for layout, dtype, outputs in (("channels_last", torch.bfloat16, 3), ("permuted", torch.float64, 1)):
        x, other = (in_layout(layout, torch.zeros(2, 28, side, side, dtype=dtype)) for side in (4, 8))
        vector = torch.zeros(outputs, 28, dtype=torch.promote_types(dtype, torch.float32))
        affine.forward(x, other, vector, vector, True)


if __name__ == "__main__":
    {
        "add_affine_relu": compile_add_affine_relu,
        "fractional_max_pool_pyramid": compile_pool,
        "upsample_sum": compile_upsample,
        "heatmap_argmax": compile_argmax,
        "heatmap_loss": compile_loss,
        "gaussian_heatmaps": compile_gaussians,
    }[sys.argv[1]]()
