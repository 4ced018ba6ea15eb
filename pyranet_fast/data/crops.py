"""Crops for training and evaluation, and the order in which training visits them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..errors import NO_SHARED_MEMORY, UserError
from ..io import limit_pixels, quiet_opencv
from . import absence
from .cache import check_coverage
from .dataset import PIXELS_PER_SCALE, PeopleSource
from .left_out import unreadable_reason
from .transforms import (
    MAP_STRIDE,
    MEAN,
    Augmentation,
    AugmentationSample,
    apply_gains,
    crop,
    crop_matrix,
    invert,
    to_map,
    transform_points,
)

_UNCHANGED = AugmentationSample()


def worker_init(worker_id: int, pixels: int | None = None) -> None:
    """Initialize a loader process: one thread, since there is one process per core, and no OpenCV log.

    Args:
        worker_id: unused.
        pixels: `max_pixels` of the parent process; None: that of this process.
    """
    if pixels is not None:
        limit_pixels(pixels)
    cv2.setNumThreads(0)
    quiet_opencv()
    torch.set_num_threads(1)


def require_shared_memory(workers: int) -> None:
    """Check that loader processes can share memory with this one.

    Raises:
        UserError: /dev/shm is full or cannot be written to.
    """
    if workers:
        try:
            multiprocessing.Lock()
        except OSError as error:
            raise UserError(f"{NO_SHARED_MEMORY} ({error.strerror})") from error


def _gray_image(size: int) -> torch.Tensor:
    """(3, size, size) uint8 of the data mean: the network sees nothing in it."""
    mean = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8)
    return mean.view(3, 1, 1).repeat(1, size, size)


class CropDataset(Dataset[dict[str, Any]]):
    """Training crops with their joints in score map pixels; S = ``input_size``.

    An item is indexed by ``index`` or ``(epoch, index)`` and holds

    - ``image`` (3, S, S) uint8 RGB;
    - ``joints`` (K, 2) float32, x and y in map pixels;
    - ``weight`` (K,) float32, 1 where the joint is labeled and inside the crop, ``absence_weight`` where it is known
      to be outside or the crop is empty (its target is the part of its Gaussian inside the map, mostly zero), and 0
      where it is unknown;
    - ``index`` int;
    - ``inverse`` (2, 3) float32, input pixels to image pixels, mirroring included;
    - ``valid`` bool, False where a corrupt image was replaced by a gray one of weight 0;
    - ``why`` str, in that case the reason, as in ``LeftOut``, else empty.

    Random values depend only on (seed, epoch, index): a resumed run sees the same images, with any number of
    workers.
    """

    def __init__(
        self,
        source: PeopleSource,
        input_size: int,
        *,
        augmentation: Augmentation | None,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        early_size: int | None = None,
        early_epochs: int = 0,
        absence_weight: float = 0.0,
    ) -> None:
        """Wrap ``source``; ``augmentation=None`` gives the plain crop.

        Epochs before ``early_epochs`` use ``early_size`` in place of ``input_size``. ``absence_weight`` is that of
        joints which are known not to be in the crop. A ``DataWarning`` reports crops that show more than the
        images of ``source`` cover.

        Raises:
            ValueError: an ``input_size`` or ``early_size`` that is not a positive multiple of 4, a negative
                seed, or an unknown ``on_error``.
        """
        for name, side in (("input_size", input_size), ("early_size", early_size or MAP_STRIDE)):
            if side < MAP_STRIDE or side % MAP_STRIDE:
                raise ValueError(f"{name} must be a positive multiple of {MAP_STRIDE}, got {side}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        if not absence_weight >= 0:
            raise ValueError(f"absence_weight must be at least 0, got {absence_weight}")
        check_coverage(source, augmentation.reach if augmentation else 0.5, input_size, strict=False)
        self.source = source
        self.absence_weight = absence_weight
        self._people = absence.PeopleOfPictures(source) if augmentation and augmentation.empty else None
        self.input_size = input_size
        self.early_size, self.early_epochs = early_size or input_size, early_epochs
        self.augmentation = augmentation
        self.seed = seed
        self.on_error = on_error
        self._mirror = source.skeleton.flip_permutation

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample; UserError on a corrupt image unless ``on_error`` is ``"skip"``."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1} of {self.source.name}")
        try:
            return self._sample(epoch, index)
        except UserError as error:
            if self.on_error == "raise":
                raise
            return self._gray(epoch, index, unreadable_reason(error))

    def size(self, epoch: int) -> int:
        """Return the input side of an epoch (0-based)."""
        return self.early_size if epoch < self.early_epochs else self.input_size

    def _sample(self, epoch: int, index: int) -> dict[str, Any]:
        change = _UNCHANGED
        if self.augmentation is not None:
            change = self.augmentation.draw(np.random.default_rng((self.seed, epoch, index)))
        person, image = self.source.person(index), self.source.image(index)
        size, nobody = self.size(epoch), change.empty
        absent = np.zeros(len(person.labeled), dtype=bool)
        # Separate from the draws of `Augmentation`, whose number is the same for every sample.
        rng = np.random.default_rng((self.seed, epoch, index, 1)) if nobody or change.cut or change.cover else None
        hidden = change.cover
        if nobody and rng is not None and self._people is not None:
            scene = self._people.scene(rng, index, image, size)
            if scene is None:  # no room beside them: they are hidden as a whole
                hidden = True
            else:
                image, person = scene
        elif change.cut and rng is not None:
            image, person, absent = absence.cut(rng, image, person)
        matrix = crop_matrix(person.center, person.scale * change.scale, change.rotation, size, change.flip)
        # The border has its gain taken out beforehand, so that it is the data mean in the end.
        border = tuple(min(255.0, 255 * m / max(g, 1e-3)) for m, g in zip(MEAN, change.gains, strict=True))
        image = crop(image, matrix, size, (border[0], border[1], border[2]))
        points = transform_points(matrix, person.joints)
        labeled = person.labeled
        if hidden and rng is not None and labeled.any():
            image = absence.cover(rng, image, points[labeled], whole=nobody)
        if change.gains != (1.0, 1.0, 1.0):
            image = apply_gains(image, change.gains)
        if nobody:
            labeled, absent = np.zeros_like(labeled), np.ones_like(absent)

        if change.flip:
            points, labeled, absent = points[self._mirror], labeled[self._mirror], absent[self._mirror]
        inside = np.all((points >= -0.5) & (points < size - 0.5), axis=1)
        weight = np.where(labeled & inside, 1.0, np.where(labeled | absent, self.absence_weight, 0.0))
        joints = np.where(labeled[:, None], to_map(points), 0.0)
        joints[absent] = absence.NOWHERE
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "joints": torch.from_numpy(joints.astype(np.float32)),
            "weight": torch.from_numpy(weight.astype(np.float32)),
            "index": index,
            "inverse": torch.from_numpy(invert(matrix).astype(np.float32)),
            "valid": True,
            "why": "",
        }

    def _gray(self, epoch: int, index: int, why: str) -> dict[str, Any]:
        joints = len(self.source.skeleton)
        return {
            "image": _gray_image(self.size(epoch)),
            "joints": torch.zeros(joints, 2),
            "weight": torch.zeros(joints),
            "index": index,
            "inverse": torch.eye(2, 3),
            "valid": False,
            "why": why,
        }


class ScaledCrops(Dataset[dict[str, Any]]):
    """Test crops: every person at S scales from one decoded image; I = ``input_size``.

    An item holds

    - ``images`` (S, 3, I, I) uint8 RGB;
    - ``inverse`` (2, 3) float64, input pixels of the crop of scale 1 to image pixels;
    - ``center`` (2,) float64 and ``side`` float64, of the crop of scale 1 in image pixels;
    - ``frame`` (4,) float64, x and y of the published image's corner, its width and height, see
      ``PeopleSource.frame``;
    - ``index`` int;
    - ``valid`` bool, False where an unreadable image was replaced by gray;
    - ``why`` str, in that case the reason, as in ``LeftOut``, else empty.
    """

    def __init__(
        self,
        source: PeopleSource,
        input_size: int,
        scales: Sequence[float] = (1.0,),
        *,
        on_error: Literal["raise", "skip"] = "raise",
        start: Sequence[int] | None = None,
    ) -> None:
        """Wrap ``source``.

        Args:
            source: who is tested; their center and scale choose the crop.
            input_size: side of the network's input, pixels.
            scales: what the crop's side is multiplied by.
            on_error: ``"skip"`` gives a gray picture for an image that cannot be read.
            start: the people to take, by index; None is all of them.

        Raises:
            UserError: the images of ``source`` cover less than the widest crop shows.
        """
        check_coverage(source, max(scales) / 2, input_size, strict=True)
        self.source, self.input_size, self.scales, self.on_error = source, input_size, tuple(scales), on_error
        self.chosen = range(len(source)) if start is None else start

    def __len__(self) -> int:
        """Return the number of people taken."""
        return len(self.chosen)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return one person's crops; UserError on a corrupt image unless ``on_error`` is ``"skip"``."""
        index = int(self.chosen[number])
        size = self.input_size
        try:
            person, image = self.source.person(index), self.source.image(index)
        except UserError as error:
            if self.on_error == "raise":
                raise
            return {
                "images": _gray_image(size).repeat(len(self.scales), 1, 1, 1),
                "inverse": torch.eye(2, 3, dtype=torch.float64),
                "center": torch.zeros(2, dtype=torch.float64),
                "side": 1.0,
                "frame": torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64),
                "index": index,
                "valid": False,
                "why": unreadable_reason(error),
            }
        images = np.empty((len(self.scales), 3, size, size), np.uint8)
        for place, scale in zip(images, self.scales, strict=True):
            matrix = crop_matrix(person.center, person.scale * scale, 0.0, size)
            place[:] = crop(image, matrix, size).transpose(2, 0, 1)
        return {
            "images": torch.from_numpy(images),
            "inverse": torch.from_numpy(invert(crop_matrix(person.center, person.scale, 0.0, size))),
            "center": torch.from_numpy(np.asarray(person.center, dtype=np.float64)),
            "side": PIXELS_PER_SCALE * float(person.scale),
            "frame": torch.from_numpy(self.source.frame(index, image)),
            "index": index,
            "valid": True,
            "why": "",
        }


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from a position in training to its end, across epochs.

    The order depends only on (seed, epoch), so a resumed run visits the same batches.

    Args:
        size: number of samples in the dataset.
        batch_size: samples per batch; an incomplete last batch of an epoch is dropped, for batch norm.
        seed: with the epoch, determines the order.
        first: number of batches to skip: the step to resume from.
        last: number of batches of the entire run.
        rank, ranks: yield only part ``rank`` of ``ranks`` equal parts of each batch.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, first: int, last: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        share = batch_size // ranks
        self.part = slice(rank * share, (rank + 1) * share)
        self.size, self.batch_size, self.seed, self.first, self.last = size, batch_size, seed, first, last
        self.per_epoch = size // batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order: list[int] = []
        for step in range(self.first, self.last):
            epoch, position = divmod(step, self.per_epoch)
            if position == 0 or not order:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.size, generator=generator).tolist()
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [(epoch, index) for index in chosen[self.part]]

    def __len__(self) -> int:
        return max(0, self.last - self.first)
