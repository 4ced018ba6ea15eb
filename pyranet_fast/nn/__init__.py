"""Building blocks: residual unit, Pyramid Residual Module, pyramid branch, hourglass, initialization."""

from __future__ import annotations

from . import init
from .batch_statistics import synchronize_batch_norms_, update_bn
from .checkpointing import checkpoint_activations_
from .hourglass import Hourglass, upsample_add
from .layers import BatchNorm, BatchNormReLU
from .pyramid import (
    POOL_WINDOWS,
    PYRAMID_VARIANTS,
    DilatedPyramid,
    PooledPyramid,
    PyramidBranch,
    PyramidResidualModule,
    draw_samples,
    level_sizes,
)
from .residual import BNReLUConv, ResidualUnit

__all__ = [
    "POOL_WINDOWS",
    "PYRAMID_VARIANTS",
    "BNReLUConv",
    "BatchNorm",
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
    "synchronize_batch_norms_",
    "update_bn",
    "upsample_add",
]
