"""The weights in the package: small, described, and good enough for people they were not trained on."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast import Predictor, models
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.inference.tracking import Tracker
from pyranet_fast.inference.video import Frame
from pyranet_fast.models.zoo import FOLDER


def test_they_are_small_and_described():
    shipped = models.available()
    assert shipped and sum(one.megabytes for one in shipped) <= 20
    card = (FOLDER / "README.md").read_text()
    for one in shipped:
        assert one.kind == "pose" and one.description and "calibration" in one.metrics
        assert f"`{one.name}`" in card and f"{one.parameters:,}" in card and f"{one.megabytes:.2f} MB" in card


@pytest.fixture(scope="module")
def people():
    return open_dataset("demo", None, "test", count=8)


def test_they_find_people(people):
    """Synthetic people, of whom none was trained on: 60 % of their joints were right when this was written."""
    predictor = Predictor(device="cpu")
    names = [name for name in predictor.skeleton.joints if name in people.skeleton.joints]
    ours, theirs = ([joints.index(n) for n in names] for joints in (predictor.skeleton.joints, people.skeleton.joints))
    assert len(names) >= 12
    right = []
    for index in range(len(people)):
        pose = predictor(people.image(index))
        away = np.linalg.norm(pose.joints[ours] - people.person(index).joints[theirs], axis=1)
        right.append(away < 0.5 * people.reference_length(index))
        assert pose.chances is not None and pose.trustworthy
    assert np.mean(right) > 0.5


def test_they_do_not_trust_what_is_nobody():
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (120, 90, 3), np.uint8), np.full((80, 100, 3), 130, np.uint8)):
        assert Predictor(device="cpu")(picture).trustworthy is False


def test_a_still_person_in_a_noisy_video_jitters_half_as_much_with_smoothing(people):
    image, frames = people.image(1), 24
    jitter = {}
    for smooth in (False, True):
        rng = np.random.default_rng(0)
        tracker = Tracker(Predictor(device="cpu", flip=False), smooth=smooth)
        joints = []
        for number in range(frames):
            noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
            (pose,) = tracker(Frame(number, number / 25, noisy))
            assert pose.id == 1
            joints.append(pose.joints)
        jitter[smooth] = float(np.linalg.norm(np.diff(joints, axis=0), axis=2).mean())
    assert jitter[False] > 0.2, "without noise there is nothing to smooth"
    assert jitter[True] <= 0.5 * jitter[False], f"{jitter[True]:.3f} of {jitter[False]:.3f} pixels a frame"
