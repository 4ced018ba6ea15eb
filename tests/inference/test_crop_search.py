"""Where a person is looked for, and which of several poses is kept."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from pyranet_fast.inference import crop_search
from pyranet_fast.inference.result import Pose


def pose(score: float) -> Pose:
    """All joints of one score, spread over an image of 200 x 90 pixels."""
    joints = np.stack([np.linspace(20, 180, 14), np.linspace(10, 80, 14)], axis=1).astype(np.float32)
    scores, maps = np.full(14, score, np.float32), np.zeros((14, 16, 16), np.float32)
    return Pose(joints, scores, maps, "lsp", (0.0, 0.0, 200.0, 90.0), np.eye(2, 3))


def test_the_search_keeps_the_most_confident():
    first, seen = pose(0.2), []

    def look(regions, careful):
        seen.append((len(regions), careful))
        return [
            dataclasses.replace(
                first, scores=np.full(14, 0.3 if f.rotation == 90 else 0.1, np.float32),
                box=f.box, rotation=f.rotation,
            )
            for f in regions
        ]  # fmt: skip

    best = crop_search.search_regions(first, (90, 200, 3), look)
    assert (
        best.rotation == 90
        and seen[0] == (len(crop_search.candidate_regions((90, 200))), False)
        and seen[1] == (3, True)
    )
    kept = pose(0.31)
    assert crop_search.search_regions(kept, (90, 200, 3), look) is kept


def test_chances_decide_on_the_search_where_they_are_known():
    low, high = pose(0.3), pose(0.9)
    assert crop_search.needs_search(low) and not crop_search.needs_search(high)
    assert not crop_search.needs_search(dataclasses.replace(low, chances=np.full(14, 0.8)))
    assert crop_search.needs_search(dataclasses.replace(high, chances=np.full(14, 0.5)))


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (100, 100), (1, 900), (1, 1)])
def test_regions_cover_the_image(shape):
    regions = crop_search.candidate_regions(shape)
    assert regions == crop_search.candidate_regions((*shape, 3)) and 10 <= len(regions) <= 30
    for share, _ in crop_search.WINDOW_SHARES:
        side = share * max(shape)
        windows = [f.box for f in regions if f.box[2] == side]
        for axis in (0, 1):
            starts = sorted({box[axis] for box in windows})
            assert starts[0] <= 0 and starts[-1] + side >= shape[1 - axis] - 1e-9
            assert all(b - a < side for a, b in itertools.pairwise(starts))  # they overlap
