"""What a set of labeled people is, and how sets are joined, cut down and mapped onto another skeleton.

Pixels are 0-based everywhere and an integer coordinate is a pixel's center.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ..errors import UserError
from ..keypoints import LSP, MPII, Skeleton
from ..metrics import Metric

Image = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# "scale" is the side of the square around a person in units of this many pixels (MPII's convention).
PIXELS_PER_SCALE = 200.0


@dataclass
class Person:
    """One labeled person.

    Attributes:
        joints: (K, 2) float32, x and y in image pixels; meaningless where not labeled.
        labeled: (K,) bool; occluded joints are labeled like all others.
        center: (2,) float32, the middle of the crop in image pixels.
        scale: side of the crop square / 200 px.
    """

    joints: Float32Array
    labeled: BoolArray
    center: Float32Array
    scale: float


class PeopleSource(ABC):
    """People, each with an image; index i counts people from 0.

    Attributes:
        skeleton: meaning of the K joints.
        name: what messages and reports call this set.
        metric: what predictions of these people are scored by.
        notes: sentences on what was left out or is an estimate; ``open_dataset`` says them.
        reach: half-width, in crop sides, of the square around a person that the images show at least (so far as the
            published image does); infinite where they are whole.
        detail: pixels that a crop's side was averaged down to where it was longer; infinite where none was.
    """

    skeleton: Skeleton
    name: str
    metric: Metric
    notes: tuple[str, ...] = ()
    reach: float = math.inf
    detail: float = math.inf

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of people."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """Return the whole image, (H, W, 3) uint8 RGB; UserError names a file that cannot be read."""

    @abstractmethod
    def image_name(self, index: int) -> str:
        """Return the name of the image for reports."""

    def image_id(self, index: int) -> int | str:
        """Return what identifies the image in files of results: its name, or a number that the data set gives it."""
        return self.image_name(index)

    def available(self) -> list[int]:
        """Return the indices of the people whose image is there; it may be corrupt still."""
        return list(range(len(self)))

    @abstractmethod
    def person(self, index: int) -> Person:
        """Return the labels, in the pixels of ``image(index)``."""

    @abstractmethod
    def reference_length(self, index: int) -> float:
        """Return the metric's unit of length in pixels; NaN where it is not known. Such people are not scored."""

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map points (..., 2) in the pixels of ``image(index)`` to pixels of the published image."""
        return np.asarray(points, dtype=np.float64)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        """Return where the published image lies in the pixels of ``image``, which is ``image(index)``.

        Returns:
            (4,) float64: x and y of its corner, width and height; it covers x - 0.5 to x - 0.5 + width.
        """
        return np.array([0, 0, image.shape[1], image.shape[0]], dtype=np.float64)


def folder_below(root: str | Path, name: str, witness: str) -> Path:
    """The folder of a data set, ``root/name``.

    Args:
        root: the folder that holds data sets.
        name: of the data set's folder.
        witness: what lies in that folder: it tells that ``root`` itself was meant.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(root) / name
    if folder.is_dir():
        return folder
    if not Path(root).is_dir():
        raise UserError(f"root folder {root} does not exist; it must be the folder that holds {name}/")
    hint = f"; give the folder above {root}" if (Path(root) / witness).exists() else ""
    raise UserError(f"{root} holds no folder {name}/{hint}")


class ConcatSource(PeopleSource):
    """Several sets one after the other; they must share skeleton and metric."""

    def __init__(self, sources: Sequence[PeopleSource]) -> None:
        """Join ``sources``; ValueError where there is none or they differ in skeleton or metric."""
        if not sources:
            raise ValueError("sources is empty; at least one is needed")
        first = sources[0]
        for source in sources[1:]:
            if source.skeleton != first.skeleton or source.metric != first.metric:
                raise ValueError(
                    f"sources differ: {first.name} has skeleton {first.skeleton.name}, {first.metric.name}; "
                    f"{source.name} has {source.skeleton.name}, {source.metric.name}; they must agree"
                )
        self.sources = list(sources)
        self.skeleton = first.skeleton
        self.metric = first.metric
        self.name = "+".join(source.name for source in sources)
        self.notes = tuple(note for source in sources for note in source.notes)
        self.reach = min(source.reach for source in sources)
        self.detail = min(source.detail for source in sources)
        self._starts = np.cumsum([0, *(len(source) for source in sources)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[PeopleSource, int]:
        """Return the set that holds a person, and the person's index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1} of {self.name}")
        which = bisect.bisect_right(self._starts, index) - 1
        return self.sources[which], index - self._starts[which]

    def image(self, index: int) -> Image:
        source, local = self.locate(index)
        return source.image(local)

    def image_name(self, index: int) -> str:
        source, local = self.locate(index)
        return source.image_name(local)

    def image_id(self, index: int) -> int | str:
        source, local = self.locate(index)
        return source.image_id(local)

    def available(self) -> list[int]:
        """As in the sets."""
        return [
            start + i for start, source in zip(self._starts, self.sources, strict=False) for i in source.available()
        ]

    def person(self, index: int) -> Person:
        source, local = self.locate(index)
        return source.person(local)

    def reference_length(self, index: int) -> float:
        source, local = self.locate(index)
        return source.reference_length(local)

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        source, local = self.locate(index)
        return source.to_original(local, points)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        source, local = self.locate(index)
        return source.frame(local, image)


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


# Joint of the new skeleton: the joints of the old one whose mean it is.
Rule = Mapping[str, tuple[str, ...]]

LSP_TO_MPII: Rule = {
    **{joint: (joint,) for joint in LSP.joints if joint in MPII.joints},
    "upper neck": ("neck",),
    "pelvis": ("right hip", "left hip"),
    "thorax": ("right shoulder", "left shoulder"),
}


class MappedSource(PeopleSource):
    """Another source's people with the joints of ``skeleton``.

    A joint that ``rule`` makes from several is their mean, labeled where all of them are; a joint that it does not
    name is never labeled. The unit of length of the new metric is not in the old labels: ``reference_length`` is
    NaN, so these people are trained on and never scored.
    """

    def __init__(self, source: PeopleSource, skeleton: Skeleton, rule: Rule, metric: Metric) -> None:
        """Map ``source``; ``metric`` is that of the people they will be joined with.

        Raises:
            ValueError: ``rule`` names a joint that one of the skeletons lacks, or maps one from none.
        """
        self.source, self.skeleton, self.metric = source, skeleton, metric
        self.name, self.notes = source.name, source.notes
        self.reach, self.detail = source.reach, source.detail
        self._rule = []
        for joint, origins in rule.items():
            if not origins:
                raise ValueError(f"rule maps {joint!r} from no joint; at least one is needed")
            self._rule.append((skeleton.index(joint), [source.skeleton.index(origin) for origin in origins]))

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Image:
        return self.source.image(index)

    def image_name(self, index: int) -> str:
        return self.source.image_name(index)

    def image_id(self, index: int) -> int | str:
        return self.source.image_id(index)

    def available(self) -> list[int]:
        return self.source.available()

    def person(self, index: int) -> Person:
        person = self.source.person(index)
        joints = np.zeros((len(self.skeleton), 2), dtype=np.float32)
        labeled = np.zeros(len(self.skeleton), dtype=bool)
        for joint, origins in self._rule:
            joints[joint] = person.joints[origins].mean(axis=0)
            labeled[joint] = person.labeled[origins].all()
        return Person(joints=joints, labeled=labeled, center=person.center, scale=person.scale)

    def reference_length(self, index: int) -> float:
        return float("nan")

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.source.to_original(index, points)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        return self.source.frame(index, image)
