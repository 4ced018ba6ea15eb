"""`python -m tests.ops.triton_resources`: registers and stack of Triton's kernels at the network's shapes.

Compiles every launch of a training step and of a prediction without a GPU and reads what its machine code needs.

Windows are of each channel or of each sample. What spills lies on the stack. One line a kernel; the
exit status is 1 where one spills or needs more than 128 registers, with which a multiprocessor holds 16 warps.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = (80, 90, 100, 120)
MOST_REGISTERS = 128
MOST_STACK = 16
"""Bytes. ptxas sets up to four values aside, stored once before the loops and read once after them, where that saves a
step of registers; more would be in the loops."""
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
BATCH = 16
PYRAMID = [53, 53, 45, 45, 38, 38, 32, 32]
Launch = tuple[str, Callable[[], Any]]


def launches(dtype: torch.dtype, layout: torch.memory_format) -> Iterator[Launch]:
    """The name of each launch, and what makes it."""
    from pyranet_fast.ops.triton import add_affine_relu as affine
    from pyranet_fast.ops.triton import fractional_max_pool_pyramid as pool
    from pyranet_fast.ops.triton import gaussian_heatmaps as gaussian
    from pyranet_fast.ops.triton import heatmap_argmax as argmax
    from pyranet_fast.ops.triton import heatmap_loss as loss
    from pyranet_fast.ops.triton import upsample_sum as upsample

    wide = torch.promote_types(dtype, torch.float32)

    def made(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout)

    x, levels = made(BATCH, 28, 64, 64), [made(BATCH, 28, s, s) for s in PYRAMID[::2]]
    positions = torch.zeros(x.shape, dtype=torch.uint8).contiguous(memory_format=layout)
    vector = torch.zeros(28, dtype=wide)
    for windows, channels in (("shared", 1), ("own", 28)):
        u = torch.zeros(4, BATCH, channels, 2)
        for name, norm in (("", None), (" with norm", vector)):
            arguments = (u, PYRAMID, norm, norm, norm is not None)
            yield f"pool, {windows} windows{name}", lambda a=arguments: pool.forward(x, *a, True)  # type: ignore[misc, call-arg]
            back = (levels, positions, u, None if norm is None else x, norm, norm, norm is not None)
            yield f"pool backward, {windows} windows{name}", lambda a=back: pool.backward(*a)  # type: ignore[misc]
    low, full, norms = made(BATCH, 256, 32, 32), made(BATCH, 256, 64, 64), torch.zeros(3, 256, dtype=wide)
    yield "sum with 3 norms", lambda: affine.forward(full, full, norms, norms, True)
    yield "sum of a smaller map with 2 norms", lambda: affine.forward(low, full, norms[:2], norms[:2], False)
    yield "upsample", lambda: upsample.forward(levels, 64, 64, x, True)
    yield "upsample backward", lambda: upsample.backward(x, PYRAMID, True)
    maps, joints, weight = made(BATCH, 16, 64, 64), torch.zeros(BATCH, 16, 2, dtype=wide), torch.ones(BATCH, 16)
    yield "argmax", lambda: argmax.forward(maps, True)
    yield "argmax of mirrored maps", lambda: argmax.forward_mirrored(maps, maps, torch.arange(16), True)
    grad = torch.zeros(BATCH, 16, dtype=dtype), torch.zeros(BATCH, 16, dtype=torch.int64)
    yield "argmax backward", lambda: argmax.backward(*grad, 64, 64)
    yield "loss", lambda: loss.forward(maps, joints, weight.to(wide), 1.0)
    one = torch.ones((), dtype=wide)
    yield "loss backward", lambda: loss.backward(one, maps, joints, weight.to(wide), 1.0)
    yield "targets", lambda: gaussian.forward(joints, weight.to(wide), 64, 64, 1.0)


def tool(name: str) -> str:
    """A program of NVIDIA's that comes with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def usage_of(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread and bytes of its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", run.stdout)
    assert found is not None, run.stdout
    return int(found[1]), int(found[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and print; returns the exit status."""
    from tests.ops.testing import compile_only

    parser = argparse.ArgumentParser(
        prog="python -m tests.ops.triton_resources", description=(__doc__ or "").splitlines()[2]
    )
    parser.add_argument("architectures", nargs="*", type=int, default=ARCHITECTURES, metavar="ARCHITECTURE")
    parser.add_argument("--layout", default="channels_last", choices=LAYOUTS, help="(default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=DTYPES)
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="launches whose names have it, as in 'backward|loss'"
    )
    parser.add_argument("--most-registers", type=int, default=MOST_REGISTERS, help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    current, bad = "", 0

    def check(function: Any, kernel: Any) -> None:
        nonlocal bad
        registers, stack = usage_of(kernel.asm["cubin"])
        fits = registers <= arguments.most_registers and stack <= MOST_STACK
        bad += not fits
        name = kernel.metadata.name.strip("_").removesuffix("_kernel")
        verdict = "ok" if fits else "TOO MUCH"
        print(f"{current:<60}{name:<10}{registers:>4} registers {stack:>4} B of stack  {verdict}", flush=True)

    for arch in arguments.architectures:
        compile_only(arch, check)
        for dtype in arguments.dtypes:
            for name, launch in launches(DTYPES[dtype], LAYOUTS[arguments.layout]):
                if re.search(arguments.only, name):
                    current = f"sm_{arch} {dtype}: {name}"
                    launch()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
