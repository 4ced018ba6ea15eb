"""The file of packed people: arrays and JPEG pictures behind a header, read by mapping it into memory.

All numbers are little-endian. The file is

- 32 bytes: magic, version, length and CRC-32 of the header, length of the file;
- the header, JSON: what is in the file, and of each array its type, shape and place;
- the arrays, each at a multiple of 64 bytes, counted from the first such place after the header;
- the pictures, one after the other; an array of offsets, counted from the first of them, leads to each.

CRC-32 sums guard the header, the arrays together, and, in an array of their own, every picture.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import shutil
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..keypoints import resolve_skeleton
from ..metrics import resolve_metric
from .dataset import Image, PeopleSource, Person
from .image_io import decode
from .transforms import transform_points

MAGIC = b"PRMpeopl"
VERSION = 1
_PREFIX = struct.Struct("<8sIIIxxxxQ")
_ALIGN = 64
_WRITER = "a file written by python -m pyranet_fast.data.pack is accepted"

Array = npt.NDArray[Any]


def write_file(file: IO[bytes], content: Mapping[str, Any], arrays: Mapping[str, Array], pictures: IO[bytes]) -> int:
    """Write a packed file.

    Args:
        file: where to, from its start.
        content: the header, values of JSON; ``arrays``, ``arrays_crc32``, ``pictures_at`` are added to it.
        arrays: by name, numbers or truth values.
        pictures: the encoded pictures, read from its start to its end.

    Returns:
        The length of the file in bytes.
    """
    places, parts, at, crc = {}, [], 0, 0
    for name, array in arrays.items():
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        places[name] = {"dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape), "at": at}
        data += bytes(-len(data) % _ALIGN)
        crc = zlib.crc32(data, crc)
        parts.append(data)
        at += len(data)
    header = json.dumps({**content, "arrays": places, "arrays_crc32": crc, "pictures_at": at}, allow_nan=False).encode()
    start = _PREFIX.size + len(header)
    gap = bytes(-start % _ALIGN)
    size = start + len(gap) + at + pictures.seek(0, 2)
    file.write(_PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header), size))
    for part in (header, gap, *parts):
        file.write(part)
    pictures.seek(0)
    shutil.copyfileobj(pictures, file, 1 << 20)
    return size


class PackedFile:
    """A packed file, mapped into memory: its pages are shared by all processes that read it.

    Attributes:
        path: of the file.
        header: what is in it.
        crc: CRC-32 of the header, which holds that of the arrays: what the file is known by.
    """

    def __init__(self, path: str | Path) -> None:
        """Map a file.

        Raises:
            UserError: no such file, or one that is foreign, truncated, changed, or of a newer version.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"packed file {path} {'is no file' if self.path.exists() else 'does not exist'}; {_WRITER}")
        with self.path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if not prefix.startswith(MAGIC):
                raise UserError(f"{path} is no file of packed people: it begins with {prefix[:8]!r}; {_WRITER}")
            if len(prefix) < _PREFIX.size:
                raise UserError(f"packed file {path} is truncated: it has {len(prefix)} bytes; pack the people again")
            _, version, length, self.crc, size = _PREFIX.unpack(prefix)
            if not 1 <= version <= VERSION:
                raise UserError(
                    f"packed file {path} has format version {version}; this version of pyranet_fast reads up to "
                    f"{VERSION}: please upgrade it"
                )
            found = file.seek(0, 2)
            if found != size:
                what = "truncated" if found < size else "changed"
                raise UserError(f"packed file {path} is {what}: it has {found} bytes of {size}; pack the people again")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        text = self._map[_PREFIX.size : _PREFIX.size + length]
        if len(text) != length or zlib.crc32(text) != self.crc:
            raise self._damaged("header is")
        try:
            self.header: dict[str, Any] = json.loads(text)
            start = _PREFIX.size + length
            start += -start % _ALIGN
            self._pictures = start + self.header["pictures_at"]
            if zlib.crc32(memoryview(self._map)[start : self._pictures]) != self.header["arrays_crc32"]:
                raise self._damaged("arrays are")
            self._arrays = {name: self._view(start, **place) for name, place in self.header["arrays"].items()}
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise self._damaged("header is") from error

    def _damaged(self, part: str) -> UserError:
        return UserError(f"packed file {self.path} is damaged: its {part} not as written; pack the people again")

    def _view(self, start: int, dtype: str, shape: list[int], at: int) -> Array:
        kind = np.dtype(dtype)
        if kind.kind not in "iufb":
            raise TypeError(dtype)
        return np.frombuffer(self._map, kind, int(np.prod(shape)), start + at).reshape(shape)

    def array(self, name: str) -> Array:
        """Return an array, not writeable; UserError where there is none."""
        if name not in self._arrays:
            raise self._damaged(f"arrays lack {name}: they are")
        return self._arrays[name]

    def picture(self, start: int, end: int, crc: int) -> bytes:
        """Return an encoded picture by its place; ValueError where its sum is not ``crc``."""
        data = self._map[self._pictures + start : self._pictures + end]
        if zlib.crc32(data) != crc:
            raise ValueError("its bytes are not as written")
        return data


# What is kept of a split; N people of K joints. Unlike texts, these are arrays of the file.
ARRAYS = {
    "joints": np.dtype("float32"),  # (N, K, 2), pixels of the picture
    "labelled": np.dtype("bool"),  # (N, K)
    "centre": np.dtype("float32"),  # (N, 2); NaN where the labels could not be read
    "scale": np.dtype("float64"),  # (N,)
    "reference_length": np.dtype("float64"),  # (N,)
    "transform": np.dtype("float64"),  # (N, 2, 3), pixels of the picture to those of the published image
    "frame": np.dtype("float64"),  # (N, 4), as PeopleSource.frame
    "offsets": np.dtype("int64"),  # (N + 1,), where pictures begin; one of no bytes is not there
    "crc32": np.dtype("uint32"),  # (N,), of the picture
}


class PackedSource(PeopleSource):
    """One split of a packed file. People have the order of the source that was packed.

    The file is mapped into memory; a copy in another process, forked or spawned, opens the same file again.
    ``reach`` and ``detail`` tell what was kept of the images. ``numbers`` are those of ``MPIISource``, or None.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        """Open ``split``, ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            UserError: no such file, not a packed file, damaged, or without that split.
        """
        self.path, self.split = Path(path).absolute(), split
        self._file = PackedFile(path)
        splits = self._file.header["splits"]
        if split not in splits:
            raise UserError(f"packed file {path} has no split {split!r}; it has {', '.join(splits)}")
        self._group = splits[split].get("same_as", split)
        about = splits[self._group]
        self.skeleton = resolve_skeleton(about["skeleton"])
        self.metric = resolve_metric(about["metric"], self.skeleton)
        if not about.get("published", not about["name"].startswith("demo")):  # files without it are of version 0.1.0
            self.metric = dataclasses.replace(self.metric, published=())
        self.name = f"{about['name']}, packed"
        self._count = int(about["people"])
        self.reach, self.detail = (math.inf if about[k] is None else float(about[k]) for k in ("reach", "detail"))
        self._of = {name: self._array(name) for name in ARRAYS}
        texts = json.loads(self._file.array(f"{self._group}/texts").tobytes())
        self._names: list[str] = texts["names"]
        self._ids: list[int | str] = texts["ids"] or self._names
        self.failures: dict[int, str] = {int(index): why for index, why in texts["failures"].items()}
        self.numbers = self._array("numbers") if about["numbers"] else None
        self.notes = tuple(about["notes"])
        if self.failures:
            self.notes += (f"{self.name}: {len(self.failures)} of {self._count} people were packed without a picture",)

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._file.array(f"{self._group}/{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.split, self._file.crc)

    @property
    def crc(self) -> int:
        """Sum that the file is known by."""
        return self._file.crc

    def __len__(self) -> int:
        return self._count

    def image(self, index: int) -> Image:
        start, end = (int(at) for at in self._of["offsets"][index : index + 2])
        if start == end:
            raise self._missing(index)
        try:
            return decode(self._file.picture(start, end, int(self._of["crc32"][index])))
        except (cv2.error, ValueError) as error:
            raise UserError(f"packed file {self.path}: picture of {self._names[index]} is damaged: {error}") from error

    def _missing(self, index: int) -> UserError:
        why = self.failures.get(index, "unknown")
        return UserError(f"packed file {self.path} has no picture of {self._names[index]}; when packed: {why}")

    def image_name(self, index: int) -> str:
        return self._names[index]

    def image_id(self, index: int) -> int | str:
        return self._ids[index]

    def available(self) -> list[int]:
        """Return the indices of the people who were packed with a picture."""
        found: list[int] = np.flatnonzero(np.diff(self._of["offsets"])).tolist()
        return found

    def person(self, index: int) -> Person:
        if np.isnan(self._of["centre"][index]).any():
            raise self._missing(index)
        return Person(
            joints=self._of["joints"][index],
            labeled=self._of["labelled"][index],
            center=self._of["centre"][index],
            scale=float(self._of["scale"][index]),
        )

    def reference_length(self, index: int) -> float:
        return float(self._of["reference_length"][index])

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return transform_points(self._of["transform"][index], points)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._of["frame"][index].copy()
        return found


def _reopen(path: Path, split: str, crc: int) -> PackedSource:
    source = PackedSource(path, split)
    if source.crc != crc:
        raise UserError(f"packed file {path} was replaced while it was in use; start again")
    return source
