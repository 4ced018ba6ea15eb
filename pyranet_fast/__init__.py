"""pyranet_fast: Pyramid Residual Modules for human pose estimation, fast (ICCV 2017, arXiv 1708.01101)."""

from __future__ import annotations

from . import models, nn, ops, pose
from .errors import UserError, missing_package
from .inference.result import Pose

try:
    from .inference.predictor import Predictor
except ImportError as _error:  # an installation for the operators alone
    if (_sentence := missing_package(_error)) is None:
        raise

    class Predictor:  # type: ignore[no-redef]
        """Says what is missing."""

        def __init__(self, *arguments: object, **options: object) -> None:
            raise UserError(_sentence)


__version__ = "0.2.0"
__all__ = ["Pose", "Predictor", "UserError", "models", "nn", "ops", "pose"]
