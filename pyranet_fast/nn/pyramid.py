"""Pyramid Residual Module in the variants of figure 3 (section 3.1, equation 2), its level sizes and random windows
(section 3.2, equation 3), and the pyramid branch of classifier blocks (section 5.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import canvas_of, fractional_max_pool_canvas, fractional_max_pool_pyramid, upsample_sum, upsample_sum_canvas
from ..ops.fractional_max_pool_pyramid import draw_windows
from .checkpointing import Recomputing
from .layers import BatchNormReLU, Conv1x1, add_, folds, norms_of, opens
from .residual import BNReLUConv, make_skip, opens_units_parts, run_skip, skip_norms

POOL_WINDOWS = ("channel", "sample", "batch")


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Return (h, w) of every level c = 1 ... C of an input (H, W): floor(in * 2^(-c/C)), exactly in // 2 for c = C.

    A level is at least 1 and at most in - 1, to leave room for 2x2 windows.

    Raises:
        ValueError: height or width is below 2.
    """
    h, w = size
    if h < 2 or w < 2:
        raise ValueError(f"the input of a pyramid must be at least 2 pixels high and wide, got ({h}, {w})")

    def pooled(full: int, level: int) -> int:
        # In double 2^(-C/C) can fall below one half when made by repeated products: the last is an integer.
        if level == levels:
            return full // 2
        return max(1, min(full - 1, math.floor(full * 2.0 ** (-level / levels))))

    return [(pooled(h, c), pooled(w, c)) for c in range(1, levels + 1)]


def draw_samples(x: Tensor, levels: int, windows: str, training: bool, channels: int | None = None) -> Tensor:
    """Draw the window offsets u of one pyramid: (L, N or 1, C or 1, 2) in [0, 1), float32.

    In training they come from PyTorch's default generator on the device of ``x``, so they are reproducible by seed: one
    per channel of each sample (``windows="channel"``, the paper), per sample (``"sample"``) or per batch (``"batch"``).
    ``channels`` is the number of pooled channels; None: that of ``x``. In evaluation and export u = 0.5, so predictions
    are deterministic.
    """
    if not training:
        return torch.full((levels, 1, 1, 2), 0.5, dtype=torch.float32, device=x.device)
    n = 1 if windows == "batch" else x.shape[0]
    c = (channels or x.shape[1]) if windows == "channel" else 1
    return draw_windows((levels, n, c, 2), x.device)


PYRAMID_VARIANTS = ("A", "B", "B*", "C", "D")


class PooledPyramid(nn.Module):
    """Pyramid by fractional max-pooling: variants A, B, B* and C.

    BN ReLU 1x1 inputs -> width, BN, ReLU; for every level: pool, 3x3, bilinear upsampling; sum or
    concatenation; BN, ReLU, 1x1 -> outputs.

    Args:
        inputs, width, outputs: channels of the input, of a level, and of the output.
        levels: C of equation 3.
        separate_inputs: separate 1x1 (and BN) for every level: variant A.
        shared_filters: share one 3x3, weight and bias, among all levels: variant B* (section 3.3).
        concatenate: concatenate the levels instead of adding them: variant C.
        windows: sharing of random window offsets in training, see `draw_samples`.
        preactivate: False omits the first BN-ReLU.

    Attributes:
        canvas: variant B* only: compute all levels side by side in one map with one convolution (ops.canvas). Equal up
            to rounding. Off by default: not measured on a GPU yet, and slower on the CPU.
    """

    canvas = False

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        *,
        levels: int = 4,
        separate_inputs: bool = False,
        shared_filters: bool = False,
        concatenate: bool = False,
        windows: str = "channel",
        preactivate: bool = True,
    ) -> None:
        super().__init__()
        self.levels, self.width, self.windows, self.concatenate = levels, width, windows, concatenate
        entries = levels if separate_inputs else 1
        self.preactivation = BatchNormReLU(inputs) if preactivate else nn.Identity()
        self.reduce = nn.ModuleList(Conv1x1(inputs, width) for _ in range(entries))
        self.bn = nn.ModuleList(BatchNormReLU(width) for _ in range(entries))
        filters = 1 if shared_filters else levels
        self.filters = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(filters))
        self.expand = BNReLUConv(width * levels if concatenate else width, outputs)

    def forward(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """Map (N, inputs, H, W), with windows (None: draw them), to (N, outputs, H, W)."""
        samples = self.draw(x) if samples is None else samples
        return self.after_norm(self.preactivation(x), samples)

    @property
    def entry(self) -> nn.Module:
        """Return the norm at the entry, or an identity."""
        return self.preactivation

    def draw(self, x: Tensor) -> Tensor:
        """Draw the windows of one forward pass for an input (N, inputs, H, W), see `draw_samples`."""
        return draw_samples(x, self.levels, self.windows, self.training, self.width)

    def after_norm(self, x: Tensor, samples: Tensor | None) -> Tensor:
        """Run ``forward`` on the results of ``entry`` and ``draw``."""
        assert samples is not None
        size = (x.shape[2], x.shape[3])
        sizes = level_sizes(size, self.levels)
        entries = [reduce(x) for reduce in self.reduce]
        if self.canvas and len(entries) == len(self.filters) == 1 and not self.concatenate:
            return self.expand(self._on_canvas(entries[0], sizes, samples))
        if len(entries) == 1:
            maps = self._pool(entries[0], self.bn[0], sizes, samples)
        else:
            maps = []
            for i, (entry, bn) in enumerate(zip(entries, self.bn, strict=True)):
                maps += self._pool(entry, bn, sizes[i : i + 1], samples[i : i + 1])
        maps = [self.filters[i % len(self.filters)](m) for i, m in enumerate(maps)]
        if self.concatenate:
            joined = torch.cat([upsample_sum([m], size, align_corners=True) for m in maps], 1)
        else:
            joined = upsample_sum(maps, size, align_corners=True)
        return self.expand(joined)

    def _on_canvas(self, x: Tensor, sizes: list[tuple[int, int]], samples: Tensor) -> Tensor:
        canvas, bn, size = canvas_of(sizes), self.bn[0], (x.shape[2], x.shape[3])
        if folds(bn):
            scale, shift = bn.folded()  # type: ignore[operator]
            pooled = fractional_max_pool_canvas(x, canvas, samples, scale=scale, shift=shift, relu=True)
        else:
            pooled = fractional_max_pool_canvas(bn(x), canvas, samples)
        return upsample_sum_canvas(self.filters[0](pooled), canvas, size, align_corners=True)

    @staticmethod
    def _pool(x: Tensor, bn: nn.Module, sizes: list[tuple[int, int]], samples: Tensor) -> list[Tensor]:
        if folds(bn):
            scale, shift = bn.folded()  # type: ignore[operator]
            return fractional_max_pool_pyramid(x, sizes, samples, scale=scale, shift=shift, relu=True)
        return fractional_max_pool_pyramid(bn(x), sizes, samples)


class DilatedPyramid(nn.Module):
    """Variant D: level c is a 3x3 of dilation c at full size, without pooling and upsampling; otherwise as variant B.

    The paper does not give its dilations. With 1 ... C the filters span 3 to 2C + 1 pixels; those of the pooled levels
    span 3 / s_c, up to 6 and the pooling window.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, levels: int = 4, preactivate: bool = True) -> None:
        super().__init__()
        self.reduce = BNReLUConv(inputs, width, preactivate=preactivate)
        self.bn = BatchNormReLU(width)
        self.filters = nn.ModuleList(nn.Conv2d(width, width, 3, padding=c, dilation=c) for c in range(1, levels + 1))
        self.expand = BNReLUConv(width, outputs)

    def forward(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self._levels(self.reduce(x))

    @property
    def entry(self) -> nn.Module:
        """Return the norm at the entry, or an identity."""
        return self.reduce.bn

    def draw(self, x: Tensor) -> Tensor | None:
        """Return None: the variant has no windows."""
        return None

    def after_norm(self, x: Tensor, samples: Tensor | None) -> Tensor:
        """Run ``forward`` on the result of ``entry``."""
        return self._levels(self.reduce.conv(x))

    def _levels(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        first, *others = self.filters
        total = first(x)
        for dilated in others:
            total = add_(total, dilated(x), of=first)
        return self.expand(total)


def _opens_pyramid(pyramid: nn.Module) -> bool:
    """Whether a unit may run a pyramid's ``entry`` and ``after_norm`` without calling it, see `layers.opens`."""
    if isinstance(pyramid, DilatedPyramid) and not opens(pyramid.reduce, BNReLUConv):
        return False
    return opens(pyramid, PooledPyramid, DilatedPyramid)


class PyramidResidualModule(Recomputing):
    """Compute x + g(sum_c f_c(x) + f_0(x)) (equation 2): f_0 keeps the resolution, f_c are the pyramid levels.

    Args:
        inputs, outputs: channels.
        variant: ``"A"``, ``"B"``, ``"B*"`` (the paper's model), ``"C"`` or ``"D"``.
        levels: C of equation 3.
        base_width: a level has outputs // base_width channels.
        project_skip: use a BN-ReLU-1x1 skip even if ``inputs == outputs`` (variance control, section 4.2).
        preactivate: False omits the first BN-ReLU of f_0 and of the pyramid; the skip keeps its own.
        pool_windows: ``"channel"`` (the paper), ``"sample"`` or ``"batch"``, see `draw_samples`.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        variant: str = "B*",
        levels: int = 4,
        base_width: int = 9,
        project_skip: bool = False,
        preactivate: bool = True,
        pool_windows: str = "channel",
    ) -> None:
        super().__init__()
        if variant not in PYRAMID_VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, PYRAMID_VARIANTS))}, got {variant!r}")
        if pool_windows not in POOL_WINDOWS:
            raise ValueError(f"pool_windows must be one of {', '.join(map(repr, POOL_WINDOWS))}, got {pool_windows!r}")
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        if not 1 <= base_width <= outputs:
            raise ValueError(
                f"base_width must be between 1 and the module's output channels ({outputs}), got {base_width}"
            )
        middle, width = outputs // 2, outputs // base_width
        self.reduce = BNReLUConv(inputs, middle, preactivate=preactivate)
        self.filter = BNReLUConv(middle, middle, 3)
        self.pyramid: PooledPyramid | DilatedPyramid
        if variant == "D":
            self.pyramid = DilatedPyramid(inputs, width, middle, levels=levels, preactivate=preactivate)
        else:
            self.pyramid = PooledPyramid(
                inputs,
                width,
                middle,
                levels=levels,
                separate_inputs=variant == "A",
                shared_filters=variant == "B*",
                concatenate=variant == "C",
                windows=pool_windows,
                preactivate=preactivate,
            )
        self.expand = BNReLUConv(middle, outputs)
        self.skip = make_skip(inputs, outputs, project_skip)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W), H and W at least 2, to (N, outputs, H, W)."""
        return self.recomputed(self._module, x, self.pyramid.draw(x))

    def _module(self, x: Tensor, samples: Tensor | None) -> Tensor:
        if not (_opens_pyramid(self.pyramid) and opens_units_parts(self.reduce, self.skip)):
            branches = add_(self.filter(self.reduce(x)), self.pyramid(x, samples), of=self.filter)
            return add_(self.expand(branches), self.skip(x), of=self.expand)
        x, (first, second, *skip) = norms_of(x, [self.reduce.bn, self.pyramid.entry, *skip_norms(self.skip)])
        branches = self.filter(self.reduce.conv(first))
        branches = add_(branches, self.pyramid.after_norm(second, samples), of=self.filter)
        y = self.expand(branches)
        return add_(y, run_skip(self.skip, x, skip), of=self.expand)


class PyramidBranch(nn.Module):
    """1x1 inputs -> width, BN, ReLU; per level pool, 3x3, upsample; sum; BN, ReLU, 1x1 width -> outputs.

    Unlike `PooledPyramid` it has no BN-ReLU at its entry (its input is already activated), no biases, and the stride of
    its block. Levels do not share 3x3 filters. Window offsets are random per sample and channel in training and fixed
    in evaluation, see `draw_samples`.

    Args:
        inputs, width, outputs: channels at the entry, of a level (d of the paper), and at the end.
        stride: stride of the first 1x1, that of the block.
        levels: C of equation 3: ratios 2^(-1/C) ... 1/2.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, stride: int = 1, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.reduce = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
        self.bn = BatchNormReLU(width)
        self.filters = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(levels))
        self.bn_sum = BatchNormReLU(width)
        self.expand = nn.Conv2d(width, outputs, 1, bias=False)

    def draw(self, x: Tensor) -> Tensor:
        """Draw the windows of one forward pass for an input (N, inputs, H, W), see `draw_samples`."""
        return draw_samples(x, self.levels, "channel", self.training, self.reduce.out_channels)

    def forward(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """Map (N, inputs, H, W), with windows (None: draw them), to (N, outputs, ceil(H / stride), ceil(W / stride)).

        Height and width of the output are at least 2.
        """
        samples = self.draw(x) if samples is None else samples
        x = self.reduce(x)
        size = (x.shape[2], x.shape[3])
        sizes = level_sizes(size, self.levels)
        if folds(self.bn):
            scale, shift = self.bn.folded()
            maps = fractional_max_pool_pyramid(x, sizes, samples, scale=scale, shift=shift, relu=True)
        else:
            maps = fractional_max_pool_pyramid(self.bn(x), sizes, samples)
        maps = [conv(m) for conv, m in zip(self.filters, maps, strict=True)]
        return self.expand(self.bn_sum(upsample_sum(maps, size, align_corners=True)))
