"""Synthetic people: repeatable, whole, plausible, and drawn where their labels say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pyranet_fast.data import CropDataset, SyntheticSource
from pyranet_fast.data.synthetic.figure import Figure, sample_appearance
from pyranet_fast.data.synthetic.kinematics import MPII_POINTS, Arm, Leg, Pose, build, sample_pose, sample_proportions
from pyranet_fast.data.synthetic.renderer import Camera, Renderer
from pyranet_fast.pose import MPII

PEOPLE = 60


@pytest.fixture(scope="module")
def people():
    """A source, and what it gives for its first people."""
    source = SyntheticSource(PEOPLE, seed=3)
    return [(source.image(i), source.person(i), source.reference_length(i)) for i in range(PEOPLE)]


def test_each_person_follows_from_seed_split_and_index(people):
    source = SyntheticSource(1000, seed=3)
    for index in (40, 0, 17):  # another order, another count
        image, person, head = people[index]
        assert np.array_equal(source.image(index), image)
        assert np.array_equal(source.person(index).joints, person.joints)
        assert source.reference_length(index) == head


def test_seeds_splits_and_indices_differ():
    def shapes(**settings):
        return SyntheticSource(2, **settings)

    joints = [
        source.person(index).joints
        for source in (shapes(), shapes(seed=1), shapes(split="val"), shapes(split="test"))
        for index in range(2)
    ]
    for a, b in itertools.combinations(joints, 2):
        assert not np.allclose(a, b)


def test_pictures_and_labels_have_the_stated_form(people):
    for image, person, head in people:
        assert image.dtype == np.uint8 and image.shape[0] == 256 and image.shape[2] == 3
        assert 140 <= image.shape[1] <= 384
        assert person.joints.shape == (16, 2) and person.joints.dtype == np.float32
        assert person.labeled.all()
        # The whole person is in the picture and in the crop.
        assert person.joints.min() >= 0
        assert np.all(person.joints.max(axis=0) <= np.array(image.shape[1::-1]) - 1)
        side = 200 * person.scale
        assert np.abs(person.joints - person.center).max() < side / 2
        box = np.ptp(person.joints, axis=0).max()
        assert 0.4 < box / side < 0.83
        # Twice the head's length is about 0.6 of its box's diagonal, seen in the crop.
        assert 0.04 < head / side < 0.16


def test_bodies_fill_three_quarters_of_the_crop(people):
    fills = [np.ptp(p.joints, axis=0).max() / (200 * p.scale) for _, p, _ in people]
    assert np.median(fills) == pytest.approx(0.75, abs=0.02)


def test_people_and_poses_vary(people):
    shapes = np.stack([(p.joints - p.center) / (200 * p.scale) for _, p, _ in people])
    assert shapes.std(axis=0).min() > 0.02
    assert shapes[:, [10, 15]].std(axis=0).min() > 0.08  # wrists
    # Fronts and backs: the left hip is on the right of the picture for some, on the left for others.
    facing = shapes[:, 3, 0] > shapes[:, 2, 0]
    assert 0.35 < facing.mean() < 0.9


def test_thorax_and_pelvis_lie_between_shoulders_and_hips():
    rng = np.random.default_rng(0)
    body = build(sample_pose(rng), sample_proportions(rng))
    points = np.stack([body.points[name] for name in MPII_POINTS])
    np.testing.assert_allclose(points[7], (points[12] + points[13]) / 2)
    np.testing.assert_allclose(points[6], (points[2] + points[3]) / 2)


def test_limbs_keep_their_lengths_and_joints_their_limits():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pose, size = sample_pose(rng), sample_proportions(rng)
        p = build(pose, size, camera_pitch=10).points
        for side in ("left", "right"):
            chain = (
                ("shoulder", "elbow", size.upper_arm),
                ("elbow", "wrist", size.forearm),
                ("hip", "knee", size.thigh),
                ("knee", "ankle", size.shank),
            )
            for a, b, length in chain:
                assert np.linalg.norm(p[f"{side}_{a}"] - p[f"{side}_{b}"]) == pytest.approx(length)
        for arm, leg in zip(pose.arms, pose.legs, strict=True):
            assert 0 <= arm.elbow <= 145 and 0 <= leg.knee <= 145 and -30 <= leg.flexion <= 125


def standing(yaw: float, left: Arm | None = None) -> Pose:
    hanging, straight = Arm(0, 8, 0, 5), Leg(0, 3, 2)
    return Pose((yaw, 0, 0), (0, 0, 0), (0, 0, 0), (left or hanging, hanging), (straight, straight))


def project(pose: Pose) -> dict[str, np.ndarray]:
    size = sample_proportions(np.random.default_rng(0))
    points = build(pose, size).points
    camera = Camera(zoom=200, distance=6, x=128, y=120)
    return {name: np.array(camera.project(point)[:2]) for name, point in points.items()}


def test_who_faces_the_camera_has_left_on_the_right_of_the_picture():
    front, back = project(standing(0)), project(standing(180))
    for joint in ("shoulder", "hip", "ankle", "wrist"):
        assert front[f"left_{joint}"][0] > front[f"right_{joint}"][0] + 5
        assert back[f"left_{joint}"][0] < back[f"right_{joint}"][0] - 5
    side = project(standing(90))  # facing the picture's right: toes and raised arms go there
    assert side["left_toe"][0] > side["left_heel"][0] + 10
    forward = project(standing(90, left=Arm(90, 0, 0, 0)))
    assert forward["left_wrist"][0] > forward["left_shoulder"][0] + 40


def test_angles_turn_the_right_way():
    still = project(standing(0))
    up = project(standing(0, left=Arm(0, 170, 0, 0)))
    assert still["left_wrist"][1] > still["left_shoulder"][1] + 40  # y grows downward
    assert up["left_wrist"][1] < up["left_shoulder"][1] - 40
    wide = project(standing(0, left=Arm(0, 90, 0, 0)))
    assert wide["left_wrist"][0] > wide["left_shoulder"][0] + 40
    sitting = Pose((90, 0, 0), (0, 0, 0), (0, 0, 0), (Arm(0, 5, 0, 0),) * 2, (Leg(90, 0, 90),) * 2)
    seat = project(sitting)
    assert seat["left_knee"][0] > seat["left_hip"][0] + 30 and seat["left_ankle"][1] > seat["left_knee"][1] + 30


@pytest.mark.parametrize("yaw", [0.0, 40.0, 90.0, 180.0, 250.0])
def test_what_is_drawn_is_where_the_joints_are(yaw):
    """On a plain ground, every joint is on the drawn figure, and the figure is around its joints."""
    rng = np.random.default_rng(int(yaw))
    size, appearance = sample_proportions(rng), sample_appearance(rng)
    body = build(standing(yaw, left=Arm(0, 120, 0, 30)), size)
    camera = Camera(zoom=190, distance=6, x=128, y=125)
    ground = np.full((256, 256, 3), (0, 255, 0), dtype=np.uint8)
    renderer = Renderer(ground, (0.0, -1.0), contrast=1.0)
    figure = Figure(body, appearance, camera)
    figure.draw(renderer)
    drawn = np.any(renderer.render() != (0, 255, 0), axis=-1)
    joints = np.array([camera.project(body.points[name])[:2] for name in MPII_POINTS])
    for name, (x, y) in zip(MPII.joints, joints, strict=True):
        near = drawn[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
        assert near.any(), name
        if name != "head top":
            assert near.all(), name
    ys, xs = np.nonzero(drawn)
    margin = 0.1 * camera.zoom
    assert xs.min() > joints[:, 0].min() - margin and xs.max() < joints[:, 0].max() + margin
    assert ys.min() > joints[:, 1].min() - margin and ys.max() < joints[:, 1].max() + margin
    x0, y0, x1, y1 = figure.head.box()
    assert abs(y0 - joints[9, 1]) < 3 and x0 < joints[9, 0] < x1 and abs(y1 - joints[8, 1]) < 6


def test_front_and_back_of_a_head_differ():
    def head(yaw: float) -> np.ndarray:
        rng = np.random.default_rng(1)
        size, appearance = sample_proportions(rng), sample_appearance(rng)
        appearance.hair_style = "short"
        appearance.skin, appearance.hair = (230.0, 180.0, 150.0), (20.0, 20.0, 20.0)
        renderer = Renderer(np.zeros((256, 256, 3), np.uint8), (0.0, -1.0), contrast=0.0)
        figure = Figure(build(standing(yaw), size), appearance, Camera(zoom=200, distance=6, x=128, y=120))
        figure.draw(renderer)
        x0, y0, x1, y1 = (round(v) for v in figure.head.box())
        return renderer.render()[y0:y1, x0:x1].astype(float)

    assert head(0).mean() > head(180).mean() + 60  # a face, or hair


def test_samples_can_be_cropped(people):
    sample = CropDataset(SyntheticSource(2, seed=3), 64, augmentation=None)[1]
    assert sample["image"].shape == (3, 64, 64) and sample["weight"].sum() == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 1, "seed": -1}, "seed must be at least 0, got -1"),
        ({"count": 1, "split": "dev"}, "split must be one of train, val, test, got 'dev'"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSource(**arguments)


def test_index_outside():
    with pytest.raises(IndexError):
        SyntheticSource(2).image(2)
