"""What is kept of an image around a person: the part that can be shown, not finer than is of use."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pyranet_fast.data.base import PIXELS_PER_SCALE, Image, PeopleSource, Person
from pyranet_fast.errors import DataWarning, UserError

Points = npt.NDArray[np.float64]


@dataclass
class Kept:
    """A person's part of an image, averaged down by ``ratio``; labels are in its pixels.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        person: the labels.
        reference_length: the metric's unit in these pixels.
        corner: (2,) the first pixel kept, x and y in the pixels it was cut from.
        ratio: pixels it was cut from per pixel kept, the same along both axes.
        frame: (4,) the whole image in these pixels, see ``PeopleSource.frame``.
        cut: not the whole image.
    """

    pixels: Image
    person: Person
    reference_length: float
    corner: Points
    ratio: float
    frame: Points
    cut: bool

    def back(self, points: npt.ArrayLike) -> Points:
        """Map points (..., 2) to the pixels it was cut from."""
        found: Points = (np.asarray(points, dtype=np.float64) + 0.5) * self.ratio - 0.5 + self.corner
        return found


def keep(source: PeopleSource, index: int, reach: float, detail: float = math.inf) -> Kept:
    """Cut a person out of the image.

    Args:
        source: where the person comes from.
        index: of the person.
        reach: half-width of what is kept in crop sides; infinite keeps the whole image.
        detail: pixels; where the crop's side is longer, the image is averaged down to this.

    Raises:
        UserError: the image cannot be read.
    """
    person, whole = source.person(index), source.image(index)
    image, side, corner, ratio = whole, PIXELS_PER_SCALE * person.scale, np.zeros(2), 1.0
    if math.isfinite(reach):
        # Two pixels more than the geometry asks for, for the bilinear taps at the rim.
        half = reach * side + 2
        left, right = _span(float(person.centre[0]), half, image.shape[1])
        top, bottom = _span(float(person.centre[1]), half, image.shape[0])
        image = image[top:bottom, left:right]
        corner = np.array([left, top], dtype=np.float64)
    cut = image.shape != whole.shape
    if side > detail and min(image.shape[:2]) * detail >= side:
        ratio = side / detail
        # Sizes are left to OpenCV: given them, it would stretch the axes by different ratios.
        small = cv2.resize(image, None, fx=1 / ratio, fy=1 / ratio, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, dtype=np.uint8)
    moved = (np.stack([*person.joints, person.centre]).astype(np.float64) - corner + 0.5) / ratio - 0.5
    frame = source.frame(index, whole) - [*corner, 0, 0]
    return Kept(
        pixels=image,
        person=Person(
            joints=moved[:-1].astype(np.float32),
            labelled=person.labelled,
            centre=moved[-1].astype(np.float32),
            scale=person.scale / ratio,
        ),
        reference_length=source.reference_length(index) / ratio,
        corner=corner,
        ratio=ratio,
        frame=frame / ratio,
        cut=cut,
    )


def _span(middle: float, half: float, length: int) -> tuple[int, int]:
    """Return the pixels within ``half`` of ``middle``, at least one, out of ``length``."""
    start = min(max(0, math.floor(middle - half)), length - 1)
    return start, max(start + 1, min(length, math.ceil(middle + half) + 1))


def check_kept(source: PeopleSource, reach: float, input_size: int, *, strict: bool) -> None:
    """Say when more is asked for than was kept of the images.

    What lies beyond is filled like the outside of an image. In training that is one more change of the picture, a
    ``DataWarning``; a score must not depend on how images were kept, so ``strict`` makes it an error. A finer
    picture than was kept is blurred, nothing else: a ``DataWarning`` in both.

    Args:
        source: the people.
        reach: half-width of what will be shown, in crop sides.
        input_size: side of the network's input, pixels.
        strict: whether too short a reach is an error.

    Raises:
        UserError: with ``strict``, pictures show more than was kept.
    """
    if reach > source.reach + 1e-6:
        less = (
            f"{source.name}: pictures that reach {reach:.3g} crop sides from a person's centre are asked for, and "
            f"{source.reach:.3g} were kept"
        )
        if strict:
            raise UserError(f"{less}; scales up to {2 * source.reach:.3g} are accepted, or the original images")
        warnings.warn(f"{less}; what lies beyond is grey", DataWarning, stacklevel=2)
    if input_size > source.detail:
        warnings.warn(
            f"{source.name}: large people were kept with {source.detail:g} pixels along a crop's side, less than the "
            f"input size {input_size}, and are blurred",
            DataWarning,
            stacklevel=2,
        )
