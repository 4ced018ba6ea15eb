"""People followed through the frames of a video: ids over time, search where they are lost, smoothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from ..data.dataset import Image
from ..keypoints import resolve_skeleton
from ..metrics import keypoint_similarity, oks_sigmas
from .crop_search import SAME_PERSON, is_trusted, refined_region
from .result import Pose
from .video import Frame

if TYPE_CHECKING:
    from .predictor import Predictor

Float64Array = npt.NDArray[np.float64]

SEARCH_INTERVAL = 12
"""Frames from one search to the next."""
PATIENCE = 12
"""Frames for which a lost person is still looked for in their last box, and found there keeps the id."""
CUT_DIFFERENCE = 25.0
"""Mean difference of gray values, of 255, of two frames shrunk to 16 x 16 pixels, from which on there is a cut."""
LOW_SCORE = 0.2
"""Joints of lower scores move the smoothed ones in proportion to their score."""


class OneEuro:
    """Smooths a person's joints by the 1 euro filter (Casiez, Roussel and Vogel, CHI 2012).

    With the time ``dt`` since the frame before, in seconds, and sizes of the person as the unit of length::

        alpha(fc) = 1 / (1 + 1 / (2 pi fc dt))
        dx' = alpha(d_cutoff) (x - x'_before) / dt + (1 - alpha(d_cutoff)) dx'_before
        fc  = min_cutoff + beta |dx'|
        x'  = alpha(fc) x + (1 - alpha(fc)) x'_before

    A still joint is smoothed strongly, a fast one hardly. ``alpha(fc)`` of a joint whose score is below `LOW_SCORE` is
    multiplied by the share that it reaches of it.

    Args:
        min_cutoff: Hz, of a still joint; lower is smoother.
        beta: Hz more for each size of the person a second; higher lags less.
        d_cutoff: Hz, of the speed.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 10.0, d_cutoff: float = 1.0) -> None:
        if not (min_cutoff > 0 and beta >= 0 and d_cutoff > 0):
            raise ValueError(
                f"min_cutoff and d_cutoff must be above 0 and beta at least 0, got {min_cutoff}, {d_cutoff} and {beta}"
            )
        self.min_cutoff, self.beta, self.d_cutoff = min_cutoff, beta, d_cutoff
        self._joints: Float64Array | None = None
        self._speed: Float64Array = np.zeros((0, 2))
        self._seconds = -math.inf

    def __call__(self, joints: npt.ArrayLike, scores: npt.ArrayLike, size: float, seconds: float) -> Float64Array:
        """Smooth the joints of the next frame.

        Args:
            joints: (K, 2) pixels.
            scores: (K,).
            size: of the person, in pixels.
            seconds: the frame's time; one that is not after the last leaves the joints as they were.

        Returns:
            (K, 2) pixels.
        """
        new = np.asarray(joints, dtype=np.float64)
        if self._joints is None:
            self._joints, self._speed, self._seconds = new.copy(), np.zeros_like(new), seconds
            return new.copy()
        dt = seconds - self._seconds
        if dt <= 0:
            return self._joints.copy()
        size = max(size, 1e-6)
        weight = np.clip(np.asarray(scores, dtype=np.float64) / LOW_SCORE, 0, 1)[:, None]
        share = _alpha(self.d_cutoff, dt) * weight
        self._speed = self._speed + share * ((new - self._joints) / (size * dt) - self._speed)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(self._speed, axis=1, keepdims=True)
        self._joints = self._joints + _alpha(cutoff, dt) * weight * (new - self._joints)
        self._seconds = seconds
        return self._joints.copy()


def _alpha(cutoff: npt.ArrayLike, dt: float) -> Float64Array:
    return np.asarray(1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff, dtype=np.float64) * dt)))


@dataclasses.dataclass
class _Track:
    id: int
    pose: Pose  # the last trusted one, as the network gave it
    filter: OneEuro
    missed: int = 0


class Tracker:
    """Follows people from frame to frame.

    Each is looked for in the box of their last joints, all of a frame in one batch. Who is not to be trusted there is
    lost: looked for there for `PATIENCE` more frames, then forgotten. A search over the whole frame runs at the first
    frame, at a cut, and else at most every ``search_interval`` frames: while fewer people than ``people`` are followed.
    Who comes back later than `PATIENCE` frames, or elsewhere, has a new id; ids are never used again. Of two tracks on
    one person the older stays.

    Example::

        predictor = Predictor()
        tracker = Tracker(predictor, people=None)
        for frame in read_frames("walk.mp4"):
            for pose in tracker(frame):
                print(frame.seconds, pose.id, pose.joints)

    Args:
        predictor: of people.
        people: maximum number; None: all.
        smooth: smooth joints over time by `OneEuro`.
        search_interval: frames.

    Attributes:
        ids: how many have been given so far.

    Raises:
        ValueError: ``people`` or ``search_interval`` is below 1.
    """

    def __init__(
        self,
        predictor: Predictor,
        people: int | None = 1,
        *,
        smooth: bool = True,
        search_interval: int = SEARCH_INTERVAL,
    ) -> None:
        if (people is not None and people < 1) or search_interval < 1:
            raise ValueError(
                f"people must be at least 1 or None and search_interval at least 1, got {people} and {search_interval}"
            )
        self.predictor, self.people, self.smooth = predictor, people, smooth
        self.search_interval = search_interval
        self.ids = 0
        self._tracks: list[_Track] = []
        self._thumbnail: Float64Array | None = None
        self._until_search = 0

    def __call__(self, frame: Frame) -> list[Pose]:
        """The poses of the next frame, each with its ``id``, in the order of their ids.

        Args:
            frame: of one video, in its order.

        Raises:
            UserError: the network gives score maps that are not finite.
        """
        image = frame.image
        small = thumbnail(image)
        if self._thumbnail is not None and is_cut(self._thumbnail, small):
            self._tracks, self._until_search = [], 0
        self._thumbnail = small
        self._follow(image)
        present = [track for track in self._tracks if not track.missed]
        if self._until_search == 0 and (self.people is None or len(present) < self.people):
            self._until_search = self.search_interval
            self._search(image)
        self._until_search = max(0, self._until_search - 1)
        return [self._result(track, frame.seconds) for track in self._tracks if not track.missed]

    def _follow(self, image: Image) -> None:
        regions = [refined_region(track.pose) for track in self._tracks]
        known = [(t, region) for t, region in zip(self._tracks, regions, strict=True) if region is not None]
        poses = self.predictor.look(image, max(1, len(known)))([region for _, region in known], True)
        found = {track.id: pose for (track, _), pose in zip(known, poses, strict=True) if is_trusted(pose)}
        kept: list[_Track] = []
        for track in self._tracks:  # in the order of their ids
            pose = found.get(track.id)
            if pose is not None and not _same(pose, [t.pose for t in kept if not t.missed]):
                track.pose, track.missed = pose, 0
                kept.append(track)
            elif pose is None and track.missed < PATIENCE:
                track.missed += 1
                kept.append(track)
        self._tracks = kept

    def _search(self, image: Image) -> None:
        if self.people == 1:
            poses = [self.predictor(image)]
        else:
            poses = self.predictor.everyone(image, most=self.people)
        for pose in filter(is_trusted, poses):
            present = [track for track in self._tracks if not track.missed]
            if _same(pose, [track.pose for track in present]):
                continue
            if self.people is not None and len(present) >= self.people:
                return
            lost = next((track for track in self._tracks if track.missed and _same(pose, [track.pose])), None)
            if lost is not None:
                lost.pose, lost.missed = pose, 0
                continue
            self.ids += 1
            self._tracks.append(_Track(self.ids, pose, OneEuro()))

    def _result(self, track: _Track, seconds: float) -> Pose:
        pose, joints = track.pose, track.pose.joints
        if self.smooth:
            size = float(np.ptp(joints, axis=0).max())
            joints = track.filter(joints, pose.scores, size, seconds).astype(np.float32)
        return dataclasses.replace(pose, joints=joints, id=track.id)


def _same(pose: Pose, others: Sequence[Pose]) -> bool:
    """Whether a pose is of the person of one of the others."""
    if not others:
        return False
    sigmas = oks_sigmas(resolve_skeleton(pose.skeleton).joints)
    joints, those = pose.joints[None], np.stack([other.joints for other in others])
    alike = np.maximum(keypoint_similarity(joints, those, sigmas), keypoint_similarity(those, joints, sigmas).T)
    return bool(alike.max() >= SAME_PERSON)


def thumbnail(image: Image) -> Float64Array:
    """(16, 16) mean gray values of a picture."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA), dtype=np.float64)


def is_cut(before: Float64Array, after: Float64Array) -> bool:
    """Whether two `thumbnail`s differ by `CUT_DIFFERENCE` on average."""
    return bool(before.shape != after.shape or np.abs(after - before).mean() >= CUT_DIFFERENCE)
