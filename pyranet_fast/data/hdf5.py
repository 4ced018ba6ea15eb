"""Third-party HDF5 files: declared sizes and types are checked before the library reads or allocates anything."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

_MOST_BYTES = 1 << 32
_MOST_GROWTH = 1100
"""Deflate packs at most 1032 bytes into one."""


_HEAP, _HEAP_HEADER, _HEAP_OBJECT = b"GCOL\1\0\0\0", 16, 16


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises:
        UserError: corrupt strings would put the HDF5 library into an infinite loop.
    """
    import h5py

    if Path(path).stat().st_size:
        with open(path, "rb") as plain, mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_heaps(data, path)
    with h5py.File(path, "r") as file:
        yield file


def _check_heaps(data: mmap.mmap, path: str | Path) -> None:
    """Walk the heaps in which HDF5 keeps texts: the library goes from object to object by sizes that it believes.

    An object is its number, uses and size (2, 2, 4 unused, 8 bytes) and its bytes, up to a multiple of 8; that of
    number 0 is the free space, whose size counts its own header.
    """
    at = data.find(_HEAP)
    while at >= 0:
        end = at + int.from_bytes(data[at + 8 : at + _HEAP_HEADER], "little")
        place = at + _HEAP_HEADER
        while place + _HEAP_OBJECT <= end <= len(data):
            size = int.from_bytes(data[place + 8 : place + _HEAP_OBJECT], "little")
            used = data[place : place + 2] != b"\0\0"
            needed = _HEAP_OBJECT + (size + 7) // 8 * 8 if used else size
            if needed < _HEAP_OBJECT or place + needed > end:
                raise UserError(f"{path}: a string declares {size} bytes, and {end - place} are there; it is damaged")
            place += needed
        at = data.find(_HEAP, at + 1)


def checked(dataset: Any, path: str | Path) -> Any:
    """Return the dataset after checks.

    Raises:
        UserError: its declared size exceeds the file, or it is stored elsewhere.
    """
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{path}: {dataset.name} lies in another file; expected one that is stored here")
    declared, here = dataset.size * dataset.dtype.itemsize, Path(path).stat().st_size
    if declared > _MOST_BYTES or declared > _MOST_GROWTH * here:
        raise UserError(f"{path}: {dataset.name} declares {declared} bytes in a file of {here}; it is damaged")
    return dataset


def read_datasets(path: str | Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the named top-level datasets that exist in a file.

    Raises:
        UserError: the file does not exist, is not HDF5, or corrupt.
    """
    import h5py

    try:
        with opened(path) as file:
            there = {name: file[name] for name in names if name in file}
            return {k: np.asarray(checked(v, path)) for k, v in there.items() if isinstance(v, h5py.Dataset)}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds
        raise UserError(f"{path} cannot be read; it is truncated or not an HDF5 file") from error
