"""The region of an image that the network sees, and the search for people without boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.dataset import PIXELS_PER_SCALE
from ..data.transforms import Matrix, crop_matrix
from ..errors import UserError
from ..keypoints import resolve_skeleton
from ..metrics import keypoint_similarity, oks_sigmas
from .result import Box, Pose

Look = Callable[[list["CropRegion"], bool], list[Pose]]
"""Gives the poses in regions; its second argument is whether to take more care (to average with mirrored crops)."""

# Side of the crop in long sides of a person's tight box: the margin of MPII's annotations.
BOX_MARGIN = 1.25
# ... and of the whole image where no box is given, as the network saw the images of LSP.
IMAGE_MARGIN = 1.05
# Extent of a person's joints over the side of the crop, on average over LSP. A box around joints is widened
# to this share, as hands, feet and hair lie outside them.
JOINTS_EXTENT = 0.756
# A pose with more than half of its joints below this score says nothing about where the person is.
CONFIDENT_SCORE = 0.2
# Other regions are tried below this expected accuracy or, where the weights do not know it, below this mean score; and
# their best pose is kept if its mean score is this many times as high: the best of many crops scores a little higher by
# chance. Tuned, with the lists below, on LSP 1001-1060 as it is, shrunk into larger pictures, rotated and cut off.
MIN_EXPECTED_ACCURACY, MIN_MEAN_SCORE, SEARCH_GAIN = 0.82, 0.45, 1.2
# The whole image from further away, for people who are cut off ...
WIDER_MARGINS = (1.5, 2.2)
# ... turned, for people who are upside down or lie ...
ROTATIONS = (180.0, 90.0, -90.0)
# ... and windows of these shares of its longer side, this many along it, for people who are small.
WINDOW_SHARES = ((0.6, 3), (0.4, 6))
# Number of poses that are refined, and of refinements of each, at most.
CANDIDATES, CLOSER_LOOKS = 4, 2

# For everybody: windows of these shares of an image's longer side, of which the first N are always predicted, ...
PEOPLE_SHARES, ALWAYS_LEVELS = (1.05, 0.75, 0.53, 0.38, 0.27, 0.19), 2
# ... the smaller ones where a joint scores at least this.
HINT_SCORE = 0.1
# Candidates this similar are of one person; refined, people as similar as that are the same.
CANDIDATE_SIMILARITY, SAME_PERSON = 0.5, 0.3
MOST_CANDIDATES = 24
# People whose joints are less likely right than this, or of a lower mean score, are left out.
MIN_PERSON_CHANCE, MIN_PERSON_SCORE = 0.6, 0.44


@dataclass(frozen=True)
class CropRegion:
    """A square of an image.

    Attributes:
        box: (x, y, width, height) in image pixels, x and y the top left corner; the square has its center.
        margin: side of the square in longer sides of the box.
        rotation: degrees that the picture is turned by, counter-clockwise, before the network sees it.
    """

    box: Box
    margin: float
    rotation: float = 0.0

    def matrix(self, input_size: int) -> Matrix:
        """The (2, 3) map from image pixels to those of a crop of ``input_size``."""
        x, y, width, height = self.box
        # x and y are a corner; the first pixel's center is half a pixel inside it.
        center = (x + width / 2 - 0.5, y + height / 2 - 0.5)
        return crop_matrix(center, self.margin * max(width, height) / PIXELS_PER_SCALE, self.rotation, input_size)


def whole_image(shape: Sequence[int], margin: float = IMAGE_MARGIN, rotation: float = 0.0) -> CropRegion:
    """All of an image of this (height, width, …)."""
    return CropRegion((0.0, 0.0, float(shape[1]), float(shape[0])), margin, rotation)


def refined_region(pose: Pose) -> CropRegion | None:
    """The region of the person whose joints were found, or None where too few of them are confident.

    At least half of the joints must score ``CONFIDENT_SCORE``. The box then holds all joints: a wrong one makes the
    crop too large, which costs some resolution, whereas leaving out an ankle of low confidence would cut it off. Its
    size is the one at which the crop shows the person as large as training did.
    """
    if np.mean(pose.scores >= CONFIDENT_SCORE) < 0.5:
        return None
    low, high = (edge.astype(np.float64) for edge in (pose.joints.min(axis=0), pose.joints.max(axis=0)))
    extent = float((high - low).max())
    if extent < 2.0:  # all on one spot: no size to go by
        return None
    pad = extent * (1 / (JOINTS_EXTENT * BOX_MARGIN) - 1) / 2
    x, y = low - pad + 0.5
    width, height = high - low + 2 * pad
    return CropRegion((float(x), float(y), float(width), float(height)), BOX_MARGIN, pose.rotation)


def needs_search(pose: Pose) -> bool:
    """Whether to look for a person elsewhere in an image too."""
    if pose.chances is not None:
        return bool(pose.chances.mean() < MIN_EXPECTED_ACCURACY)
    return pose.mean_score < MIN_MEAN_SCORE


def candidate_regions(shape: Sequence[int]) -> list[CropRegion]:
    """Where a person may be who was not found in the whole image: further away, turned, or small somewhere in it."""
    regions = [whole_image(shape, margin) for margin in WIDER_MARGINS]
    regions += [whole_image(shape, rotation=rotation) for rotation in ROTATIONS]
    rows, columns = shape[:2]
    for share, count in WINDOW_SHARES:
        side = share * max(rows, columns)
        for x in _starts(columns, side, count):
            regions += [CropRegion((x, y, side, side), IMAGE_MARGIN) for y in _starts(rows, side, count)]
    return regions


def _starts(length: int, side: float, count: int) -> list[float]:
    """Where windows of a side begin: evenly from edge to edge, or one in the middle of what is shorter than they."""
    return [float(v) for v in np.linspace(0.0, length - side, count)] if length > side else [(length - side) / 2]


def search_regions(first: Pose, shape: Sequence[int], search: Look, look: Look) -> Pose:
    """``first``, or what the best of the `candidate_regions` lead to where that is clearly more confident.

    Args:
        first: of the whole image.
        shape: of the image, (height, width, …).
        search: poses of all regions, by a smaller network perhaps.
        look: poses of the best of them.
    """
    regions = candidate_regions(shape)
    seen = search(regions, False)
    order = sorted(range(len(seen)), key=lambda i: -seen[i].mean_score)[:CANDIDATES]
    best = max(_refined(look([regions[i] for i in order], True), look), key=lambda pose: pose.mean_score)
    return best if best.mean_score > SEARCH_GAIN * first.mean_score else first


def _refined(poses: list[Pose], look: Look) -> list[Pose]:
    """Refine each pose in the box of its own joints as long as that is more confident."""
    best = list(poses)
    improved = set(range(len(best)))
    for _ in range(CLOSER_LOOKS):
        again = {i: region for i in sorted(improved) if (region := refined_region(best[i])) is not None}
        if not again:
            break
        closer = dict(zip(again, look(list(again.values()), True), strict=True))
        improved = {i for i, pose in closer.items() if pose.mean_score > best[i].mean_score}
        for i in improved:
            best[i] = closer[i]
    return best


def find_people(shape: Sequence[int], search: Look, look: Look, most: int | None = None) -> list[Pose]:
    """Everybody in an image, the most confident first.

    Windows of falling sizes, each half over the next, go through the searching network; those below the first two
    sizes only where a larger window has a joint with some confidence. Poses of which at least half of the joints are
    confident are candidates. Of those of the same person the best is refined by the other network on the box of its own
    joints, and kept where it is to be trusted.

    Args:
        shape: of the image, (height, width, …).
        search: poses of windows.
        look: poses of the boxes that it led to.
        most: maximum number of people; None: all.
    """
    seen: list[Pose] = []
    hints = np.empty((0, 2))
    for level, share in enumerate(PEOPLE_SHARES):
        regions = people_windows(shape, share)
        if level >= ALWAYS_LEVELS:
            regions = [region for region in regions if _holds_hint(region, hints)]
        poses = search(regions, False) if regions else []
        found = [pose.joints[pose.scores >= HINT_SCORE] for pose in poses]
        hints = np.concatenate([hints, *found])
        seen += [pose for pose in poses if np.mean(pose.scores >= CONFIDENT_SCORE) >= 0.5]
    candidates = distinct(seen, CANDIDATE_SIMILARITY)[:MOST_CANDIDATES]
    people = distinct(_refined(candidates, look), SAME_PERSON)
    people = [pose for pose in people if is_trusted(pose)]
    return people if most is None else people[:most]


def people_windows(shape: Sequence[int], share: float) -> list[CropRegion]:
    """Square windows over an image of this (height, width, …), of a share of its longer side, half over each other."""
    rows, columns = shape[:2]
    side = share * max(rows, columns)
    counts = [1 if length <= side else 1 + math.ceil((length - side) / (side / 2) - 1e-9) for length in (columns, rows)]
    return [
        CropRegion((x, y, side, side), 1.0)
        for x in _starts(columns, side, counts[0])
        for y in _starts(rows, side, counts[1])
    ]


def _holds_hint(region: CropRegion, hints: npt.NDArray[np.float64]) -> bool:
    x, y, width, height = region.box
    inside = (hints >= (x, y)) & (hints < (x + width, y + height))
    return bool(inside.all(axis=1).any())


def distinct(poses: Sequence[Pose], similarity: float) -> list[Pose]:
    """Poses of different people, the most confident first: one that is as similar to a better one is left out.

    Args:
        poses: of one skeleton.
        similarity: COCO's object keypoint similarity from which on two poses are of the same person.
    """
    order = sorted(poses, key=lambda pose: -pose.mean_score)
    if not order:
        return []
    joints = np.stack([pose.joints for pose in order])
    alike = keypoint_similarity(joints, joints, oks_sigmas(resolve_skeleton(order[0].skeleton).joints))
    alike = np.maximum(alike, alike.T)
    kept: list[int] = []
    for i in range(len(order)):
        if all(alike[i, j] < similarity for j in kept):
            kept.append(i)
    return [order[i] for i in kept]


def is_trusted(pose: Pose) -> bool:
    """Whether a pose is confident enough to count as a person if no box says that there is one."""
    if pose.chances is not None:
        return bool(pose.chances.mean() >= MIN_PERSON_CHANCE)
    return pose.mean_score >= MIN_PERSON_SCORE


def checked_box(box: Sequence[float], shape: Sequence[int]) -> Box:
    """A user's box as four floats.

    Raises:
        UserError: not four finite numbers, no area, no pixel of the image in it, or absurdly large.
    """
    expected = "box must be four finite numbers x, y, width, height in pixels"
    try:
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError) as error:
        raise UserError(f"{expected}, got {box!r}") from error
    if not all(map(math.isfinite, (x, y, width, height))):
        raise UserError(f"{expected}, got {box!r}")
    if width <= 0 or height <= 0:
        raise UserError(f"width and height of box must be above 0, got {width:g} and {height:g}")
    rows, columns = shape[:2]
    size = f"{columns} x {rows} pixels"
    if x >= columns or y >= rows or x + width <= 0 or y + height <= 0:
        raise UserError(f"box {x:g},{y:g},{width:g},{height:g} lies outside the image of {size}")
    if max(width, height) > 100 * max(rows, columns):
        raise UserError(f"box {x:g},{y:g},{width:g},{height:g} is more than 100 times the image of {size}")
    return x, y, width, height
