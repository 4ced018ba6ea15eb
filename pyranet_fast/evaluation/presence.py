"""Detection of empty scenes: how well mean scores separate crops with and without a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import ops
from ..data.absence import PeopleOfPictures, empty_square
from ..data.dataset import PIXELS_PER_SCALE, Image, PeopleSource
from ..data.transforms import crop, crop_matrix
from ..errors import UserError
from ..inference.calibration import ranking
from ..inference.heatmaps import score_maps
from ..keypoints import Skeleton

SQUARES = 2
"""Empty squares looked for beside each person."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Presence:
    """Scores of crops with and without a person at their center.

    Attributes:
        people: (P, K) scores of the joints in crops around people.
        empty: (E, K) scores in crops outside all boxes.
    """

    people: Float32Array
    empty: Float32Array

    @property
    def area(self) -> float:
        """Probability that a crop with a person has the higher mean score: the area under the ROC curve."""
        scores = np.concatenate([self.people.mean(axis=1), self.empty.mean(axis=1)]).astype(np.float64)
        return ranking(scores, np.arange(len(scores)) < len(self.people))

    def mistaken(self, kept: float = 0.95) -> float:
        """Fraction of empty crops that score as high as the best ``kept`` of the people."""
        return float((self.empty.mean(axis=1) >= np.quantile(self.people.mean(axis=1), 1 - kept)).mean())

    def as_dict(self) -> dict[str, float]:
        """Return JSON-serializable values."""
        return {
            "people": len(self.people),
            "empty": len(self.empty),
            "area": round(self.area, 4),
            "mistaken_at_95": round(self.mistaken(), 4),
        }


def empty_crops(people: PeopleSource, input_size: int, seed: int = 0) -> list[Image]:
    """Return crops of squares outside all boxes, deterministically.

    Crops may show people without labels.

    Args:
        people: source of the images.
        input_size: side of a crop, pixels.
        seed: seed of the squares.
    """
    known, crops = PeopleOfPictures(people), []
    for index in people.available():
        rng = np.random.default_rng((seed, index))
        image, boxes = people.image(index), known.boxes(index)
        side = PIXELS_PER_SCALE * people.person(index).scale
        for _ in range(SQUARES):
            square = empty_square(rng, image.shape, boxes, side)
            if square is not None:
                matrix = crop_matrix(square[0], square[1] / PIXELS_PER_SCALE, 0.0, input_size)
                crops.append(crop(image, matrix, input_size))
    return crops


def measure_presence(
    model: nn.Module,
    people: PeopleSource,
    skeleton: Skeleton,
    input_size: int,
    *,
    flip: bool = True,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> Presence:
    """Score crops of people and as many empty ones as the images have space for.

    Args:
        model: as `score_maps` takes it.
        people: a split not used for training.
        skeleton: joints of the score maps; the people may have others.
        input_size: side of the network's input, pixels.
        flip: average with the mirrored crop.
        batch_size: crops per forward pass.
        device: device of the network.
        precision: as for `score_maps`.

    Raises:
        UserError: no image has space for an empty crop.
    """
    empty = empty_crops(people, input_size)
    if not empty:
        raise UserError(f"{people.name}: no image has space for a crop without a person; use other people")
    full = []
    for index in people.available():
        person = people.person(index)
        matrix = crop_matrix(person.center, person.scale, 0.0, input_size)
        full.append(crop(people.image(index), matrix, input_size))

    def scores(crops: list[Image]) -> Float32Array:
        parts = []
        for start in range(0, len(crops), batch_size):
            batch = torch.from_numpy(np.stack(crops[start : start + batch_size]).transpose(0, 3, 1, 2).copy())
            maps = score_maps(model, batch, skeleton, flip=flip, device=device, precision=precision)
            parts.append(ops.heatmap_argmax(maps)[1].float().cpu().numpy())
        return np.concatenate(parts)

    return Presence(scores(full), scores(empty))
