"""Building blocks: residual unit, Pyramid Residual Module, pyramid branch, hourglass, initialisation."""

from . import init
from .activation import BatchNormReLU
from .hourglass import Hourglass, upsample_add
from .pyramid import PYRAMID_VARIANTS, DilatedPyramid, PooledPyramid, PyramidResidualModule
from .pyramid_branch import PyramidBranch
from .recompute import checkpoint_activations_
from .residual import BNReLUConv, ResidualUnit
from .windows import POOL_WINDOWS, draw_samples, level_sizes

__all__ = [
    "POOL_WINDOWS",
    "PYRAMID_VARIANTS",
    "BNReLUConv",
    "BatchNormReLU",
    "DilatedPyramid",
    "Hourglass",
    "PooledPyramid",
    "PyramidBranch",
    "PyramidResidualModule",
    "ResidualUnit",
    "checkpoint_activations_",
    "draw_samples",
    "init",
    "level_sizes",
    "upsample_add",
]
