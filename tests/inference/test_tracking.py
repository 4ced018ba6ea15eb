"""Tracking: ids over time, search, cuts, merging, and the 1 euro filter."""

import numpy as np
import pytest

from pyranet_fast.inference.crop_search import CropRegion
from pyranet_fast.inference.result import Pose
from pyranet_fast.inference.tracking import PATIENCE, SEARCH_INTERVAL, OneEuro, Tracker, is_cut, thumbnail
from pyranet_fast.inference.video import Frame
from pyranet_fast.keypoints import resolve_skeleton

SKELETON = "mpii"
RNG = np.random.default_rng(5)
FIGURE = RNG.uniform(-1, 1, (len(resolve_skeleton(SKELETON)), 2)) * (20, 45)
FIGURE[0], FIGURE[-1] = (-20, -45), (20, 45)  # the box around the joints has their center


class Scene:
    """A predictor that sees people at the centers in ``people``; None is somebody who is away."""

    def __init__(self, noise=0.0):
        self.people, self.noise, self.searches, self.batches = [], noise, 0, []
        self.rng = np.random.default_rng(3)

    def pose(self, center, score=0.9):
        joints = FIGURE + center + self.noise * self.rng.standard_normal(FIGURE.shape)
        count = len(FIGURE)
        maps = np.zeros((count, 4, 4), np.float32)
        scores = np.full(count, score, np.float32)
        return Pose(joints.astype(np.float32), scores, maps, SKELETON, (0, 0, 1, 1), np.eye(2, 3))

    def look(self, image, batch_size):
        def look(regions: list[CropRegion], careful):
            self.batches.append(len(regions))
            return [self.nearest(region) for region in regions]

        return look

    def nearest(self, region):
        x, y, width, height = region.box
        middle = np.array([x + width / 2, y + height / 2])
        there = [
            c for c in self.people if c is not None and np.abs(np.subtract(c, middle)).max() < max(width, height) / 2
        ]
        if not there:
            return self.pose(middle, 0.1)
        return self.pose(min(there, key=lambda c: np.hypot(*np.subtract(c, middle))))

    def everyone(self, image, *, most=None):
        self.searches += 1
        return [self.pose(c) for c in self.people if c is not None][:most]

    def __call__(self, image):
        self.searches += 1
        there = [c for c in self.people if c is not None]
        return self.pose(there[0]) if there else self.pose((0, 0), 0.1)


def frame(number, gray=100, rate=25.0):
    return Frame(number, number / rate, np.full((60, 80, 3), gray, np.uint8))


def test_two_people_keep_their_ids_for_40_frames():
    scene = Scene()
    tracker = Tracker(scene, None, smooth=False)
    for number in range(40):
        scene.people = [(100 + 3 * number, 100), (400 - 2 * number, 120)]
        poses = tracker(frame(number))
        assert [pose.id for pose in poses] == [1, 2]
        centers = [(pose.joints.min(axis=0) + pose.joints.max(axis=0)) / 2 for pose in poses]
        assert np.allclose(centers, scene.people, atol=0.1)
    assert scene.searches == -(-40 // SEARCH_INTERVAL)
    assert set(scene.batches[1:]) == {2}  # one batch a frame


def test_one_person_is_not_searched_for_while_followed():
    scene = Scene()
    scene.people = [(100, 100)]
    tracker = Tracker(scene)
    assert [[pose.id for pose in tracker(frame(n))] for n in range(30)] == [[1]] * 30
    assert scene.searches == 1


@pytest.mark.parametrize(("away", "expected"), [(PATIENCE - 2, 1), (PATIENCE + 5, 2)])
def test_who_comes_back_late_has_a_new_id(away, expected):
    scene = Scene()
    tracker = Tracker(scene)
    ids = []
    for number in range(5 + away + SEARCH_INTERVAL + 1):
        scene.people = [None] if 5 <= number < 5 + away else [(100, 100)]
        ids.append([pose.id for pose in tracker(frame(number))])
    assert ids[4] == [1]
    assert ids[5 : 5 + away] == [[]] * away
    assert ids[-1] == [expected]
    assert scene.searches <= 2 + len(ids) // SEARCH_INTERVAL


def test_new_people_are_found_by_the_next_search():
    scene = Scene()
    tracker = Tracker(scene, None)
    found = []
    for number in range(2 * SEARCH_INTERVAL):
        scene.people = [(100, 100)] + [(400, 100)] * (number >= 3)
        found.append([pose.id for pose in tracker(frame(number))])
    assert found[SEARCH_INTERVAL - 1] == [1]
    assert found[SEARCH_INTERVAL] == [1, 2]


def test_a_cut_gives_new_ids_at_once():
    scene = Scene()
    scene.people = [(100, 100)]
    tracker = Tracker(scene)
    assert [tracker(frame(n, gray=100 if n < 3 else 180))[0].id for n in range(6)] == [1, 1, 1, 2, 2, 2]


def test_cuts_are_told_from_motion_and_noise():
    rng = np.random.default_rng(1)
    scenes = [np.kron(rng.integers(0, 256, (9, 16, 3)), np.ones((20, 20, 1))).astype(np.uint8) for _ in range(2)]
    moved = np.roll(scenes[0], 4, axis=1)
    noisy = np.clip(scenes[0] + rng.normal(0, 10, scenes[0].shape), 0, 255).astype(np.uint8)
    first, other, shifted, grainy = map(thumbnail, (*scenes, moved, noisy))
    assert is_cut(first, other)
    assert not is_cut(first, shifted)
    assert not is_cut(first, grainy)


def test_two_tracks_on_one_person_become_the_older():
    scene = Scene()
    scene.people = [(100, 100), (160, 100)]
    tracker = Tracker(scene, None, smooth=False)
    assert [pose.id for pose in tracker(frame(0))] == [1, 2]
    scene.people = [(130, 100)]
    assert [pose.id for pose in tracker(frame(1))] == [1]
    scene.people = [(130, 100), (400, 100)]
    ids = [[pose.id for pose in tracker(frame(number))] for number in range(2, 2 + SEARCH_INTERVAL)]
    assert ids[-1] == [1, 3]


def test_smoothing_halves_the_jitter_of_a_still_person():
    jitter = {}
    for smooth in (False, True):
        scene = Scene(noise=0.7)
        scene.people = [(100, 100)]
        tracker = Tracker(scene, smooth=smooth)
        joints = np.array([tracker(frame(number))[0].joints for number in range(60)])
        jitter[smooth] = float(np.linalg.norm(np.diff(joints, axis=0), axis=2).mean())
    assert jitter[True] <= 0.5 * jitter[False], f"{jitter[True]:.3f} of {jitter[False]:.3f} pixels a frame"


def test_a_fast_motion_lags_by_less_than_a_tenth_of_its_path():
    smoother, size, path = OneEuro(), 90.0, 180.0  # two sizes in half a second, from rest
    for number in range(40):
        place = path * np.clip((number / 25 - 0.5) / 0.5, 0, 1)
        moved = smoother(FIGURE + np.array([place, 0]), np.ones(len(FIGURE)), size, number / 25)
        lag = float(np.abs(moved - FIGURE - (place, 0)).max())
        assert lag < 0.1 * path, f"{lag:.1f} of {path} pixels at frame {number}"


def test_one_euro_is_the_published_filter():
    smoother = OneEuro(min_cutoff=1.0, beta=0.5, d_cutoff=1.0)
    times, values = [0.0, 0.04, 0.14, 0.15], [0.0, 1.0, 3.0, 2.0]
    got = [smoother([[value, 0.0]], [1.0], 1.0, time)[0, 0] for time, value in zip(times, values, strict=True)]
    alpha = lambda cutoff, dt: 1 / (1 + 1 / (2 * np.pi * cutoff * dt))  # noqa: E731
    expected, place, speed = [0.0], 0.0, 0.0
    for before, now, value in zip(times, times[1:], values[1:], strict=False):
        dt = now - before
        speed += alpha(1.0, dt) * ((value - place) / dt - speed)
        place += alpha(1.0 + 0.5 * abs(speed), dt) * (value - place)
        expected.append(place)
    assert got == pytest.approx(expected)


def test_a_joint_of_no_confidence_does_not_pull():
    smoother = OneEuro()
    smoother([[0.0, 0.0]], [1.0], 90.0, 0.0)
    assert smoother([[50.0, 0.0]], [0.0], 90.0, 0.04).tolist() == [[0.0, 0.0]]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"people must be .*, got 0"):
        Tracker(Scene(), 0)
    with pytest.raises(ValueError, match=r"min_cutoff .* must be above 0 .*, got 0"):
        OneEuro(min_cutoff=0)
