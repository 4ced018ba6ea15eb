"""People read from one packed file, see ``pack``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pyranet_fast.data.base import Image, PeopleSource, Person
from pyranet_fast.data.images import decode
from pyranet_fast.data.packed_file import PackedFile
from pyranet_fast.data.transforms import transform_points
from pyranet_fast.errors import UserError
from pyranet_fast.pose.skeleton import resolve_skeleton

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
        self.skeleton, self.metric = resolve_skeleton(about["skeleton"]), about["metric"]
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
            labelled=self._of["labelled"][index],
            centre=self._of["centre"][index],
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
