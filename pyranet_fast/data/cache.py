"""Images decoded once and kept in memory."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyranet_fast.data.base import Image, PeopleSource, Person
from pyranet_fast.data.kept import Kept, keep
from pyranet_fast.data.transforms import Augmentation
from pyranet_fast.errors import UserError

_BLOCK = 64 << 20


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
        self.notes = source.notes
        self._reach = (augmentation.reach if augmentation else 0.5) if crop else math.inf
        self._detail = math.inf if input_size is None else 2.0 * input_size
        self.failures: dict[int, str] = {}
        self.nbytes = 0
        self._blocks: list[Image] = []
        self._used = _BLOCK
        self._entries: list[Kept | None] = []
        with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
            for index, result in enumerate(pool.map(self._read, range(len(source)))):
                if isinstance(result, str):
                    self.failures[index] = result
                    self._entries.append(None)
                else:
                    self._entries.append(replace(result, pixels=self._store(result.pixels)))
        there = [entry for entry in self._entries if entry is not None]
        self.reach = min(source.reach, self._reach if any(entry.cut for entry in there) else math.inf)
        self.detail = min(source.detail, self._detail if any(entry.ratio > 1 for entry in there) else math.inf)

    def _read(self, index: int) -> Kept | str:
        try:
            return keep(self.source, index, self._reach, self._detail)
        except UserError as error:
            return str(error)

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

    def _entry(self, index: int) -> Kept:
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

    def image_id(self, index: int) -> int | str:
        return self.source.image_id(index)

    def person(self, index: int) -> Person:
        return self._entry(index).person

    def reference_length(self, index: int) -> float:
        return self._entry(index).reference_length

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.source.to_original(index, self._entry(index).back(points))

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        return self._entry(index).frame
