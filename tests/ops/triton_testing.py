"""What the tests of Triton's pool and upsample-sum share. Run as a program it compiles their kernels for GPUs.

The interpreter takes what Triton's compiler would refuse (a loop that changes a variable's type, say), so the kernels
are compiled too. That needs no GPU: the driver that would look for one is replaced.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

marks = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles here: see tests/gpu"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAN, INF = float("nan"), float("inf")


def in_layout(layout: str, x: Tensor) -> Tensor:
    """The values of x in other strides; "expanded" and "scalar": of its first column or element, of stride 0."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat([x, x.flip(3)], 3)[..., : x.shape[3]]
    if layout == "sliced channels_last":
        return torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]]
    if layout == "permuted":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    if layout == "expanded":
        return x[..., :1].expand_as(x)
    return x[:1, :1, :1, :1].expand_as(x) if layout == "scalar" else x


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 as a kernel stores it: the interpreter cuts bfloat16 off, where a GPU rounds to nearest."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    return (x.contiguous().view(torch.int32) >> 16 << 16).view(torch.float32).to(dtype)


def spoilt_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new tensor holds NaN or 255 until it is written."""

    def spoil(real: Any) -> Any:
        def spoilt(*args: Any, **kwargs: Any) -> Tensor:
            x = real(*args, **kwargs)
            return x.fill_(NAN) if x.is_floating_point() else x.fill_(255)

        return spoilt

    for owner, name in ((torch, "empty"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))


def as_if_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, and what maps of millions of pixels or elements need."""
    import triton.language as tl

    from pyranet_fast.ops.triton import fractional_max_pool_pyramid, geometry, upsample_sum

    real = geometry.Layout.of.__func__

    def of(cls: Any, *args: Any, **kwargs: Any) -> Any:
        layout = real(cls, *args, **kwargs)
        rows, columns, channels = (min(a, b) for a, b in zip(layout[:3], (4, 4, 8), strict=True))
        return layout._replace(rows=rows, columns=columns, channels=channels, offset=tl.int64)

    monkeypatch.setattr(geometry.Layout, "of", classmethod(of))
    monkeypatch.setattr(fractional_max_pool_pyramid, "window_repeats", lambda size: 3)
    for module in (fractional_max_pool_pyramid, upsample_sum):
        monkeypatch.setattr(module, "search_margin", lambda size: 2)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is seen."""
    spoilt_memory(monkeypatch)


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch, spoilt: None) -> None:
    """As if maps were huge."""
    as_if_huge(monkeypatch)


def compile_in_subprocess(operator: str, cache: Path) -> list[str]:
    """The kernels that were compiled, one line each."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    del environment["TRITON_INTERPRET"]
    run = subprocess.run([sys.executable, __file__, operator], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def compile_only(arch: int) -> None:
    """Let kernel launches compile for this GPU and not launch."""
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
        print(arch, kernel.metadata.name, len(kernel.asm["cubin"]), flush=True)

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
        out = upsample.forward(maps, *shape[2:], base, align_corners)
        upsample.backward(out, [4, 5, 3, 1], align_corners)

    compile_for(80, (2, 28, 8, 8), "channels_last", torch.bfloat16, True)
    compile_for(90, (1, 1, 1, 1), "contiguous", torch.float16, False)
    compile_for(90, (2, 3, 7, 8), "permuted", torch.float64, True)


if __name__ == "__main__":
    {"pool": compile_pool, "upsample": compile_upsample}[sys.argv[1]]()
