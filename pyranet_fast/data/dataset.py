"""Datasets of labeled people, and datasets derived from others: concatenated, subsets, mapped to another skeleton.

Pixels are 0-based everywhere and an integer coordinate is a pixel's center.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import UserError, renamed
from ..keypoints import LSP, MPII, Skeleton
from ..metrics import Metric

Image = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# "scale" is the side of the square around a person in units of this many pixels (MPII's convention).
PIXELS_PER_SCALE = 200.0
# The parts of a dataset.
SPLITS = ("train", "val", "test")


@renamed(labelled="labeled", centre="center")
@dataclass
class Person:
    """One labeled person.

    Attributes:
        joints: (K, 2) float32, x and y in image pixels; undefined where not labeled.
        labeled: (K,) bool; an occluded joint is labeled like any other.
        center: (2,) float32, center of the crop in image pixels.
        scale: side of the crop square / 200 px.
    """

    joints: Float32Array
    labeled: BoolArray
    center: Float32Array
    scale: float


@dataclass(frozen=True)
class PersonRecord:
    """What the dataset's own files call a person, and say of them beside joints and crop.

    It goes with the person through subsets, caches and packed files to the files of results.

    Attributes:
        image_id: of the image: a number, or its name where the dataset has none.
        category_id: of the person's class; 1 where there are no classes.
        annotation_id: of the person; None where people have no ids.
        box: x, y of the top left corner, width and height in pixels of the published image, or None.
        area: of the person's segment in square pixels of the published image, or None.
        place: in MPII's list, the numbers of image and person from 1, or None.
    """

    image_id: int | str
    category_id: int | str = 1
    annotation_id: int | str | None = None
    box: tuple[float, float, float, float] | None = None
    area: float | None = None
    place: tuple[int, int] | None = None


class PeopleSource(ABC):
    """A dataset: people, each with an image; index i counts people from 0.

    Attributes:
        skeleton: the K joints.
        name: name of the dataset in messages and reports.
        metric: metric of these people.
        notes: sentences on people left out and estimated values; ``open_dataset`` issues them as warnings.
        reach: half-width, in crop sides, of the square around a person that the images are guaranteed to show (within
            the published image); infinite for entire images.
        detail: pixels that the crop side was downsampled to; infinite if it was not.
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
        """Return the image, (H, W, 3) uint8 RGB; raise UserError if the file cannot be read."""

    @abstractmethod
    def image_name(self, index: int) -> str:
        """Return the name of the image for reports."""

    def record(self, index: int) -> PersonRecord:
        """Return the identifiers of the person in the dataset's own files."""
        return PersonRecord(self.image_name(index))

    def digest(self, index: int) -> bytes:
        """Return 8 bytes that identify the person's image and labels, to check resumed runs."""
        name = self.image_name(index)
        try:
            person = self.person(index)
        except UserError:  # labels that need the image
            return digest_of(name)
        joints = np.where(person.labeled[:, None], person.joints, 0)
        return digest_of(name, joints, person.labeled, person.center, person.scale, self.reference_length(index))

    def available(self) -> list[int]:
        """Return the indices of the people whose image exists; it may still be corrupt."""
        return list(range(len(self)))

    @abstractmethod
    def person(self, index: int) -> Person:
        """Return the labels, in the pixels of ``image(index)``."""

    @abstractmethod
    def reference_length(self, index: int) -> float:
        """Return the metric's unit of length in pixels; NaN if unknown, in which case the person is not scored."""

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map points (..., 2) in the pixels of ``image(index)`` to pixels of the published image."""
        return np.asarray(points, dtype=np.float64)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        """Return where the published image lies in the pixels of ``image``, which is ``image(index)``.

        Returns:
            (4,) float64: x and y of its corner, width and height; it covers x - 0.5 to x - 0.5 + width.
        """
        return np.array([0, 0, image.shape[1], image.shape[0]], dtype=np.float64)


def digest_of(name: str, *values: npt.ArrayLike) -> bytes:
    """Return 8 bytes that depend on a name and on the bits of numbers, taken in float32."""
    found = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
    for value in values:
        found.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
    return found.digest()


def digest_of_people(source: PeopleSource) -> bytes:
    """Return 16 bytes that tell a dataset's people and their order from other ones."""
    found = hashlib.blake2b(repr((source.skeleton.joints, source.skeleton.flip_pairs)).encode(), digest_size=16)
    for index in range(len(source)):
        found.update(source.digest(index))
    return found.digest()


def folder_below(root: str | Path, name: str, witness: str) -> Path:
    """The folder of a dataset, ``root/name``.

    Args:
        root: the folder that holds datasets.
        name: of the dataset's folder.
        witness: a file or folder in it; found in ``root``, the message suggests the folder above.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(root) / name
    if folder.is_dir():
        return folder
    if not Path(root).is_dir():
        raise UserError(f"root folder {root} does not exist; expected the folder that contains {name}/")
    hint = f"; give the folder above {root}" if (Path(root) / witness).exists() else ""
    raise UserError(f"{root} holds no folder {name}/{hint}")


# Datasets made of others.


class DerivedSource(PeopleSource):
    """People of other datasets.

    What a subclass does not change of a person is asked of the dataset that the person comes from, here and nowhere
    else. ``notes`` are those of all datasets, ``reach`` and ``detail`` the least of them.

    Attributes:
        sources: the datasets that the people come from.
    """

    def __init__(self, sources: Sequence[PeopleSource]) -> None:
        self.sources = list(sources)
        self.notes = tuple(dict.fromkeys(note for source in sources for note in source.notes))
        self.reach = min(source.reach for source in sources)
        self.detail = min(source.detail for source in sources)

    @abstractmethod
    def locate(self, index: int) -> tuple[PeopleSource, int]:
        """Return the dataset that a person comes from, one of ``sources``, and the person's index there."""

    def image(self, index: int) -> Image:
        source, local = self.locate(index)
        return source.image(local)

    def image_name(self, index: int) -> str:
        source, local = self.locate(index)
        return source.image_name(local)

    def record(self, index: int) -> PersonRecord:
        source, local = self.locate(index)
        return source.record(local)

    def digest(self, index: int) -> bytes:
        source, local = self.locate(index)
        return source.digest(local)

    def available(self) -> list[int]:
        """Return the indices of the people whose image exists."""
        there = {id(source): frozenset(source.available()) for source in self.sources}
        places = map(self.locate, range(len(self)))
        return [index for index, (source, local) in enumerate(places) if local in there[id(source)]]

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


class ConcatSource(DerivedSource):
    """Concatenation of datasets, possibly repeated; they must share skeleton and metric."""

    def __init__(self, sources: Sequence[PeopleSource]) -> None:
        """Join ``sources``; ValueError where there is none or they differ in skeleton or metric."""
        if not sources:
            raise ValueError("sources must not be empty")
        first = sources[0]
        for source in sources[1:]:
            if source.skeleton != first.skeleton or source.metric != first.metric:
                raise ValueError(
                    f"sources differ: {first.name} has skeleton {first.skeleton.name}, {first.metric.name}; "
                    f"{source.name} has {source.skeleton.name}, {source.metric.name}; they must agree"
                )
        super().__init__(sources)
        self.skeleton = first.skeleton
        self.metric = first.metric
        times = {source: 0 for source in sources}
        for source in sources:
            times[source] += 1
        self.name = "+".join(source.name + (f" x{n}" if n > 1 else "") for source, n in times.items())
        self._starts = np.cumsum([0, *(len(source) for source in sources)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[PeopleSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1} of {self.name}")
        which = bisect.bisect_right(self._starts, index) - 1
        return self.sources[which], index - self._starts[which]


class Subset(DerivedSource):
    """People of a dataset at the given indices, in that order."""

    def __init__(self, source: PeopleSource, indices: Iterable[int]) -> None:
        """Choose people; IndexError where ``source`` has no person of an index."""
        super().__init__([source])
        self.source, self.indices = source, [int(index) for index in indices]
        for index in self.indices:
            if not 0 <= index < len(source):
                raise IndexError(f"index {index} is outside 0..{len(source) - 1} of {source.name}")
        self.skeleton, self.metric = source.skeleton, source.metric
        self.name = f"{source.name} ({len(self.indices)} of {len(source)})"

    def __len__(self) -> int:
        return len(self.indices)

    def locate(self, index: int) -> tuple[PeopleSource, int]:
        return self.source, self.indices[index]


# By joint of the new skeleton: the joints of the old one whose mean it is.
JointMapping = Mapping[str, tuple[str, ...]]

LSP_TO_MPII: JointMapping = {
    **{joint: (joint,) for joint in LSP.joints if joint in MPII.joints},
    "upper neck": ("neck",),
    "pelvis": ("right hip", "left hip"),
    "thorax": ("right shoulder", "left shoulder"),
}


def joint_origins(skeleton: Skeleton, wanted: Skeleton) -> list[list[int]] | None:
    """For each joint of ``wanted`` the joints of ``skeleton`` between which it lies; None for other skeletons.

    The same joints are themselves. Between MPII and LSP, MPII's upper neck is LSP's neck, and LSP's hips and shoulders
    have MPII's pelvis and thorax between them.
    """
    if skeleton.joints == wanted.joints:
        return [[index] for index in range(len(wanted))]
    pair = skeleton.joints, wanted.joints
    if pair == (LSP.joints, MPII.joints):
        return [[skeleton.index(origin) for origin in LSP_TO_MPII[joint]] for joint in wanted.joints]
    if pair == (MPII.joints, LSP.joints):
        became = {origins[0]: joint for joint, origins in LSP_TO_MPII.items() if len(origins) == 1}
        return [[skeleton.index(became[joint])] for joint in wanted.joints]
    return None


class MappedSource(DerivedSource):
    """People of another dataset with the joints of ``skeleton``, to train on both together.

    A joint that ``rule`` maps from several joints is their mean, labeled if all of them are; a joint it does not name
    is never labeled. The old labels lack the new metric's unit of length, so ``reference_length`` is NaN: these
    people are for training only.
    """

    def __init__(self, source: PeopleSource, skeleton: Skeleton, rule: JointMapping, metric: Metric) -> None:
        """Map ``source``; ``metric`` is that of the people they will be joined with.

        Raises:
            ValueError: ``rule`` names a joint that one of the skeletons lacks, or maps one from none.
        """
        super().__init__([source])
        self.source, self.skeleton, self.metric = source, skeleton, metric
        self.name = source.name
        self._rule = []
        for joint, origins in rule.items():
            if not origins:
                raise ValueError(f"rule must map {joint!r} from at least one joint, got none")
            self._rule.append((skeleton.index(joint), [source.skeleton.index(origin) for origin in origins]))

    def __len__(self) -> int:
        return len(self.source)

    def locate(self, index: int) -> tuple[PeopleSource, int]:
        return self.source, index

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
