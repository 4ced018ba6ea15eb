"""People with labeled joints: data sets, synthetic people, and the crops a network is fed."""

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
