"""Some of the people of a source."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ..errors import UserError
from .base import PeopleSource, Person


class Subset(PeopleSource):
    """The people of a source with the indices given, in that order."""

    def __init__(self, source: PeopleSource, indices: Iterable[int]) -> None:
        """Choose people; IndexError where ``source`` has no person of an index."""
        self.source, self.indices = source, [int(index) for index in indices]
        for index in self.indices:
            if not 0 <= index < len(source):
                raise IndexError(f"index {index} is outside 0..{len(source) - 1} of {source.name}")
        self.skeleton, self.metric = source.skeleton, source.metric
        self.reach, self.detail = source.reach, source.detail
        self.name = f"{source.name} ({len(self.indices)} of {len(source)})"

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> NDArray[np.uint8]:
        """As in the source."""
        return self.source.image(self.indices[index])

    def image_name(self, index: int) -> str:
        """As in the source."""
        return self.source.image_name(self.indices[index])

    def image_id(self, index: int) -> int | str:
        """As in the source."""
        return self.source.image_id(self.indices[index])

    def person(self, index: int) -> Person:
        """As in the source."""
        return self.source.person(self.indices[index])

    def reference_length(self, index: int) -> float:
        """As in the source."""
        return self.source.reference_length(self.indices[index])

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """As in the source."""
        return self.source.to_original(self.indices[index], points)

    def frame(self, index: int, image: NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """As in the source."""
        return self.source.frame(self.indices[index], image)


def with_images(source: PeopleSource) -> PeopleSource:
    """The people of a source whose image is there; UserError where there is none."""
    indices = source.available()
    if not indices:
        raise UserError(f"{source.name}: the image of not one of the {len(source)} people is there")
    return source if len(indices) == len(source) else Subset(source, indices)


class FirstPeople(Subset):
    """The first ``count`` people of a source, for pictures."""

    def __init__(self, source: PeopleSource, count: int) -> None:
        super().__init__(source, range(min(count, len(source))))
