"""When which CPU fusion runs: every threshold with the measurement behind it, and the rules that read them.

Quotations name rows of bench/NOTES.md, where machine and conditions are described; to change a threshold, measure it
again there first. Without a threshold, wherever there is a kernel, run `fused_pointwise` ("norms and first 1×1s of a
unit in one pass": 79 to 65 ms a pass at batch 1; in bfloat16 only where there are no matrix units), `pooled_pyramid`
but for what it must convert ("pool, filters, upsampling, sum, ReLU and 1×1 of a pyramid in one call": 62 to 54 ms),
`add_affine_relu` ("all norms of a unit's entry in one pass": 1.25 times eager at batch 4, with two more) and shared
norms ("norms of one unit share statistics and passes": 3-5 % of the training step).
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import dispatch
from ..checks import FLOATS, memory_format, transformed, wide_dtype

WINOGRAD_LEAST_CHANNELS = 32
WINOGRAD_LEAST_TILES = {4: 24, 2: 16}
"""Of a map, by the side of a tile. Inference, "3×3 by Winograd's F(4×4, 3×3) in float32": 2.1-2.3 times oneDNN at 64²
and 32²; "F(2×2, 3×3) in float32 where a map has few tiles of 4×4": 1.5 times at 16², 1.2-1.5 at 8² of two images,
0.9 at 8² of one, which recorded passes make good ("small maps (from 16 tiles of 2×2)"): 1.00-1.02 times a pass; "3×3 in
bf16 by Winograd's F(2×2, 3×3)"."""

WINOGRAD_LEAST_TILES_IN_TRAINING = 32
"""Training transforms its filters at every step, "packing its filters at every step": 0.4-0.7 ms each."""

WINOGRAD_LEAST_TILES_OF_WEIGHT_GRADIENT = 64
"""Training, "Winograd for the gradient of the weight": 1.85 times at 64², 1.6 at 32², 1.04 at 16², 0.7 at 8²."""

POINTWISE_MOST_PIXELS = 2048
"""Training, "1×1s of small maps, up to 2048 pixels of a batch, as matrix products": 1.03 and 1.04 times the step; up to
8192 pixels 1.01. "1×1s of large maps as matrix products": 0.9-1.03."""

FUSED_POINTWISE_ALONE_MOST_PIXELS = 5000
"""Inference, "the last 1×1 of our own up to 300 pixels": 94 to 68 µs a call at 16², 47 to 14 µs at 8²; "1×1s with an
addition up to 5000 pixels by kernels here": 1.00-1.03 times a pass at batch 1; all: 0.96 in bfloat16 at batch 4."""

PYRAMID_MOST_PIXELS_CONVERTED = 4096
"""Inference, "the same in bf16, on float32 copies": 1.05 and 1.02 times at batch 1 and 4; without it 1.02 and 0.96.
For float16, and bfloat16 with odd numbers of channels."""

LOWER_PRECISIONS = (torch.bfloat16, torch.float16)


@functools.cache
def cpu_isa() -> str | None:
    """The instruction set that the library says it runs: "avx512bf16", "avx512", "avx2" or "baseline"; or None."""
    library = sys.modules.get("pyranet_fast._C")
    if library is None or library.__file__ is None:
        return None
    try:
        function = ctypes.CDLL(library.__file__).pyranet_fast_cpu_isa
    except (OSError, AttributeError):  # a library built before this function was there
        return None
    function.restype = ctypes.c_char_p
    return str(function().decode())


def cpu_name() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def has_matrix_units() -> bool:
    """Whether oneDNN multiplies bfloat16 in tiles (AMX), many times as fast as vectors do."""
    tell = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return tell is not None and bool(tell())


def in_pairs(dtype: torch.dtype, *depths: int) -> bool:
    """Whether products are of pairs of bfloat16, side by side in depths that have an even number of them."""
    return dtype == torch.bfloat16 and all(depth % 2 == 0 for depth in depths)


def multiplies(weight: Tensor) -> bool:
    """Whether our products are the faster ones for weights (K, C, ...): float32, or bfloat16 by vectors of pairs."""
    if weight.dtype == torch.bfloat16:
        return in_pairs(weight.dtype, weight.shape[1]) and not has_matrix_units()
    return weight.dtype == torch.float32


def native_cpu(x: Tensor) -> bool:
    """Whether a tensor lies where the fusions run, on the CPU with the native backend in use."""
    return x.device.type == "cpu" and dispatch.native.here and dispatch.choose(x) == "native"


def fuses() -> bool:
    """Whether fusions may run: compilers, transforms of torch.func and forward-mode AD see PyTorch's own operators."""
    return not torch.compiler.is_compiling() and not transformed()


def _eager_native_cpu(x: Tensor) -> bool:
    """As `native_cpu`, where fusions may run."""
    return fuses() and native_cpu(x)


def _pixels(x: Tensor) -> int:
    """Of all maps of a batch."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def _channels_last(x: Tensor) -> bool:
    return memory_format(x) == torch.channels_last


def _winograd_tiles(x: Tensor, side: int) -> int:
    return x.shape[0] * (-(-x.shape[2] // side)) * (-(-x.shape[3] // side))


def supports_winograd(weight: Tensor) -> bool:
    """Whether 3x3 filters (K, C, 3, 3) can be transformed, and have channels enough to pay."""
    return multiplies(weight) and min(weight.shape[:2]) >= WINOGRAD_LEAST_CHANNELS and native_cpu(weight)


def winograd_tile(x: Tensor) -> int:
    """The side of the tiles that outweigh the reading of 36 / 9 times the weights, or 16 / 9; 0 where none do."""
    if not fuses():
        return 0
    sides = (2,) if x.dtype == torch.bfloat16 else (4, 2)
    return next((side for side in sides if _winograd_tiles(x, side) >= WINOGRAD_LEAST_TILES[side]), 0)


def winograd_weight_gradient_pays(x: Tensor) -> bool:
    """Whether Winograd's method is the faster one for the gradient of the weight, too."""
    return _winograd_tiles(x, 4) >= WINOGRAD_LEAST_TILES_OF_WEIGHT_GRADIENT


def trains_with_winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd.differentiable_conv3x3` is the faster convolution of a map."""
    return (
        fuses()  # first: in a graph sizes may be symbols
        and x.dtype == torch.float32
        and supports_winograd(weight)
        and _winograd_tiles(x, 4) >= WINOGRAD_LEAST_TILES_IN_TRAINING
        and not torch.is_autocast_enabled("cpu")
        and _channels_last(x)
    )


def trains_with_pointwise(x: Tensor, weight: Tensor) -> bool:
    """Whether `pointwise.conv1x1` is the faster 1x1 convolution of a map."""
    return (
        fuses()  # first: in a graph sizes may be symbols
        and x.dim() == 4
        and x.dtype == weight.dtype == torch.float32
        and x.shape[1] == weight.shape[1]
        and _pixels(x) <= POINTWISE_MOST_PIXELS
        and not torch.is_autocast_enabled("cpu")
        and _channels_last(x)
        and native_cpu(x)
    )


def supports_fused_pointwise(x: Tensor, weight: Tensor) -> bool:
    """Whether `fused_pointwise` has a kernel for a map and the weights of its 1x1 convolutions."""
    return x.dtype == weight.dtype and multiplies(weight) and _eager_native_cpu(x)


def fused_pointwise_alone_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `fused_pointwise` alone, which costs less to call, is faster than oneDNN's 1x1 convolution."""
    return supports_fused_pointwise(x, weight) and _pixels(x) <= FUSED_POINTWISE_ALONE_MOST_PIXELS


def supports_pooled_pyramid(x: Tensor, y: Tensor, weight: Tensor) -> bool:
    """Whether `pooled_pyramid` is for the pyramid's input, the map added to, and the last convolution's weights."""
    return (
        fuses()  # first: in a graph sizes may be symbols
        and x.dtype == y.dtype == weight.dtype
        and (
            x.dtype == torch.float32
            or in_pairs(x.dtype, x.shape[1], weight.shape[1])
            or (x.dtype in LOWER_PRECISIONS and _pixels(x) <= PYRAMID_MOST_PIXELS_CONVERTED)
        )
        and _channels_last(y)
        and native_cpu(x)
    )


def supports_batch_norm_relu(x: Tensor, vectors: Sequence[Tensor | None], batches: Tensor | None) -> bool:
    """Whether there is a kernel for one norm, on the CPU or on CUDA: weight, bias, running mean and variance in the
    precision of its sums, a counter beside averages. Triton has none: PyTorch's batch norm and a ReLU run."""
    if dispatch.choose(x) != "native" or x.dtype not in FLOATS:
        return False
    wide, (_, _, mean, var) = wide_dtype(x), vectors
    counted = batches is not None and mean is not None and var is not None
    averages = mean is None or (counted and all(v is not None and v.is_contiguous() for v in (mean, var)))
    return averages and all(v is None or v.dtype == wide for v in vectors)


def supports_shared_batch_norm_relu(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether there is a kernel for several norms of one map: channels_last, contiguous vectors; on CUDA for at most
    three norms, of which each has four ``vectors``."""
    wide = wide_dtype(x)
    return (
        fuses()
        and (native_cpu(x) or (x.device.type == "cuda" and len(vectors) <= 12 and dispatch.choose(x) == "native"))
        and x.dtype in FLOATS
        and x.numel() > x.shape[1]
        and _channels_last(x)
        and all(v is not None and v.dtype == wide and v.is_contiguous() for v in vectors)
    )
