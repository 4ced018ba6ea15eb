"""The pyramid as a branch beside a classifier's residual block (paper section 5.2)."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import fractional_max_pool_pyramid, upsample_sum
from .activation import BatchNormReLU
from .windows import draw_samples, level_sizes


class PyramidBranch(nn.Module):
    """1x1 inputs -> width, BN, ReLU; per level pool, 3x3, upsample; sum; BN, ReLU, 1x1 width -> outputs.

    Unlike `PooledPyramid` it has no BN-ReLU at its entry (it reads what its block has activated already), no
    biases, and the stride of its block. The 3x3 filters are not shared by the levels. Window offsets are
    random per sample and channel in training and fixed in evaluation, see `draw_samples`.

    Args:
        inputs, width, outputs: channels at the entry, of a level (d of the paper), and at the end.
        stride: of the first 1x1, the block's.
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
        """The windows of one forward pass, for an input (N, inputs, H, W), see `draw_samples`."""
        return draw_samples(x, self.levels, "channel", self.training, self.reduce.out_channels)

    def forward(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W), windows (None draws them), to (N, outputs, ceil(H / stride), ceil(W / stride)).

        Height and width of the output are at least 2.
        """
        samples = self.draw(x) if samples is None else samples
        x = self.reduce(x)
        size = (x.shape[2], x.shape[3])
        sizes = level_sizes(size, self.levels)
        if self.bn.foldable:
            scale, shift = self.bn.folded()
            maps = fractional_max_pool_pyramid(x, sizes, samples, scale=scale, shift=shift, relu=True)
        else:
            maps = fractional_max_pool_pyramid(self.bn(x), sizes, samples)
        maps = [conv(m) for conv, m in zip(self.filters, maps, strict=True)]
        return self.expand(self.bn_sum(upsample_sum(maps, size, align_corners=True)))
