"""Crops with missing joints: scenes without a person, truncated people, occluded people.

A network trained only on complete people finds one everywhere. With these crops, and zero targets for missing joints, a
score tells whether a joint is present.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from .dataset import PIXELS_PER_SCALE, Image, PeopleSource, Person
from .synthetic import scene as synthetic
from .transforms import invert, transform_points

NOWHERE = -1000.0
"""Map pixel of a joint that is not in a crop: its Gaussian is 0 all over the map."""

_TRIES = 16
_SQUARES = (0.25, 1.2)  # side of an empty crop, in sides of the crop of the person beside it
_INSIDE = 0.75  # share of an empty crop's side that lies in the picture, along each axis
_MARGIN = 0.15  # around the joints of a person, of their box: hair, hands, feet
_SYNTHETIC = 0.3  # share of empty crops that are synthetic, and half of those that find no room

# A border cuts off these shares of the joints' box, from one of its sides: a photo mostly ends below.
_CUTS = (0.2, 0.65)
_EDGES = ((0, 0.15), (1, 0.55), (2, 0.15), (3, 0.15))  # top, bottom, left, right
_LEFT_OVER = 3  # joints that stay at least
_FILL = 0.756  # of a crop's side, the longer side of the joints' box


class PeopleOfPictures:
    """Boxes of the people in each image, to find squares without them.

    Squares may show people without labels.

    Args:
        source: the people.
    """

    def __init__(self, source: PeopleSource) -> None:
        self.source = source
        boxes = defaultdict(list)
        for index in source.available():
            person = source.person(index)
            seen = source.to_original(index, person.joints[person.labeled])
            if len(seen):
                low, high = seen.min(axis=0), seen.max(axis=0)
                pad = _MARGIN * float((high - low).max())
                boxes[source.image_name(index)].append([*(low - pad), *(high + pad)])
        self._boxes = {name: np.unique(np.array(found), axis=0) for name, found in boxes.items()}

    def boxes(self, index: int) -> npt.NDArray[np.float64]:
        """Return the boxes of all people in a person's image, (P, 4): x0, y0, x1, y1 in pixels of ``image(index)``."""
        found = self._boxes.get(self.source.image_name(index), np.zeros((0, 4)))
        origin, right, down = self.source.to_original(index, [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        back = invert(np.stack([right - origin, down - origin, origin], axis=1))
        return transform_points(back, found.reshape(-1, 2)).reshape(-1, 4)

    def scene(self, rng: Generator, index: int, image: Image, size: int) -> tuple[Image, Person] | None:
        """Return an image and a square of it without a person.

        Args:
            rng: random generator.
            index: person whose image to use.
            image: image of the person.
            size: crop size in pixels, for synthetic images.

        Returns:
            The image and a `Person` without labeled joints, or None without space.
        """
        person = self.source.person(index)
        count = len(person.labeled)
        nobody = replace(person, joints=np.zeros((count, 2), np.float32), labeled=np.zeros(count, dtype=bool))
        if rng.random() >= _SYNTHETIC:
            square = empty_square(rng, image.shape[:2], self.boxes(index), PIXELS_PER_SCALE * person.scale)
            if square is not None:
                center, side = square
                return image, replace(nobody, center=center, scale=side / PIXELS_PER_SCALE)
            if rng.random() < 0.5:
                return None
        center = np.full(2, (size - 1) / 2, dtype=np.float32)
        picture = synthetic.photograph(rng, synthetic.background(rng, size, size))
        return picture, replace(nobody, center=center, scale=size / PIXELS_PER_SCALE)


def empty_square(
    rng: Generator, shape: tuple[int, ...], boxes: npt.NDArray[np.float64], side: float
) -> tuple[npt.NDArray[np.float32], float] | None:
    """Find a square that overlaps no box and lies mostly inside the image.

    Args:
        rng: random generator.
        shape: of the image, (height, width).
        boxes: (P, 4), x0, y0, x1, y1.
        side: side of a usual crop, pixels.

    Returns:
        Its center, (2,) x and y, and its side in pixels; None if none was found.
    """
    height, width = shape[:2]
    low, high = (math.log(share) for share in _SQUARES)
    for _ in range(_TRIES):
        length = side * math.exp(rng.uniform(low, high))
        most = length * (_INSIDE - 0.5)
        if min(height, width) < 2 * most:
            continue
        x, y = rng.uniform(most, width - most), rng.uniform(most, height - most)
        apart = (
            (boxes[:, 0] >= x + length / 2)
            | (boxes[:, 2] <= x - length / 2)
            | (boxes[:, 1] >= y + length / 2)
            | (boxes[:, 3] <= y - length / 2)
        )
        if apart.all():
            return np.array([x - 0.5, y - 0.5], dtype=np.float32), length
    return None


def cut(rng: Generator, image: Image, person: Person) -> tuple[Image, Person, npt.NDArray[np.bool_]]:
    """Truncate a person at the border of the image, or only of the crop.

    The crop moves and shrinks toward the visible part by a random fraction, like a box around a truncated person.

    Args:
        rng: random generator.
        image: (H, W, 3).
        person: person in the image.

    Returns:
        The possibly smaller image, the person in its pixels, and (K,) bool, joints beyond its border, which are no
        longer labeled.
    """
    gone = np.zeros(len(person.labeled), dtype=bool)
    seen = person.joints[person.labeled].astype(np.float64)
    edge = int(rng.choice([edge for edge, _ in _EDGES], p=[chance for _, chance in _EDGES]))
    share, way, ends = rng.uniform(*_CUTS), rng.random(), rng.random() < 0.5
    if len(seen) <= _LEFT_OVER:
        return image, person, gone
    axis, after = (1, 0)[edge // 2], edge % 2 == 1
    low, high = seen.min(axis=0), seen.max(axis=0)
    extent = high[axis] - low[axis]
    border = high[axis] - share * extent if after else low[axis] + share * extent
    beyond = person.joints[:, axis] > border if after else person.joints[:, axis] < border
    left = person.labeled & ~beyond
    if left.sum() < _LEFT_OVER:
        return image, person, gone
    rest = person.joints[left].astype(np.float64)
    low, high = rest.min(axis=0), rest.max(axis=0)
    side = PIXELS_PER_SCALE * person.scale
    close = min(side, max(float((high - low).max()) / _FILL, 0.35 * side))
    center = (1 - way) * person.center + way * (low + high) / 2
    person = replace(
        person, center=center.astype(np.float32), scale=((1 - way) * side + way * close) / PIXELS_PER_SCALE
    )
    if not ends:
        return image, person, gone
    length = image.shape[1 - axis]
    at = math.floor(border) + 1 if after else math.ceil(border)
    at = min(max(at, 1), length - 1)
    start, stop = (0, at) if after else (at, length)
    image = image[start:stop] if axis == 1 else image[:, start:stop]
    offset = np.zeros(2, dtype=np.float32)
    offset[axis] = start
    gone = person.labeled & beyond
    person = replace(person, joints=person.joints - offset, center=person.center - offset, labeled=left)
    return image, person, gone


def cover(rng: Generator, image: Image, points: npt.NDArray[np.float64], *, whole: bool = False) -> Image:
    """Occlude a person.

    Args:
        rng: random generator.
        image: (S, S, 3) uint8, the crop; not changed.
        points: (P, 2) labeled joints in its pixels, at least one.
        whole: occlude the entire person instead of up to half.

    Returns:
        The crop with occluders, each a patch of another part of the crop or a synthetic surface.
    """
    image = image.copy()
    size = image.shape[0]
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 4.0)
    if whole:
        pad = _MARGIN * float(extent.max())
        _paste(rng, image, low - pad, high + pad)
    elif rng.random() < 0.35:  # behind a table, a wall, a board: from a line on
        axis, share = int(rng.random() < 0.75), rng.uniform(0.15, 0.5)
        first, last = low - 0.2 * extent, np.full(2, float(size))
        if axis == 0 and rng.random() < 0.5:
            first, last = np.array([0.0, low[1] - 0.2 * extent[1]]), high + 0.2 * extent
            last[0] = low[0] + share * extent[0]
        else:
            first[axis] = high[axis] - share * extent[axis]
        _paste(rng, image, first, last)
    else:
        for _ in range(int(rng.integers(1, 4))):
            half = extent.max() * rng.uniform(0.06, 0.22, 2)
            middle = points[rng.integers(len(points))] + rng.normal(0, 0.3, 2) * half
            _paste(rng, image, middle - half, middle + half)
    return image


def _paste(rng: Generator, image: Image, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> None:
    """Fill a rectangle or the ellipse in it."""
    size = image.shape[0]
    x0, y0 = (int(v) for v in np.clip(np.floor(low), 0, size))
    x1, y1 = (int(v) for v in np.clip(np.ceil(high), 0, size))
    width, height = x1 - x0, y1 - y0
    if min(width, height) < 2:
        return
    if rng.random() < 0.5:
        patch = synthetic.texture(rng, height, width)
    else:
        part = rng.uniform(0.15, 0.6)
        w, h = max(2, round(part * width)), max(2, round(part * height))
        x, y = int(rng.integers(size - w + 1)), int(rng.integers(size - h + 1))
        piece = image[y : y + h, x : x + w][:, :: int(rng.choice((-1, 1)))]
        patch = cv2.resize(np.ascontiguousarray(piece), (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if rng.random() < 0.3 and min(width, height) > 6:
        mask = np.zeros((height, width), dtype=np.uint8)
        cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 255, -1)
        cv2.copyTo(patch, mask, image[y0:y1, x0:x1])
    else:
        image[y0:y1, x0:x1] = patch
