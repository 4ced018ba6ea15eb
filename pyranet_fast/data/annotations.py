"""Annotations of people as arrays, independent of the file format, and helpers shared by the readers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..io import reader
from .dataset import Image, PeopleSource, Person, PersonRecord
from .image_io import read_image


@dataclass
class Annotations:
    """N people of K joints, in 0-based pixels.

    Attributes:
        names: N image names, relative to the folder of images.
        joints: (N, K, 2) float64; undefined where not labeled.
        labeled: (N, K) bool.
        centers: (N, 2) float64, scales: (N,) float64: the crop, as in ``Person``.
        lengths: (N,) float64, the metric's unit in pixels; NaN if unknown.
        numbers: (N, 2) int64, 1-based index of image and person in a published list; None: unknown.
        records: N identifiers of each person in the file; None: only image name and ``numbers``.
    """

    names: list[str]
    joints: npt.NDArray[np.float64]
    labeled: npt.NDArray[np.bool_]
    centers: npt.NDArray[np.float64]
    scales: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.int64] | None = None
    records: list[PersonRecord] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def person(self, index: int) -> Person:
        """Return the labels of one person."""
        return Person(
            joints=self.joints[index].astype(np.float32),
            labeled=self.labeled[index],
            center=self.centers[index].astype(np.float32),
            scale=float(self.scales[index]),
        )

    def record(self, index: int) -> PersonRecord:
        """Return the identifiers of a person in the file."""
        if self.records is not None:
            return self.records[index]
        place = None if self.numbers is None else (int(self.numbers[index, 0]), int(self.numbers[index, 1]))
        return PersonRecord(self.names[index], place=place)

    def select(self, mask: Sequence[bool] | npt.NDArray[np.bool_]) -> Annotations:
        """Return the people for whom ``mask`` (N,) is true."""
        rows = np.flatnonzero(np.asarray(mask, dtype=bool))
        return Annotations(
            [self.names[row] for row in rows],
            self.joints[rows],
            self.labeled[rows],
            self.centers[rows],
            self.scales[rows],
            self.lengths[rows],
            None if self.numbers is None else self.numbers[rows],
            None if self.records is None else [self.records[row] for row in rows],
        )


class AnnotatedSource(PeopleSource):
    """A dataset whose labels are ``Annotations`` and whose images lie in one folder."""

    _annotations: Annotations
    _image_folder: Path

    def __len__(self) -> int:
        return len(self._annotations)

    def image(self, index: int) -> Image:
        return read_image(self._image_folder / self._annotations.names[index])

    def image_name(self, index: int) -> str:
        return self._annotations.names[index]

    def record(self, index: int) -> PersonRecord:
        return self._annotations.record(index)

    def person(self, index: int) -> Person:
        return self._annotations.person(index)

    def reference_length(self, index: int) -> float:
        return float(self._annotations.lengths[index])


def is_held_out(name: str) -> bool:
    """Return whether an image is in the tenth held out for validation, by a hash of its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % 10 == 0


_MOST_UNPACKED = 1 << 32


def _unpacked(data: bytes) -> bytes:
    parts, room = [], _MOST_UNPACKED
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(1 << 24):
            parts.append(part)
            room -= len(part)
            if room < 0:
                raise MemoryError
    return b"".join(parts)


@reader("a JSON file")
def read_json(path: Path) -> Any:
    """Read a JSON file, decompressed if its name ends in ``.gz``.

    Raises:
        UserError: no such file, truncated, or not JSON.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = _unpacked(data)
        return json.loads(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} cannot be unpacked: it is truncated or not a gzip file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON or is truncated: {error.msg} in line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON: it is not text") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def number_field(
    entry: Mapping[str, Any],
    field: str,
    shape: tuple[int, ...],
    where: str,
    *,
    above: float | None = None,
    finite: bool = True,
) -> npt.NDArray[np.float64]:
    """Return a field of a JSON object as numbers of a shape.

    Args:
        entry: the object.
        field: name of the field.
        shape: its shape; () is a single number.
        where: name of the object in messages.
        above: exclusive lower bound of the numbers.
        finite: reject NaN and infinity.

    Raises:
        UserError: the field is missing or invalid.
    """
    expected = "a number" if shape == () else f"numbers of shape {shape}"
    if field not in entry:
        raise UserError(f"{where}: field {field!r} is missing; expected {expected}")
    try:
        value = np.asarray(entry[field])
    except ValueError:  # lists of different lengths
        value = np.asarray(None)
    text = repr(entry[field])
    short = text if len(text) <= 80 else f"{text[:77]}..."
    if value.shape != shape or value.dtype.kind not in "iufb":
        raise UserError(f"{where}: field {field!r} must be {expected}, got {short}")
    result = value.astype(np.float64)
    if finite and not np.all(np.isfinite(result)):
        raise UserError(f"{where}: field {field!r} must be finite, got {short}")
    if above is not None and not np.all(result > above):
        raise UserError(f"{where}: field {field!r} must be above {above:g}, got {short}")
    return result
