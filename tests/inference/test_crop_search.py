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

    best = crop_search.search_regions(first, (90, 200, 3), look, look)
    assert (
        best.rotation == 90
        and seen[0] == (len(crop_search.candidate_regions((90, 200))), False)
        and seen[1] == (crop_search.CANDIDATES, True)
    )
    kept = pose(0.3 / crop_search.SEARCH_GAIN + 0.01)  # the best of many crops is a little better by chance
    assert crop_search.search_regions(kept, (90, 200, 3), look, look) is kept


def test_chances_decide_on_the_search_where_they_are_known():
    low, high = pose(0.3), pose(0.9)
    assert crop_search.needs_search(low) and not crop_search.needs_search(high)
    assert not crop_search.needs_search(dataclasses.replace(low, chances=np.full(14, 0.85)))
    assert crop_search.needs_search(dataclasses.replace(high, chances=np.full(14, 0.5)))


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (100, 100), (1, 900), (1, 1)])
def test_regions_cover_the_image(shape):
    regions = crop_search.candidate_regions(shape)
    assert regions == crop_search.candidate_regions((*shape, 3)) and 10 <= len(regions) <= 50
    for share, _ in crop_search.WINDOW_SHARES:
        side = share * max(shape)
        windows = [f.box for f in regions if f.box[2] == side]
        for axis in (0, 1):
            starts = sorted({box[axis] for box in windows})
            assert starts[0] <= 0 and starts[-1] + side >= shape[1 - axis] - 1e-9
            assert all(b - a < side for a, b in itertools.pairwise(starts))  # they overlap


def at(x, y, size, score):
    """A pose of this size somewhere in the picture."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    joints = np.stack([x + size / 2 * np.cos(angle), y + size / 2 * np.sin(angle)], axis=1).astype(np.float32)
    return dataclasses.replace(pose(score), joints=joints, scores=np.full(14, score, np.float32))


def test_of_poses_of_one_person_the_most_confident_is_kept():
    first, again, other = at(50, 50, 40, 0.5), at(52, 50, 44, 0.7), at(120, 50, 40, 0.4)
    assert crop_search.distinct([first, again, other], 0.5) == [again, other]
    assert crop_search.distinct([], 0.5) == []
    inside = at(50, 50, 8, 0.4)  # a small person in front of a large one
    assert crop_search.distinct([first, inside], 0.5) == [first, inside]


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (1, 900), (1, 1)])
@pytest.mark.parametrize("share", crop_search.PEOPLE_SHARES)
def test_windows_for_people_cover_the_image_and_overlap_by_half(shape, share):
    regions = crop_search.people_windows(shape, share)
    side = share * max(shape)
    for axis in (0, 1):
        starts = sorted({region.box[axis] for region in regions})
        assert starts[0] <= 1e-9 and starts[-1] + side >= shape[1 - axis] - 1e-6
        assert all(b - a <= side / 2 + 1e-6 for a, b in itertools.pairwise(starts))


def test_smaller_windows_are_looked_at_where_something_answers():
    sizes = []

    def nothing(regions, careful):
        sizes.append(regions[0].box[2])
        return [at(20, 20, 10, 0.01) for _ in regions]

    assert crop_search.find_people((100, 100), nothing, nothing) == []
    assert sizes == pytest.approx([105, 75])

    def hints(regions, careful):
        sizes.append(len(regions))
        return [at(5, 5, 4, 0.15) for _ in regions]  # something in a corner, too little to be a person

    sizes.clear()
    assert crop_search.find_people((100, 100), hints, nothing) == []
    assert len(sizes) == len(crop_search.PEOPLE_SHARES) and sizes[-1] <= 4


def test_untrustworthy_people_are_left_out_and_the_most_confident_come_first():
    people = [at(20, 20, 20, 0.5), at(70, 20, 20, 0.3), at(70, 70, 20, 0.8)]

    def look(regions, careful):
        def nearest(region):
            x, y, w, h = region.box
            return min(people, key=lambda p: np.abs(p.joints.mean(axis=0) - (x + w / 2, y + h / 2)).sum())

        return [nearest(region) for region in regions]

    found = crop_search.find_people((100, 100), look, look)
    assert [person.mean_score for person in found] == pytest.approx([0.8, 0.5])
    assert len(crop_search.find_people((100, 100), look, look, most=1)) == 1
    unlikely = [dataclasses.replace(p, chances=np.full(14, 0.4)) for p in people]
    people[:] = unlikely
    assert crop_search.find_people((100, 100), look, look) == []
