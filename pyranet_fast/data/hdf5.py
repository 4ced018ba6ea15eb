"""Datasets of HDF5 files, whose declared sizes are checked before memory is taken for them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

_MOST_BYTES = 1 << 32
_MOST_GROWTH = 1100
"""Deflate packs at most 1032 bytes into one."""


def checked(dataset: Any, path: str | Path) -> Any:
    """The dataset itself.

    Raises:
        UserError: it declares more than the file can hold, or is not stored in the file.
    """
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{path}: {dataset.name} lies in another file; expected one that is stored here")
    declared, here = dataset.size * dataset.dtype.itemsize, Path(path).stat().st_size
    if declared > _MOST_BYTES or declared > _MOST_GROWTH * here:
        raise UserError(f"{path}: {dataset.name} declares {declared} bytes in a file of {here}; it is damaged")
    return dataset


def read_datasets(path: str | Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Those of the named datasets at the top of a file that are there.

    Raises:
        UserError: the file does not exist, is no HDF5 file, or damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            there = {name: file[name] for name in names if name in file}
            return {k: np.asarray(checked(v, path)) for k, v in there.items() if isinstance(v, h5py.Dataset)}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds
        raise UserError(f"{path} cannot be read; it is truncated or not an HDF5 file") from error
