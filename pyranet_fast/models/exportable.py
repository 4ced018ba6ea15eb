"""A trained PyraNet as a plain PyTorch module of fixed input size for exporters: norms folded, windows as tables."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..io import atomic_write
from ..nn.hourglass import max_pool
from ..nn.pyramid import draw_samples, level_sizes
from ..ops import fractional_max_pool_pyramid, upsample_sum
from .optimized import InferencePyraNet, optimize_for_inference
from .optimized.folding import Entry, FoldedConv, FoldedDilatedPyramid, FoldedPooledPyramid, FoldedUnit
from .pyranet import PyraNet, check_image

Size = tuple[int, int]


def window_starts(inputs: int, outputs: int, sample: float = 0.5) -> list[int]:
    """Where the windows of fractional max-pooling start along an axis, in float32 as the kernels compute them.

    In double some window differs: among 64 to 53 pixels, for instance, (i + u) * alpha falls on the other side of an
    integer.

    Args:
        inputs, outputs: length of the axis before and after, outputs < inputs.
        sample: u in [0, 1); 0.5 in evaluation.

    Returns:
        ``outputs`` indices between 0 and ``inputs`` - 2; a window is that pixel and the next.
    """
    u = np.float32(sample)
    alpha = np.float32(inputs - 2) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
    # int() cuts off, as the kernels' conversion does.
    starts = [int((np.float32(i) + u) * alpha) - int(u * alpha) for i in range(outputs - 1)]
    return [max(0, min(start, inputs - 2)) for start in starts] + [inputs - 2]


class _Conv(nn.Conv2d):
    """A folded convolution, with its ReLU."""

    def __init__(self, folded: FoldedConv) -> None:
        (top, left), (down, across), (dy, dx) = folded.geometry
        outputs, inputs, height, width = folded.weight.shape
        super().__init__(
            inputs, outputs, (height, width), stride=(down, across), padding=(top, left), dilation=(dy, dx)
        )
        self.weight = nn.Parameter(folded.weight.detach().clone().contiguous(), requires_grad=False)
        assert self.bias is not None
        self.bias = nn.Parameter(folded.bias.detach().clone(), requires_grad=False)
        self.relu = folded.relu

    def forward(self, input: Tensor, other: Tensor | None = None) -> Tensor:
        """relu?(conv(input) + other?)."""
        y = super().forward(input)
        if other is not None:
            y = y + other
        return F.relu(y) if self.relu else y


class _Entry(nn.Module):
    """`Entry`: every branch's norm of x with ReLU, and its first convolution."""

    zero: Tensor
    one: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.places = list(entry.places)
        self.convs = nn.ModuleList(_Conv(conv) for conv in cast(Sequence[FoldedConv], entry.convs))
        self.register_buffer("scale", entry.scale.detach().clone())
        self.register_buffer("shift", entry.shift.detach().clone())
        self.register_buffer("zero", torch.zeros(entry.scale.shape[1]))
        self.register_buffer("one", torch.ones(entry.scale.shape[1]))

    def forward(self, x: Tensor) -> list[Tensor]:
        # As a batch norm, which runtimes have fast ways for, rather than as a product and a sum.
        normed = [
            F.relu(F.batch_norm(x, self.zero, self.one, scale, shift, False, 0.0, 0.0))
            for scale, shift in zip(self.scale, self.shift, strict=True)
        ]
        return [conv(x if i < 0 else normed[i]) for i, conv in zip(self.places, self.convs, strict=True)]


def _upsample(x: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation to ``size`` by factors, which a file can hold; sizes it would compute.

    With aligned corners a factor says nothing but the size, in any precision where it aims at half a pixel more.
    """
    factors = [to / side if to % side == 0 else (to + 0.5) / side for to, side in zip(size, x.shape[2:], strict=True)]
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=True)


class _PooledPyramid(nn.Module):
    """`FoldedPooledPyramid` of maps of one size."""

    def __init__(self, pyramid: FoldedPooledPyramid, size: Size, custom: bool) -> None:
        super().__init__()
        self.size, self.custom = size, custom
        self.levels, self.concatenate = pyramid.levels, pyramid.concatenate
        self.sizes = level_sizes(size, pyramid.levels)
        self.filters = nn.ModuleList(_Conv(conv) for conv in cast(Sequence[FoldedConv], pyramid.filters))
        self.expand = _Conv(pyramid.expand)
        for level, (h, w) in enumerate(() if custom else self.sizes):
            self.register_buffer(f"rows{level}", torch.tensor(window_starts(size[0], h)))
            self.register_buffer(f"columns{level}", torch.tensor(window_starts(size[1], w)))

    def _pool(self, entries: list[Tensor]) -> list[Tensor]:
        if self.custom:
            samples = draw_samples(entries[0], self.levels, "batch", False)
            if len(entries) == 1:
                return fractional_max_pool_pyramid(entries[0], self.sizes, samples)
            parts = zip(entries, self.sizes, samples.unsqueeze(1), strict=True)
            return [fractional_max_pool_pyramid(x, [size], u)[0] for x, size, u in parts]
        # The maximum of every 2x2 window there is, once; a level takes rows and columns of it.
        largest = [F.max_pool2d(x, 2, stride=1) for x in entries]
        maps = []
        for level in range(self.levels):
            rows, columns = self.get_buffer(f"rows{level}"), self.get_buffer(f"columns{level}")
            maps.append(largest[level % len(largest)].index_select(2, rows).index_select(3, columns))
        return maps

    def _upsample(self, maps: list[Tensor]) -> Tensor:
        if self.custom:
            return upsample_sum(maps, self.size, align_corners=True)
        ups = [_upsample(m, self.size) for m in maps]
        total = ups[0]
        for up in ups[1:]:
            total = total + up
        return total

    def forward(self, entries: list[Tensor], full: Tensor) -> Tensor:
        """As `FoldedPooledPyramid.forward`; nothing is overwritten."""
        maps = [self.filters[i % len(self.filters)](m) for i, m in enumerate(self._pool(entries))]
        joined = torch.cat([self._upsample([m]) for m in maps], 1) if self.concatenate else self._upsample(maps)
        return cast(Tensor, self.expand(F.relu(joined), full))


class _DilatedPyramid(nn.Module):
    """`FoldedDilatedPyramid`."""

    def __init__(self, pyramid: FoldedDilatedPyramid) -> None:
        super().__init__()
        self.filters = nn.ModuleList(_Conv(conv) for conv in cast(Sequence[FoldedConv], pyramid.filters))
        self.expand = _Conv(pyramid.expand)

    def forward(self, entries: list[Tensor], full: Tensor) -> Tensor:
        (x,), total = entries, None
        for dilated in self.filters:
            total = dilated(x, total)
        return cast(Tensor, self.expand(total, full))


class _Unit(nn.Module):
    """`FoldedUnit` of maps of one size."""

    def __init__(self, unit: FoldedUnit, size: Size, custom: bool) -> None:
        super().__init__()
        self.entry, self.projects = _Entry(unit.entry), unit.projects
        self.filter, self.expand = _Conv(unit.filter), _Conv(unit.expand)
        self.pyramid: _PooledPyramid | _DilatedPyramid | None = None
        if isinstance(unit.pyramid, FoldedPooledPyramid):
            self.pyramid = _PooledPyramid(unit.pyramid, size, custom)
        elif unit.pyramid is not None:
            self.pyramid = _DilatedPyramid(unit.pyramid)

    def forward(self, x: Tensor) -> Tensor:
        first = self.entry(x)
        skip = first.pop() if self.projects else x
        y = self.filter(first[0])
        if self.pyramid is not None:
            y = self.pyramid(first[1:], y)
        return cast(Tensor, self.expand(y, skip))


class _Hourglass(nn.Module):
    def __init__(self, hourglass: nn.Module, size: Size, custom: bool) -> None:
        super().__init__()
        units = {name: cast(FoldedUnit, getattr(hourglass, name)) for name in ("up1", "low1", "low3")}
        half, inner = (size[0] // 2, size[1] // 2), cast(nn.Module, hourglass.low2)
        self.up1 = _Unit(units["up1"], size, custom)
        self.low1, self.low3 = _Unit(units["low1"], half, custom), _Unit(units["low3"], half, custom)
        self.low2: _Unit | _Hourglass
        self.low2 = _Unit(inner, half, custom) if isinstance(inner, FoldedUnit) else _Hourglass(inner, half, custom)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(max_pool(x))))
        return F.interpolate(low, scale_factor=2.0, mode="nearest") + self.up1(x)


class _Stack(nn.Module):
    def __init__(self, stack: nn.Module, size: Size, custom: bool) -> None:
        super().__init__()
        self.hourglass = _Hourglass(cast(nn.Module, stack.hourglass), size, custom)
        self.features = _Entry(cast(Entry, stack.features))
        following = cast(FoldedConv | None, stack.following)
        # A stack's scores reach the next one through `following`; only the last are an output.
        self.head = _Conv(cast(FoldedConv, stack.score) if following is None else following)
        self.last = following is None

    def forward(self, x: Tensor) -> Tensor:
        (features,) = self.features(self.hourglass(x))
        return cast(Tensor, self.head(features) if self.last else self.head(features, x))


class ExportablePyraNet(nn.Module):
    """See `exportable`.

    Attributes:
        size: (height, width) of the input.
        custom: whether pyramids use this package's operators.
        joints: number of score maps, K.
    """

    def __init__(self, network: InferencePyraNet, size: Size, custom: bool) -> None:
        super().__init__()
        self.size, self.custom, self.joints = size, custom, cast(int, network.config["joints"])
        half, quarter = ((size[0] // part, size[1] // part) for part in (2, 4))
        self.conv = _Conv(network.conv)
        self.unit1 = _Unit(network.unit1, half, custom)
        self.unit2, self.unit3 = _Unit(network.unit2, quarter, custom), _Unit(network.unit3, quarter, custom)
        self.stacks = nn.ModuleList(_Stack(stack, quarter, custom) for stack in network.stacks)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalized, of exactly ``size``, to the last stack's score maps (N, K, H/4, W/4)."""
        x = self.unit3(self.unit2(max_pool(self.unit1(self.conv(image)))))
        for stack in self.stacks:
            x = stack(x)
        return cast(Tensor, x)


def exportable(model: PyraNet, size: int | Size, *, custom: bool = False) -> ExportablePyraNet:
    """Copy a trained network for export, with fixed input size and dynamic batch size.

    Batch norms after a convolution are folded into it; those at the entry of a unit remain batch norms. The copy
    returns the score maps of the last stack, equal up to rounding.

    Args:
        model: any variant and number of stacks, on any device; not changed. Uses its running statistics.
        size: side, or (height, width), of the images: multiples of ``model.multiple``.
        custom: whether pyramids use this package's operators ``pyranet_fast::…``; if False, only standard operators,
            with pooling windows as index tables.

    Returns:
        A module on the CPU in evaluation mode, without gradients.

    Raises:
        TypeError, ValueError: model is not a PyraNet, or size is invalid.
    """
    if not isinstance(model, PyraNet):
        raise TypeError(f"model must be a PyraNet, got {type(model).__name__}")
    height, width = (size, size) if isinstance(size, int) else size
    check_image(torch.empty(0, 3, height, width), model.multiple)
    home = next(model.parameters()).device
    network = optimize_for_inference(model).cpu() if home.type != "cpu" else optimize_for_inference(model)
    return ExportablePyraNet(network, (height, width), custom)


EXTRA = "pip install pyranet-fast[export]"


def onnx_model(
    module: nn.Module,
    example: Tensor,
    *,
    inputs: Sequence[str] = ("image",),
    outputs: Sequence[str] = ("heatmaps",),
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnx.ModelProto`` of a module of one tensor, whose first axis is free: the batch.

    Args:
        module: such as `exportable` makes, on the CPU and in eval mode.
        example: (2 or more, …), an input.
        inputs, outputs: names in the file.
        metadata: what the file is to say of itself beside the graph.

    Raises:
        UserError: onnx or onnxscript are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"writing ONNX needs the packages onnx and onnxscript ({error}): {EXTRA}") from error
    from torch.export import Dim

    # torch's exporter traces the module as it is: gradients off, its own notes to developers out of the way.
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=({0: Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # Where in our source each node comes from is a fifth of the file, and a place on this machine.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    return model


def write_onnx(path: str | Path, network: ExportablePyraNet, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write FILE.onnx: ``image`` (batch, 3, H, W) float32, normalized, to ``heatmaps`` (batch, K, H/4, W/4).

    Args:
        path: where to; the file is whole or not there.
        network: of `exportable`, of standard operators.
        metadata: see `onnx_model`.

    Raises:
        ValueError: the network has operators of this package.
        UserError: onnx or onnxscript are not installed.
    """
    if network.custom:
        raise ValueError("network must come from exportable(..., custom=False) for ONNX, got custom operators")
    model = onnx_model(network, torch.zeros(2, 3, *network.size), metadata=metadata)
    data = model.SerializeToString()
    atomic_write(Path(path), lambda file: file.write(data))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes to developers."""
    chatty = logging.getLogger("torch.onnx")
    before = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatty.setLevel(before)
