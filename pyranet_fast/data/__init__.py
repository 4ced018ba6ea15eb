"""People with labelled joints: data sets, synthetic people, and the crops a network is fed.

Importing this package is light; OpenCV and PyTorch are imported with the names that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyranet_fast.data.base import ConcatSource, PeopleSource, Person
    from pyranet_fast.data.cache import CachedSource
    from pyranet_fast.data.coco import COCOSource
    from pyranet_fast.data.crops import CropDataset, worker_init
    from pyranet_fast.data.lsp import LSPExtendedSource, LSPSource
    from pyranet_fast.data.mapped import MappedSource
    from pyranet_fast.data.mpii import MPIISource
    from pyranet_fast.data.packed import PackedSource
    from pyranet_fast.data.registry import DATASETS, open_dataset
    from pyranet_fast.data.subset import Subset
    from pyranet_fast.data.synthetic import SyntheticSource
    from pyranet_fast.data.transforms import Augmentation, crop, crop_matrix, normalise

_HOME = {
    "Augmentation": "transforms",
    "COCOSource": "coco",
    "CachedSource": "cache",
    "ConcatSource": "base",
    "CropDataset": "crops",
    "DATASETS": "registry",
    "LSPExtendedSource": "lsp",
    "LSPSource": "lsp",
    "MPIISource": "mpii",
    "MappedSource": "mapped",
    "PackedSource": "packed",
    "PeopleSource": "base",
    "Person": "base",
    "Subset": "subset",
    "SyntheticSource": "synthetic",
    "crop": "transforms",
    "crop_matrix": "transforms",
    "normalise": "transforms",
    "open_dataset": "registry",
    "worker_init": "crops",
}

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
    "normalise",
    "open_dataset",
    "worker_init",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
