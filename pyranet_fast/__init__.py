"""pyranet_fast: Pyramid Residual Modules for human pose estimation, fast (ICCV 2017, arXiv 1708.01101)."""

from __future__ import annotations

from . import models, nn, ops, pose
from .errors import UserError
from .inference.predictor import Predictor
from .inference.result import Pose

__version__ = "0.1.0"
__all__ = ["Pose", "Predictor", "UserError", "models", "nn", "ops", "pose"]
