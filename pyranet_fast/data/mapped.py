"""People of one skeleton seen as people of another, so that data sets can be trained on together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from pyranet_fast.data.base import Image, PeopleSource, Person
from pyranet_fast.pose.skeleton import LSP, MPII, Skeleton

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

    A joint that ``rule`` makes from several is their mean, labelled where all of them are; a joint that it does not
    name is never labelled. The unit of length of the new metric is not in the old labels: ``reference_length`` is
    NaN, so these people are trained on and never scored.
    """

    def __init__(
        self, source: PeopleSource, skeleton: Skeleton, rule: Rule, metric: Literal["pck", "pckh", "pck-box"]
    ) -> None:
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
        labelled = np.zeros(len(self.skeleton), dtype=bool)
        for joint, origins in self._rule:
            joints[joint] = person.joints[origins].mean(axis=0)
            labelled[joint] = person.labelled[origins].all()
        return Person(joints=joints, labelled=labelled, centre=person.centre, scale=person.scale)

    def reference_length(self, index: int) -> float:
        return float("nan")

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.source.to_original(index, points)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        return self.source.frame(index, image)
