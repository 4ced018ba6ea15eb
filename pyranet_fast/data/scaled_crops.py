"""The crops that a network is tested on: every person at one scale or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from pyranet_fast.data.base import PIXELS_PER_SCALE, PeopleSource
from pyranet_fast.data.kept import check_kept
from pyranet_fast.data.transforms import MEAN, crop, crop_matrix, invert
from pyranet_fast.errors import UserError


class ScaledCrops(Dataset[dict[str, Any]]):
    """People cropped at S scales from one decoded image; I = ``input_size``.

    An item holds

    - ``images`` (S, 3, I, I) uint8 RGB;
    - ``inverse`` (2, 3) float64, input pixels of the crop of scale 1 to image pixels;
    - ``centre`` (2,) float64 and ``side`` float64, of the crop of scale 1 in image pixels;
    - ``frame`` (4,) float64, x and y of the published image's corner, its width and height, see
      ``PeopleSource.frame``;
    - ``index`` int;
    - ``valid`` bool, False where an image that cannot be read was replaced by grey.
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
            source: who is tested; their centre and scale choose the crop.
            input_size: side of the network's input, pixels.
            scales: what the crop's side is multiplied by.
            on_error: ``"skip"`` gives a grey picture for an image that cannot be read.
            start: the people to take, by index; None is all of them.

        Raises:
            UserError: ``source`` has kept less of its images than the widest crop shows.
        """
        check_kept(source, max(scales) / 2, input_size, strict=True)
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
        except UserError:
            if self.on_error == "raise":
                raise
            grey = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8).view(3, 1, 1)
            return {
                "images": grey.repeat(len(self.scales), 1, size, size),
                "inverse": torch.eye(2, 3, dtype=torch.float64),
                "centre": torch.zeros(2, dtype=torch.float64),
                "side": 1.0,
                "frame": torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64),
                "index": index,
                "valid": False,
            }
        images = np.empty((len(self.scales), 3, size, size), np.uint8)
        for place, scale in zip(images, self.scales, strict=True):
            matrix = crop_matrix(person.centre, person.scale * scale, 0.0, size)
            place[:] = crop(image, matrix, size).transpose(2, 0, 1)
        return {
            "images": torch.from_numpy(images),
            "inverse": torch.from_numpy(invert(crop_matrix(person.centre, person.scale, 0.0, size))),
            "centre": torch.from_numpy(np.asarray(person.centre, dtype=np.float64)),
            "side": PIXELS_PER_SCALE * float(person.scale),
            "frame": torch.from_numpy(self.source.frame(index, image)),
            "index": index,
            "valid": True,
        }
