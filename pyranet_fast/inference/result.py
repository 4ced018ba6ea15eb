"""The pose of one person, as it is predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..keypoints import resolve_skeleton

if TYPE_CHECKING:  # data sets need OpenCV, a pose does not
    from ..data.dataset import Image

Box = tuple[float, float, float, float]


@dataclass
class Pose:
    """A predicted pose.

    Attributes:
        joints: (K, 2) float32, x and y in image pixels, 0-based, an integer is a pixel's center.
        scores: (K,) float32, the peak of each score map: near 1 where the network is sure, else near 0.
        heatmaps: (K, h, w) float32 score maps of the crop.
        skeleton: the joints' meaning: a name in ``pyranet_fast.pose.SKELETONS``, or ``Skeleton.as_dict()`` of one
            that came with the training data; ``pyranet_fast.pose.resolve_skeleton`` reads both.
        box: (x, y, width, height) in image pixels, what the crop was made from.
        heatmap_to_image: (2, 3) float64, affine map from pixels of ``heatmaps`` to pixels of the image.
        chances: (K,) float64, the share of right joints (PCK@0.2, PCKh@0.5) at such scores among people that the
            network was evaluated on; None where the checkpoint does not know.
        rotation: degrees that the crop was turned by, counter-clockwise, for people who are upside down or lie.
        id: of the person over the frames of a video, from 1; None outside of tracking.
    """

    joints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.float32]
    skeleton: str | dict[str, Any]
    box: Box
    heatmap_to_image: npt.NDArray[np.float64]
    chances: npt.NDArray[np.float64] | None = None
    rotation: float = 0.0
    id: int | None = None

    @property
    def trustworthy(self) -> bool | None:
        """Whether at least half of the joints are likely to be right; None where the checkpoint does not know."""
        return None if self.chances is None else bool(self.chances.mean() >= 0.5)

    @property
    def mean_score(self) -> float:
        """Mean of the joints' scores: one number for how far to trust the pose."""
        return float(self.scores.mean())

    def as_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, joints by name; without the score maps."""
        skeleton = resolve_skeleton(self.skeleton)
        rows = zip(skeleton.joints, self.joints.tolist(), self.scores.tolist(), strict=True)
        joints = {n: {"x": round(x, 2), "y": round(y, 2), "score": round(s, 4)} for n, (x, y), s in rows}
        content = {
            "skeleton": skeleton.name,
            "box": [round(v, 2) for v in self.box],
            "rotation": self.rotation,
            "mean_score": round(self.mean_score, 4),
            "joints": joints,
        }
        if self.id is not None:
            content["id"] = self.id
        if self.chances is not None:
            content["trustworthy"] = self.trustworthy
            for joint, chance in zip(joints.values(), self.chances.tolist(), strict=True):
                joint["chance"] = round(chance, 4)
        return content


@dataclass
class Prediction:
    """What was found in one picture of a stream.

    Attributes:
        index: number of the picture in its source, from 0.
        name: its path, URL, ``SHARD.tar/MEMBER``, ``VIDEO#FRAME`` or ``image N``.
        image: (H, W, 3) uint8 RGB; None where it could not be read.
        poses: a pose for each person.
        error: why there are none, in a sentence; None where all went well.
        seconds: the time of a video's frame, where it was tracked.
    """

    index: int
    name: str
    image: Image | None
    poses: list[Pose] = field(default_factory=list)
    error: str | None = None
    seconds: float | None = None
