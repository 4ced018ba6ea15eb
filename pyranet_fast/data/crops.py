"""The crops a network is trained and evaluated on."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from pyranet_fast.data.base import PeopleSource
from pyranet_fast.data.kept import check_kept
from pyranet_fast.data.transforms import (
    MAP_STRIDE,
    MEAN,
    Augmentation,
    Draw,
    apply_gains,
    crop,
    crop_matrix,
    invert,
    to_map,
    transform_points,
)
from pyranet_fast.errors import UserError

_PLAIN = Draw()


def worker_init(worker_id: int) -> None:
    """Prepare a loader process: one thread each, since there is one process per core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class CropDataset(Dataset[dict[str, Any]]):
    """Crops of people with their joints in score-map pixels; S = ``input_size``, W = S / 4.

    An item is asked for by ``index`` or by ``(epoch, index)`` and holds

    - ``image`` (3, S, S) uint8 RGB;
    - ``joints`` (K, 2) float32, x and y in map pixels;
    - ``weight`` (K,) float32, 1 where the joint is labelled and inside the crop, else 0;
    - ``index`` int;
    - ``inverse`` (2, 3) float32, input pixels to image pixels (it undoes the mirroring too);
    - ``valid`` bool, False where a corrupt image was replaced by a grey one of weight 0.

    Its randomness comes from (seed, epoch, index) alone: a resumed run sees the same pictures,
    whatever the number of workers.
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
    ) -> None:
        """Wrap ``source``; ``augmentation=None`` gives the plain crop.

        Epochs before ``early_epochs`` use ``early_size`` in place of ``input_size``. A ``DataWarning`` tells where
        the crops show more than ``source`` has kept of its images.

        Raises:
            ValueError: an ``input_size`` or ``early_size`` that is not a positive multiple of 4, a negative
                seed, or an unknown ``on_error``.
        """
        for name, side in (("input_size", input_size), ("early_size", early_size or MAP_STRIDE)):
            if side < MAP_STRIDE or side % MAP_STRIDE:
                raise ValueError(f"{name} is {side}; it must be a positive multiple of {MAP_STRIDE}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
        check_kept(source, augmentation.reach if augmentation else 0.5, input_size, strict=False)
        self.source = source
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
        except UserError:
            if self.on_error == "raise":
                raise
            return self._grey(epoch, index)

    def size(self, epoch: int) -> int:
        """Side of the pictures of an epoch (0-based)."""
        return self.early_size if epoch < self.early_epochs else self.input_size

    def _sample(self, epoch: int, index: int) -> dict[str, Any]:
        change = _PLAIN
        if self.augmentation is not None:
            change = self.augmentation.draw(np.random.default_rng((self.seed, epoch, index)))
        person = self.source.person(index)
        size = self.size(epoch)
        matrix = crop_matrix(person.centre, person.scale * change.scale, change.rotation, size, change.flip)
        # The border has its gain taken out beforehand, so that it is the data mean in the end.
        border = tuple(min(255.0, 255 * m / max(g, 1e-3)) for m, g in zip(MEAN, change.gains, strict=True))
        image = crop(self.source.image(index), matrix, size, (border[0], border[1], border[2]))
        if change.gains != (1.0, 1.0, 1.0):
            image = apply_gains(image, change.gains)

        points = transform_points(matrix, person.joints)
        labelled = person.labelled
        if change.flip:
            points, labelled = points[self._mirror], labelled[self._mirror]
        inside = np.all((points >= -0.5) & (points < size - 0.5), axis=1)
        weight = inside & labelled
        joints = np.where(labelled[:, None], to_map(points), 0.0)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "joints": torch.from_numpy(joints.astype(np.float32)),
            "weight": torch.from_numpy(weight.astype(np.float32)),
            "index": index,
            "inverse": torch.from_numpy(invert(matrix).astype(np.float32)),
            "valid": True,
        }

    def _grey(self, epoch: int, index: int) -> dict[str, Any]:
        size, joints = self.size(epoch), len(self.source.skeleton)
        grey = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8)
        return {
            "image": grey.view(3, 1, 1).repeat(1, size, size),
            "joints": torch.zeros(joints, 2),
            "weight": torch.zeros(joints),
            "index": index,
            "inverse": torch.eye(2, 3),
            "valid": False,
        }
