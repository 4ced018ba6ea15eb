"""pyranet_fast: Pyramid Residual Modules for human pose estimation, fast (ICCV 2017, arXiv 1708.01101)."""

from . import ops

__version__ = "0.1.0"
__all__ = ["ops"]
