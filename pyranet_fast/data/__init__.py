"""People with labeled joints: datasets, synthetic people, and network input crops."""

from __future__ import annotations

from typing import Any

from ..errors import missing_package, warn_renamed

try:
    import cv2  # noqa: F401 (everything here needs it)
except ImportError as _error:
    raise ImportError(missing_package(_error) or str(_error), name=_error.name) from None

from .cache import CachedSource
from .coco import COCOSource
from .crops import CropDataset, worker_init
from .dataset import ConcatSource, MappedSource, PeopleSource, Person, Subset
from .lsp import LSPExtendedSource, LSPSource
from .mpii import MPIISource
from .packed import PackedSource
from .registry import DATASETS, open_dataset
from .synthetic import SyntheticSource
from .transforms import Augmentation, crop, crop_matrix, normalize

__all__ = [
    "DATASETS",
    "Augmentation",
    "COCOSource",
    "CachedSource",
    "ConcatSource",
    "CropDataset",
    "LSPExtendedSource",
    "LSPSource",
    "MPIISource",
    "MappedSource",
    "PackedSource",
    "PeopleSource",
    "Person",
    "Subset",
    "SyntheticSource",
    "crop",
    "crop_matrix",
    "normalize",
    "open_dataset",
    "worker_init",
]

_RENAMED = {"normalise": "normalize"}


def __getattr__(name: str) -> Any:
    """Return a name of the release before by its new name, with a ``DeprecationWarning``."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"{__name__}.{name}", f"{__name__}.{_RENAMED[name]}")
    return globals()[_RENAMED[name]]
