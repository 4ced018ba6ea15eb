"""From pictures of colored dots to poses: crops, boxes, the second look, and every wrong argument.

The network of most tests is made by hand: it finds dots by their color, so that a right pose needs right
pixels, a right crop and a right way back.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.image_io import write_image
from pyranet_fast.data.transforms import MEAN
from pyranet_fast.errors import UserError
from pyranet_fast.inference.crop_search import checked_box
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.models import PyraNet
from pyranet_fast.pose import LSP

SIZE = 64
NETWORK = {"stacks": 1, "joints": len(LSP), "features": 32, "depth": 2, "levels": 2}


def tiny(**changes) -> Checkpoint:
    torch.manual_seed(0)
    model = PyraNet(**NETWORK)
    content = {"model": model.config, "weights": model.state_dict(), "skeleton": "lsp", "input_size": SIZE}
    return Checkpoint(**(content | changes))


# Saturated colors, far apart from each other and from the gray ground.
COLORS = np.array([(r, g, b) for r in (0, 128, 255) for g in (0, 255) for b in (0, 128, 255)], np.uint8)[: len(LSP)]


class DotFinder(nn.Module):
    """Score map k is high where the picture has the color of joint k; ``sure`` scales all scores."""

    multiple = 4

    def __init__(self, sure=1.0):
        super().__init__()
        self.sure = sure
        self.inputs = []

    def forward(self, x):
        color = torch.from_numpy(COLORS).float()[:, :, None, None] / 255
        rgb = x + torch.tensor(MEAN)[None, :, None, None]
        self.inputs.append(rgb)
        distance = ((rgb[:, None] - color) ** 2).sum(2)
        # Smoothed over more than a dot's size, so that the maximum is the dot's middle and not its corner.
        hits = nn.functional.avg_pool2d(torch.exp(-distance / 0.02), 9, 1, 4)
        return [self.sure * 4 * nn.functional.avg_pool2d(hits, 4)]


@pytest.fixture
def predictor():
    made = Predictor(tiny(), "cpu", flip=False)
    made.input_size = 128
    made.model = DotFinder()
    return made


def person(center, extent, seed=3):
    """14 joints near a grid that is ``extent`` pixels high, shuffled."""
    x, y = np.meshgrid(np.arange(3), np.arange(5))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)[: len(LSP)].astype(float)
    rng = np.random.default_rng(seed)
    grid = grid[rng.permutation(len(grid))] + rng.uniform(-0.15, 0.15, grid.shape)
    return (grid - np.array((1, 2))) * extent / 4 + center


def picture(height, width, joints, radius):
    image = np.full((height, width, 3), [round(255 * m) for m in MEAN], np.uint8)
    for (x, y), color in zip(joints, COLORS, strict=True):
        at = round(16 * x), round(16 * y)
        cv2.circle(image, at, round(16 * radius), color.tolist(), -1, cv2.LINE_AA, 4)
    return image


def found(pose, joints):
    """Whether every joint is within 0.35 score-map pixels, and all together are not off to one side."""
    error = (pose.joints - joints) / pose.heatmap_to_image[0, 0]
    return bool(np.abs(error).max() < 0.35 and np.abs(error.mean(axis=0)).max() < 0.12)


def test_whole_image(predictor):
    joints = person((150, 130), 200)
    pose = predictor(picture(260, 300, joints, 6))
    assert found(pose, joints)
    assert pose.joints.shape == (14, 2) and pose.scores.shape == (14,) and pose.heatmaps.shape == (14, 32, 32)
    assert pose.joints.dtype == pose.scores.dtype == pose.heatmaps.dtype == np.float32
    assert pose.skeleton == "lsp"
    assert pose.scores.min() > 0.4


@pytest.mark.parametrize("box", [(420, 70, 100, 210), (400, 60, 150, 250), (444.5, 100.25, 60.5, 150)])
def test_box_chooses_the_person(predictor, box):
    right, left = person((470, 175), 160), person((120, 175), 160, seed=4)
    image = picture(350, 640, right, 5)
    seen = picture(350, 640, left, 5)
    image[:, :300] = seen[:, :300]
    pose = predictor(image, box)
    assert found(pose, right)
    assert pose.box == box
    assert found(predictor(image, (70, 70, 100, 210)), left)


def test_box_at_the_corner_with_half_the_crop_outside(predictor):
    joints = person((40, 45), 70)
    assert found(predictor(picture(300, 300, joints, 3), (0, 0, 80, 92)), joints)


def test_crop_is_a_square_of_five_quarters_around_the_box(predictor):
    pose = predictor(picture(300, 300, person((150, 150), 100), 3), (90, 80, 60, 128))
    # The outer edges of the score maps are those of the crop.
    corners = np.array([[-0.5, -0.5, 1], [31.5, 31.5, 1]]) @ pose.heatmap_to_image.T
    side = 1.25 * 128
    np.testing.assert_allclose(
        corners, np.array([120 - side / 2 - 0.5, 144 - side / 2 - 0.5]) + np.array([[0], [side]])
    )


def test_a_small_person_is_looked_at_again(predictor):
    joints = person((310, 420), 170)
    image = picture(640, 480, joints, 10)
    pose = predictor(image)
    assert len(predictor.model.inputs) == 2
    x, y, width, height = pose.box
    low, high = joints.min(axis=0), joints.max(axis=0)
    np.testing.assert_allclose([x + width / 2, y + height / 2], (low + high) / 2, atol=5)
    assert 165 < height < 200
    assert found(pose, joints)
    assert pose.mean_score > 0.5


def test_first_look_is_kept_where_it_was_unsure(predictor):
    image = picture(640, 480, person((310, 420), 170), 9)
    predictor.model.sure, predictor.search = 0.15, False
    pose = predictor(image)
    assert len(predictor.model.inputs) == 1
    assert pose.box == (0, 0, 480, 640)


def test_first_look_is_kept_where_the_second_is_less_sure(predictor):
    class Fading(DotFinder):
        def forward(self, x):
            self.sure = 1.0 if not self.inputs else 0.5
            return super().forward(x)

    predictor.model = Fading()
    pose = predictor(picture(300, 260, person((130, 150), 230), 7))
    assert len(predictor.model.inputs) == 2
    assert pose.box == (0, 0, 260, 300)


def test_a_very_small_person_is_searched_for(predictor):
    joints = person((520, 200), 100, seed=3)
    image = picture(640, 640, joints, 5)
    predictor.model.sure = 0.8
    pose = predictor(image)
    assert found(pose, joints)
    assert 95 < pose.box[3] < 125 and pose.rotation == 0
    predictor.search = False
    coarse = predictor(image)
    assert coarse.box == (0, 0, 640, 640) and coarse.mean_score < pose.mean_score


class Upright(DotFinder):
    """Knows people only whose head is above their right ankle."""

    def forward(self, x):
        (maps,) = super().forward(x)
        ends = [maps[:, k] for k in (LSP.joints.index("head top"), LSP.joints.index("right ankle"))]
        rows = [end.amax(2).argmax(1) for end in ends]
        seen = torch.stack([end.amax((1, 2)) > 0.1 for end in ends]).all(0)  # else their rows mean nothing
        return [maps * torch.where((rows[0] < rows[1]) & seen, 1.0, 0.1)[:, None, None, None]]


def test_a_person_upside_down_is_turned(predictor):
    joints = person((150, 130), 200)
    image = picture(260, 300, joints, 6)[::-1, ::-1].copy()
    turned = np.array([299, 259], np.float32) - joints
    predictor.model = Upright()
    pose = predictor(image)
    assert pose.rotation == 180 and pose.mean_score > 0.4
    middle = pose.joints - turned
    assert np.abs(middle).max() < 0.35 * abs(pose.heatmap_to_image[0, 0])
    assert pose.as_dict()["rotation"] == 180
    predictor.search = False
    assert predictor(image).mean_score < 0.2


def test_blank_tiny_and_huge_images_give_a_pose(predictor):
    for shape in [(1, 1), (1, 900), (3, 2), (5000, 6000)]:
        pose = predictor(np.full((*shape, 3), 200, np.uint8))
        assert np.isfinite(pose.joints).all()
    joints = person((3000, 2500), 4000)
    assert found(predictor(picture(5000, 6000, joints, 110)), joints)


def test_every_form_of_a_picture_gives_the_same(predictor, tmp_path):
    rgb = picture(260, 300, person((150, 130), 200), 6)
    write_image(tmp_path / "a.png", rgb)
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    expected = predictor(rgb)
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        opaque,
        torch.from_numpy(rgb.transpose(2, 0, 1).copy()),
    ):
        np.testing.assert_array_equal(predictor(form).joints, expected.joints)
    gray = predictor(rgb[..., 1])
    assert np.isfinite(gray.joints).all()


def test_a_batch_equals_single_calls(predictor):
    images = [picture(300, 260, person((130, 150), 100 + 30 * i, seed=i), 5) for i in range(5)]
    boxes = [None, (70, 60, 120, 180), None, (60, 40, 140, 220), None]
    together = predictor.predict_batch(images, boxes, batch_size=2)
    assert len(together) == 5
    for image, box, pose in zip(images, boxes, together, strict=True):
        alone = predictor(image, box)
        assert pose.box == alone.box
        np.testing.assert_allclose(pose.joints, alone.joints, atol=1e-3)
    assert predictor.predict_batch([]) == []
    assert len(predictor.predict_batch(iter(images[:2]))) == 2


def test_a_real_network_from_a_file(tmp_path):
    save_checkpoint(tmp_path / "tiny.pt", tiny())
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    pose = Predictor(tmp_path / "tiny.pt", "cpu")(image, (10, 10, 30, 30))
    again = Predictor(str(tmp_path / "tiny.pt"), torch.device("cpu"), precision="fp32")(image, (10, 10, 30, 30))
    np.testing.assert_array_equal(pose.heatmaps, again.heatmaps)
    assert pose.heatmaps.shape == (14, 16, 16)
    unflipped = Predictor(tiny(), "cpu", flip=False)(image, (10, 10, 30, 30))
    assert not np.array_equal(pose.heatmaps, unflipped.heatmaps)
    low = Predictor(tiny(), "cpu", precision="bf16")(image, (10, 10, 30, 30))
    np.testing.assert_allclose(low.heatmaps, pose.heatmaps, atol=0.1 * np.abs(pose.heatmaps).max())


def test_pose_as_dict_is_json(predictor):
    pose = predictor(picture(260, 300, person((150, 130), 200), 6))
    content = json.loads(json.dumps(pose.as_dict(), allow_nan=False))
    assert list(content["joints"]) == list(LSP.joints)
    for name, (x, y), score in zip(LSP.joints, pose.joints, pose.scores, strict=True):
        got = content["joints"][name]
        assert got == {
            "x": pytest.approx(x, abs=0.01),
            "y": pytest.approx(y, abs=0.01),
            "score": pytest.approx(score, abs=1e-4),
        }
    assert content["box"] == pytest.approx(pose.box, abs=0.01)
    assert content["mean_score"] == pytest.approx(pose.mean_score, abs=1e-4)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((1, 2, 3), "four finite numbers"),
        ("1,2,3,4", "four finite numbers"),
        (7, "four finite numbers"),
        ((0, 0, float("nan"), 5), "finite"),
        ((0, 0, float("inf"), 5), "finite"),
        ((0, 0, 0, 5), "above 0"),
        ((0, 0, 5, -1), "above 0"),
        ((100, 0, 5, 5), "outside the image of 100 x 50"),
        ((-5, 0, 5, 5), "outside"),
        ((0, 50, 5, 5), "outside"),
        ((0, 0, 1e9, 5), "100 times"),
    ],
)
def test_bad_boxes_get_a_sentence(predictor, box, words):
    with pytest.raises(UserError, match=words):
        predictor(np.zeros((50, 100, 3), np.uint8), box)


def test_boxes_that_reach_over_the_edge_are_fine():
    assert checked_box(np.array([-20, -20, 500, 500]), (50, 100)) == (-20.0, -20.0, 500.0, 500.0)


def test_bad_checkpoints_get_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("pyranet_fast.models.zoo.FOLDER", tmp_path)
    with pytest.raises(UserError, match="no weights are shipped"):
        Predictor()
    with pytest.raises(UserError, match=r"nowhere\.pt does not exist"):
        Predictor(tmp_path / "nowhere.pt")
    with pytest.raises(TypeError, match="dict"):
        Predictor({"model": 1})
    with pytest.raises(UserError, match="skeleton 'hand'"):
        Predictor(tiny(skeleton="hand"))
    with pytest.raises(UserError, match=r"14 score maps.*16 joints"):
        Predictor(tiny(skeleton="mpii"))
    for size in (63, 0, -64, 64.0):
        with pytest.raises(UserError, match="input size"):
            Predictor(tiny(input_size=size))
    with pytest.raises(ValueError, match=r"precision must be .*, got 'fp8'"):
        Predictor(tiny(), precision="fp8")
    with pytest.raises(UserError, match="device must be auto, cpu, cuda or cuda:N"):
        Predictor(tiny(), "tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda' was asked for"):
        Predictor(tiny(), "cuda")


def test_bad_images_get_a_sentence(predictor, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"x\.jpg"):
        predictor(tmp_path / "x.jpg")
    with pytest.raises(TypeError, match="float32"):
        predictor(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(TypeError, match="a list of images"):
        predictor.predict_batch("photo.jpg")
    with pytest.raises(ValueError, match="each of 1 images, got 2"):
        predictor.predict_batch([np.zeros((4, 4, 3), np.uint8)], [None, None])
    with pytest.raises(ValueError, match=r"batch_size .*must be at least 1, got 0"):
        predictor.predict_batch([], batch_size=0)


def test_weights_that_diverged_get_a_sentence(predictor):
    predictor.model = DotFinder(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        predictor(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, special):
    checkpoint = tiny()
    name = next(name for name, tensor in checkpoint.weights.items() if name.endswith("conv.weight"))
    checkpoint.weights[name].view(-1)[3] = special
    with pytest.raises(UserError, match=rf"checkpoint has values that are not finite in {name}: it is damaged"):
        Predictor(checkpoint)


def test_maps_that_are_not_finite_make_no_pose(predictor, monkeypatch):
    """Minus infinity is no map's maximum, and would go unseen."""
    maps = torch.zeros(2, 16, 4, 4)
    maps[0, 3, 1, 1] = -float("inf")
    predictor.model = lambda images: [maps]
    monkeypatch.setattr("pyranet_fast.inference.predictor.score_maps", lambda *a, **k: maps[:1])
    with pytest.raises(UserError, match="score maps that are not finite, of which no pose is made"):
        predictor(np.zeros((4, 4, 3), np.uint8))


def test_a_stream_equals_single_calls(predictor, tmp_path):
    people = [person((150, 130), 150 + 10 * i, seed=i) for i in range(5)]
    for i, joints in enumerate(people):
        write_image(tmp_path / f"{i}.png", picture(260, 300, joints, 6))
    (tmp_path / "2x.png").write_bytes(b"no picture")
    found = list(predictor.stream(tmp_path, batch_size=2))
    assert [p.index for p in found] == list(range(6)) and found[3].name == str(tmp_path / "2x.png")
    assert found[3].image is None and found[3].poses == [] and "2x.png cannot be read" in found[3].error
    for prediction in found[:3] + found[4:]:
        assert prediction.error is None and prediction.image.shape == (260, 300, 3)
        (pose,) = prediction.poses
        assert np.array_equal(pose.joints, predictor(prediction.image).joints)
    skipped = predictor.stream(tmp_path, skip=lambda index, name: name.endswith("2x.png") or index < 2)
    assert [p.index for p in skipped] == [2, 4, 5]


def test_boxes_of_a_stream(predictor):
    right, left = person((470, 175), 160), person((120, 175), 160, seed=4)
    image = picture(350, 640, right, 5)
    image[:, :300] = picture(350, 640, left, 5)[:, :300]
    both = {"image 0": [(420, 70, 100, 210), (70, 70, 100, 210)], "image 1": [], "image 2": [(900, 0, 5, 5)]}
    seen = []

    def boxes(name, pixels):
        seen.append(pixels.shape)
        return both[name]

    two, none, outside = predictor.stream([image, image, image[:, :300]], boxes=boxes, batch_size=1)
    assert found(two.poses[0], right) and found(two.poses[1], left)
    assert none.poses == [] and none.error is None and none.image is not None
    assert "image 2: box 900,0,5,5 lies outside" in outside.error and outside.poses == []
    assert seen == [(350, 640, 3)] * 2 + [(350, 300, 3)]
    (one,) = predictor.stream(image, boxes=(70, 70, 100, 210))
    assert found(one.poses[0], left)


def test_a_stream_is_lazy(predictor):
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield np.zeros((8, 8, 3), np.uint8)

    predictor.search = False
    results = predictor.stream(source(), batch_size=2)
    assert taken == []
    assert next(results).index == 0
    results.close()
    assert len(taken) <= 8
    with pytest.raises(ValueError, match=r"batch_size .*must be at least 1, got 0"):
        predictor.stream("x.png", batch_size=0)


def near(pose, joints):
    return bool(np.linalg.norm(pose.joints - joints, axis=1).mean() < 0.05 * np.ptp(joints, axis=0).max())


def crowd():
    """Three people of two sizes in a picture."""
    people = [person((130, 150), 170, seed=1), person((330, 150), 160, seed=2), person((520, 260), 90, seed=3)]
    image = picture(340, 620, people[0], 6)
    for joints, radius in zip(people[1:], (6, 3.5), strict=True):
        drawn = picture(340, 620, joints, radius)
        left = int(joints[:, 0].min()) - 20
        image[:, left : left + 200] = drawn[:, left : left + 200]
    return image, people


class PersonFinder(DotFinder):
    """Sure of a whole person alone, higher than wide, who fills half of the crop or more; else of nothing."""

    def forward(self, x):
        (maps,) = super().forward(x)
        peaks, places = maps.flatten(2).max(2)
        rows, columns = places // maps.shape[3], places % maps.shape[3]
        height, width = (axis.amax(1) - axis.amin(1) for axis in (rows, columns))
        whole = (peaks.amin(1) > 0.3) & (height > 0.5 * maps.shape[2]) & (width < 0.8 * height)
        return [maps / peaks[..., None, None].clamp(min=0.3) * torch.where(whole, 0.9, 0.15)[:, None, None, None]]


def test_everyone_is_found(predictor):
    image, people = crowd()
    predictor.model = PersonFinder()
    poses = predictor.everyone(image)
    assert len(poses) == 3
    for joints in people:
        assert sum(near(pose, joints) for pose in poses) == 1
    assert predictor.everyone(np.full((50, 80, 3), 120, np.uint8)) == []
    with pytest.raises(ValueError, match="most and batch_size must be at least 1, got 0"):
        predictor.everyone(image, most=0)
    (one,) = predictor.stream(image[:, :240], people=2)
    assert len(one.poses) == 1 and near(one.poses[0], people[0])
    with pytest.raises(ValueError, match=r"people must be .*, got 0"):
        predictor.stream(image, people=0)


def test_another_network_may_search(predictor):
    image, people = crowd()
    searcher = Predictor(tiny(), "cpu", flip=False)
    searcher.input_size, searcher.model, predictor.model = 128, PersonFinder(), PersonFinder()
    predictor.searcher = searcher
    poses = predictor.everyone(image)
    assert len(searcher.model.inputs) > len(predictor.model.inputs) > 0
    assert all(any(near(pose, joints) for pose in poses) for joints in people)
