"""Images decoded once and kept in memory."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from pyranet_fast.data.base import PIXELS_PER_SCALE, Image, PeopleSource, Person
from pyranet_fast.data.transforms import Augmentation
from pyranet_fast.errors import UserError

_BLOCK = 64 << 20


def _span(middle: float, half: float, length: int) -> tuple[int, int]:
    """Return the pixels within ``half`` of ``middle``, at least one, out of ``length``."""
    start = min(max(0, math.floor(middle - half)), length - 1)
    return start, max(start + 1, min(length, math.ceil(middle + half) + 1))


@dataclass
class _Entry:
    pixels: Image
    person: Person
    reference_length: float
    corner: npt.NDArray[np.float64]
    ratio: npt.NDArray[np.float64]


class CachedSource(PeopleSource):
    """Another source with every image decoded once, before loader processes fork from this one.

    The pixels lie in large uint8 blocks: processes made by fork share them, since nothing in them is
    counted or moved. Labels are in the pixels of what is kept; ``to_original`` leads back.

    Attributes:
        failures: message by index, for images that could not be read; ``image`` raises it again.
        nbytes: size of the pixels kept.
    """

    def __init__(
        self,
        source: PeopleSource,
        *,
        augmentation: Augmentation | None = None,
        crop: bool = True,
        input_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Decode everything.

        Args:
            source: where the people come from.
            augmentation: the one that will be used; None where there will be none.
            crop: keep only what ``augmentation`` can bring into the crop.
            input_size: if given, images of people over twice this size are kept averaged down to that.
            threads: decoding threads; None is one per core, up to 16.
        """
        self.source = source
        self.skeleton, self.name, self.metric = source.skeleton, source.name, source.metric
        self._reach = (augmentation.reach if augmentation else 0.5) if crop else math.inf
        self._input_size = input_size
        self.failures: dict[int, str] = {}
        self.nbytes = 0
        self._blocks: list[Image] = []
        self._used = _BLOCK
        self._entries: list[_Entry | None] = []
        with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
            for index, result in enumerate(pool.map(self._read, range(len(source)))):
                if isinstance(result, str):
                    self.failures[index] = result
                    self._entries.append(None)
                else:
                    self._entries.append(replace(result, pixels=self._store(result.pixels)))

    def _read(self, index: int) -> _Entry | str:
        try:
            person, image = self.source.person(index), self.source.image(index)
            reference = self.source.reference_length(index)
        except UserError as error:
            return str(error)
        side = PIXELS_PER_SCALE * person.scale
        corner = np.zeros(2)
        if math.isfinite(self._reach):
            # Two pixels more than the geometry asks for, for the bilinear taps at the rim.
            half = self._reach * side + 2
            left, right = _span(float(person.centre[0]), half, image.shape[1])
            top, bottom = _span(float(person.centre[1]), half, image.shape[0])
            image = image[top:bottom, left:right]
            corner = np.array([left, top], dtype=np.float64)
        ratio = np.ones(2)
        if self._input_size is not None and side > 2 * self._input_size:
            wanted = 2 * self._input_size / side
            height, width = image.shape[:2]
            size = (max(1, round(width * wanted)), max(1, round(height * wanted)))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            ratio = np.array([width / size[0], height / size[1]])
        shifted = (np.stack([*person.joints, person.centre]) - corner + 0.5) / ratio - 0.5
        shrink = float(ratio.mean())
        moved = Person(
            joints=shifted[:-1].astype(np.float32),
            labelled=person.labelled,
            centre=shifted[-1].astype(np.float32),
            scale=person.scale / shrink,
        )
        return _Entry(image, moved, reference / shrink, corner, ratio)

    def _store(self, image: Image) -> Image:
        if self._used + image.size > _BLOCK:
            self._blocks.append(np.empty(max(_BLOCK, image.size), dtype=np.uint8))
            self._used = 0
        place = self._blocks[-1][self._used : self._used + image.size].reshape(image.shape)
        place[...] = image
        place.flags.writeable = False
        self._used += image.size
        self.nbytes += image.size
        return place

    def _entry(self, index: int) -> _Entry:
        entry = self._entries[index]
        if entry is None:
            raise UserError(self.failures[index])
        return entry

    def __len__(self) -> int:
        return len(self._entries)

    def image(self, index: int) -> Image:
        return self._entry(index).pixels

    def image_name(self, index: int) -> str:
        return self.source.image_name(index)

    def person(self, index: int) -> Person:
        return self._entry(index).person

    def reference_length(self, index: int) -> float:
        return self._entry(index).reference_length

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        entry = self._entry(index)
        inner = (np.asarray(points, dtype=np.float64) + 0.5) * entry.ratio - 0.5 + entry.corner
        return self.source.to_original(index, inner)
