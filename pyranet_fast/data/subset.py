"""The first people of a source, for pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .base import PeopleSource, Person


class FirstPeople(PeopleSource):
    """The first ``count`` people of a source."""

    def __init__(self, source: PeopleSource, count: int) -> None:
        self.source, self.count = source, min(count, len(source))
        self.skeleton, self.name, self.metric = source.skeleton, source.name, source.metric

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> NDArray[np.uint8]:
        """As in the source."""
        return self.source.image(index)

    def image_name(self, index: int) -> str:
        """As in the source."""
        return self.source.image_name(index)

    def person(self, index: int) -> Person:
        """As in the source."""
        return self.source.person(index)

    def reference_length(self, index: int) -> float:
        """As in the source."""
        return self.source.reference_length(index)

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """As in the source."""
        return self.source.to_original(index, points)
