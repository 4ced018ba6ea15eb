"""Whether a network tells people from scenes: figures by hand, and one that sees a bright person."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.presence import Presence, empty_crops, measure_presence
from pyranet_fast.keypoints import LSP
from tests.data.people import MemorySource, person


def test_figures_by_hand():
    people = np.array([[0.9, 0.7], [0.5, 0.5], [0.4, 0.2]], np.float32)
    empty = np.array([[0.1, 0.1], [0.6, 0.2]], np.float32)  # means 0.1 and 0.4: one person is below one of them
    found = Presence(people, empty)
    assert found.area == pytest.approx(5 / 6)
    assert found.mistaken(0.5) == 0 and found.mistaken(1.0) == 0.5
    assert found.as_dict() == {"people": 3, "empty": 2, "area": 0.8333, "mistaken_at_95": 0.5}


class Brightness(nn.Module):
    """Score maps that are the picture's brightness."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4).expand(-1, len(LSP), -1, -1)


def bright_people(size: tuple[int, int] = (200, 400)) -> MemorySource:
    people = [person(center=(70, 100), scale=0.3, seed=seed) for seed in range(4)]
    images = []
    for someone in people:
        image = np.full((*size, 3), 40, np.uint8)
        low, high = (edge.astype(int) for edge in (someone.joints.min(axis=0), someone.joints.max(axis=0)))
        image[low[1] : high[1], low[0] : high[0]] = 220
        images.append(image)
    return MemorySource(images, people)


def test_people_that_can_be_seen_are_told_apart():
    people = bright_people()
    crops = empty_crops(people, 32)
    assert len(crops) == 8 and max(crop.max() for crop in crops) < 120  # nobody is in them: 40, and the gray border
    found = measure_presence(Brightness(), people, LSP, 32)
    assert found.area == 1.0 and found.mistaken() == 0.0 and found.people.shape == (4, 14)
    crowded = bright_people()
    for someone in crowded.people:
        someone.joints[:2] = [(0, 0), (399, 199)]
    with pytest.raises(UserError, match="memory: no image has space for a crop without a person"):
        measure_presence(Brightness(), crowded, LSP, 32)
