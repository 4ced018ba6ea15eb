"""Images decoded once and cached in memory, cropped to the region around a person that augmentation can reach.

Packed files (``packed``) hold the same region, with the same check that no crop exceeds it.
"""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import DataWarning, UserError
from ..io import limit_pixels, max_pixels
from .dataset import PIXELS_PER_SCALE, ConcatSource, DerivedSource, Image, PeopleSource, Person, Subset
from .transforms import Augmentation

Float64Array = npt.NDArray[np.float64]

_BLOCK = 64 << 20  # bytes of pixels in one array


@dataclass
class ImageRegion:
    """Part of an image around a person, downsampled by ``ratio``; labels are in its pixels.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        person: the labels.
        reference_length: the metric's unit in these pixels.
        corner: (2,) x and y of its first pixel in the image.
        ratio: pixels of the image per pixel of the region, the same along both axes.
        frame: (4,) the entire image in these pixels, see ``PeopleSource.frame``.
        cut: whether it is less than the entire image.
    """

    pixels: Image
    person: Person
    reference_length: float
    corner: Float64Array
    ratio: float
    frame: Float64Array
    cut: bool

    def to_image(self, points: npt.ArrayLike) -> Float64Array:
        """Map points (..., 2) to the pixels of the image."""
        found: Float64Array = (np.asarray(points, dtype=np.float64) + 0.5) * self.ratio - 0.5 + self.corner
        return found


def crop_region(source: PeopleSource, index: int, reach: float, detail: float = math.inf) -> ImageRegion:
    """Crop an image to the region around a person and downsample it to the useful resolution.

    Args:
        source: dataset of the person.
        index: index of the person.
        reach: half-width of the region in crop sides; infinite: the entire image.
        detail: maximum crop side in pixels, to which the region is downsampled.

    Raises:
        UserError: the image cannot be read.
    """
    person, whole = source.person(index), source.image(index)
    image, side, corner, ratio = whole, PIXELS_PER_SCALE * person.scale, np.zeros(2), 1.0
    if math.isfinite(reach):
        # Two pixels more than the geometry asks for, for the bilinear taps at the rim.
        half = reach * side + 2
        left, right = _span(float(person.center[0]), half, image.shape[1])
        top, bottom = _span(float(person.center[1]), half, image.shape[0])
        image = image[top:bottom, left:right]
        corner = np.array([left, top], dtype=np.float64)
    cut = image.shape != whole.shape
    if side > detail and min(image.shape[:2]) * detail >= side:
        ratio = side / detail
        # Sizes are left to OpenCV: given them, it would stretch the axes by different ratios.
        small = cv2.resize(image, None, fx=1 / ratio, fy=1 / ratio, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, dtype=np.uint8)
    moved = (np.stack([*person.joints, person.center]).astype(np.float64) - corner + 0.5) / ratio - 0.5
    frame = source.frame(index, whole) - [*corner, 0, 0]
    return ImageRegion(
        pixels=image,
        person=Person(
            joints=moved[:-1].astype(np.float32),
            labeled=person.labeled,
            center=moved[-1].astype(np.float32),
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


def check_coverage(source: PeopleSource, reach: float, input_size: int, *, strict: bool) -> None:
    """Warn if crops exceed the region or the resolution of a dataset's images.

    Missing pixels are filled like the outside of an image, with a ``DataWarning`` in training; with ``strict`` it is an
    error, since a score must not depend on how images were stored. Crops of higher resolution than the image are
    blurred, with a ``DataWarning`` in both cases.

    Args:
        source: the dataset.
        reach: half-width of the crops' reach, in crop sides.
        input_size: side of the network input, pixels.
        strict: raise an error for missing pixels.

    Raises:
        UserError: with ``strict``, crops exceed the images.
    """
    if reach > source.reach + 1e-6:
        less = (
            f"{source.name}: its images reach {source.reach:.3g} crop sides from a person's center, and the "
            f"augmentation asks for {reach:.3g}"
        )
        if strict:
            raise UserError(f"{less}; use scales of at most {2 * source.reach:.3g} or the original images")
        warnings.warn(f"{less}; the rest is gray", DataWarning, stacklevel=2)
    if input_size > source.detail:
        warnings.warn(
            f"{source.name}: large people were kept with {source.detail:g} pixels along a crop's side, less than the "
            f"input size {input_size}, and are blurred",
            DataWarning,
            stacklevel=2,
        )


def _origin(source: PeopleSource, index: int) -> tuple[int, int]:
    """A person, told from others through datasets that only order people."""
    while isinstance(source, ConcatSource | Subset):
        source, index = source.locate(index)
    return id(source), index


class CachedSource(DerivedSource):
    """Another dataset with every image decoded once, before loader processes are forked.

    The pixels lie in large uint8 blocks, which forked processes share: nothing in them is reference-counted or
    moved. Labels are in pixels of the cached region; ``to_original`` maps them back.

    Attributes:
        failures: error by index, for images that could not be read; ``image`` re-raises it.
        nbytes: size of the cached pixels.
    """

    def __init__(
        self,
        source: PeopleSource,
        *,
        augmentation: Augmentation | None = None,
        crop: bool = True,
        input_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Decode everything.

        Args:
            source: where the people come from.
            augmentation: the one that will be used; None where there will be none.
            crop: cache only what ``augmentation`` can bring into the crop.
            input_size: if given, images of people over twice this size are averaged down to that.
            threads: decoding threads; None is one per core, up to 16.
        """
        super().__init__([source])
        self.source = source
        self.skeleton, self.name, self.metric = source.skeleton, source.name, source.metric
        self._reach = (augmentation.reach if augmentation else 0.5) if crop else math.inf
        self._detail = math.inf if input_size is None else 2.0 * input_size
        self.failures: dict[int, UserError] = {}
        self.nbytes = 0
        self._blocks: list[Image] = []
        self._used = _BLOCK
        self._regions: list[ImageRegion | None] = []
        # People who occur several times are decoded once.
        firsts: dict[tuple[int, int], int] = {}
        places = [_origin(source, index) for index in range(len(source))]
        same_as = [firsts.setdefault(place, index) for index, place in enumerate(places)]
        count, limit = threads or min(16, os.cpu_count() or 1), (max_pixels(),)
        with ThreadPoolExecutor(count, initializer=limit_pixels, initargs=limit) as pool:
            results = pool.map(self._read, firsts.values())
            for index, first in enumerate(same_as):
                result = next(results) if first == index else None
                if isinstance(result, UserError) or first in self.failures:
                    self.failures[index] = result if isinstance(result, UserError) else self.failures[first]
                    self._regions.append(None)
                elif result is None:
                    self._regions.append(self._regions[first])
                else:
                    self._regions.append(replace(result, pixels=self._store(result.pixels)))
        regions = [region for region in self._regions if region is not None]
        self.reach = min(source.reach, self._reach if any(region.cut for region in regions) else math.inf)
        self.detail = min(source.detail, self._detail if any(region.ratio > 1 for region in regions) else math.inf)

    def _read(self, index: int) -> ImageRegion | UserError:
        try:
            return crop_region(self.source, index, self._reach, self._detail)
        except UserError as error:
            return error

    def _store(self, image: Image) -> Image:
        if self._used + image.size > _BLOCK:
            self._blocks.append(np.empty(max(_BLOCK, image.size), dtype=np.uint8))
            self._used = 0
        place = self._blocks[-1][self._used : self._used + image.size].reshape(image.shape)
        place[...] = image
        place.flags.writeable = False
        self._used += image.size
        self.nbytes += image.size
        return place

    def _region(self, index: int) -> ImageRegion:
        region = self._regions[index]
        if region is None:
            raise self.failures[index]
        return region

    def __len__(self) -> int:
        return len(self._regions)

    def locate(self, index: int) -> tuple[PeopleSource, int]:
        return self.source, index

    def image(self, index: int) -> Image:
        return self._region(index).pixels

    def person(self, index: int) -> Person:
        return self._region(index).person

    def reference_length(self, index: int) -> float:
        return self._region(index).reference_length

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.source.to_original(index, self._region(index).to_image(points))

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        return self._region(index).frame
