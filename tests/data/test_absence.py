"""Crops that lack something: what is missing has a target of zeros, and the rest stays where it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyranet_fast import ops
from pyranet_fast.data import Augmentation, CachedSource, CropDataset, absence
from pyranet_fast.data.transforms import RESIZE, from_map, to_map
from tests.data.people import MemorySource, person, smooth_image

PLAIN = {"scale": 0.0, "rotation_probability": 0.0, "flip": 0.0, "color": 0.0}


def one(*people, size=(220, 260)):
    """People of one picture."""
    source = MemorySource([smooth_image(*size)] * len(people), list(people))
    source.image_name = lambda index: "0.jpg"
    return source


def test_options_that_are_off_change_no_draw():
    """Recipes from before these were there see the pictures that they saw."""
    for seed in range(20):
        old, new = (a.draw(np.random.default_rng(seed)) for a in (Augmentation(), Augmentation(cut=1.0, cover=1.0)))
        assert (old.scale, old.rotation, old.flip, old.gains) == (new.scale, new.rotation, new.flip, new.gains)
        assert not (old.cut or old.cover or old.empty) and new.cut and new.cover and not new.empty


def test_sizes_and_turns_cover_their_ranges():
    draws = [Augmentation(resize=1.0, turn=1.0, scale=0.0).draw(np.random.default_rng(seed)) for seed in range(2000)]
    shown = np.log([1 / draw.scale for draw in draws])  # how large people appear
    low, high = np.log(RESIZE)
    assert low <= shown.min() < low + 0.02 and high - 0.02 < shown.max() <= high
    assert abs(shown.mean() - (low + high) / 2) < 0.03
    turns = np.array([draw.rotation for draw in draws])
    assert turns.min() < -175 and turns.max() > 175 and abs(np.mean(turns > 90) - 0.25) < 0.04
    assert Augmentation(resize=0.1, turn=0.1).reach == pytest.approx(0.5 * 1.25 * 2**0.5 / RESIZE[0])
    with pytest.raises(ValueError, match=r"empty must lie in 0\.\.1, got 1\.5"):
        Augmentation(empty=1.5)


def test_joints_outside_the_crop_have_the_weight_of_absence():
    """The target is what of the Gaussian reaches into the map; without a weight they take no part."""
    source = one(person(center=(130, 110), scale=0.8))
    source.people[0].joints[3] = (300, 110)  # far to the right of the crop of 160 px
    source.people[0].labeled[4] = False
    weights = [CropDataset(source, 64, augmentation=None, absence_weight=w)[0]["weight"] for w in (0.0, 0.5)]
    assert weights[0][3] == 0 and weights[1][3] == 0.5
    assert weights[0][4] == 0 and weights[1][4] == 0, "of a joint without a label nothing is known"
    assert weights[0].sum() == 12 and weights[1].sum() == 12.5
    with pytest.raises(ValueError, match="absence_weight must be at least 0, got -1"):
        CropDataset(source, 64, augmentation=None, absence_weight=-1)


def test_a_crop_of_nobody_wants_zeros():
    source = one(person(center=(60, 110), scale=0.4), size=(220, 400))
    data = CropDataset(source, 64, augmentation=Augmentation(empty=1.0), absence_weight=1.0)
    for epoch in range(12):
        sample = data[(epoch, 0)]
        assert sample["weight"].tolist() == [1.0] * 14
        targets = ops.gaussian_heatmaps(sample["joints"][None], sample["weight"][None], (16, 16))
        assert not targets.any() and sample["image"].float().std() > 0
    maps = torch.rand(1, 14, 16, 16)
    loss = ops.heatmap_loss(maps, sample["joints"][None], sample["weight"][None])
    assert loss.item() == pytest.approx(maps.square().mean().item(), rel=1e-5)
    assert torch.equal(data[(3, 0)]["image"], data[(3, 0)]["image"]), "the same sample is always the same"


@pytest.mark.parametrize("cached", [False, True])
def test_empty_squares_avoid_everybody_in_the_picture(cached):
    """Also those who are other people's samples, and in the pixels of a cached region."""
    people = (person(center=(60, 110), scale=0.4), person(center=(330, 110), scale=0.4, seed=1))
    source = one(*people, size=(220, 400))
    if cached:
        source = CachedSource(source, augmentation=Augmentation(scale=0.5), input_size=16)
    found = absence.PeopleOfPictures(source)
    boxes = sorted(source.to_original(0, found.boxes(0).reshape(-1, 2)).reshape(-1, 4).tolist())
    for box, someone in zip(boxes, people, strict=True):
        low, high = someone.joints.min(axis=0), someone.joints.max(axis=0)
        pad = 0.15 * (high - low).max()
        np.testing.assert_allclose(box, [*(low - pad), *(high + pad)], atol=0.05)


def test_empty_squares_touch_no_box():
    rng, boxes = np.random.default_rng(0), np.array([[40.0, 30.0, 120.0, 200.0], [250.0, 60.0, 330.0, 220.0]])
    found = [absence.empty_square(rng, (220, 400), boxes, 120.0) for _ in range(300)]
    squares = [(*center, side) for center, side in filter(None, found)]
    assert len(squares) > 200
    for x, y, side in squares:
        low, high = np.array([x, y]) + 0.5 - side / 2, np.array([x, y]) + 0.5 + side / 2
        for x0, y0, x1, y1 in boxes:
            assert high[0] <= x0 + 1e-3 or low[0] >= x1 - 1e-3 or high[1] <= y0 + 1e-3 or low[1] >= y1 - 1e-3
        assert 30 <= side <= 144 and (low > -0.26 * side).all() and (high < np.array([400, 220]) + 0.26 * side).all()
    assert absence.empty_square(rng, (220, 400), np.array([[0.0, 0.0, 400.0, 220.0]]), 120.0) is None


def test_a_border_cuts_joints_off_and_moves_none():
    cuts, ends = 0, 0
    for seed in range(200):
        someone = person(center=(130, 110), scale=0.9, seed=seed)
        picture = smooth_image(220, 260)
        image, left, gone = absence.cut(np.random.default_rng(seed), picture, someone)
        assert not (gone & left.labeled).any() and (gone | left.labeled).all() and left.labeled.sum() >= 3
        offset = left.joints[0] - someone.joints[0]
        np.testing.assert_allclose(left.joints - someone.joints, np.tile(offset, (14, 1)), atol=1e-4)
        x, y = (-offset).round().astype(int)
        np.testing.assert_array_equal(image, picture[y : y + image.shape[0], x : x + image.shape[1]])
        inside = ((left.joints > -1) & (left.joints < np.array(image.shape[1::-1]))).all(axis=1)
        assert inside[left.labeled].all()
        assert not ((left.joints >= 0) & (left.joints <= np.array(image.shape[1::-1]) - 1)).all(axis=1)[gone].any()
        assert 0.3 * someone.scale < left.scale <= someone.scale
        cuts, ends = cuts + (left.scale < someone.scale), ends + (image.shape != picture.shape)
    assert cuts > 150 and 60 < ends < 140
    alone = person(labeled=np.arange(14) < 3)
    image, left, gone = absence.cut(np.random.default_rng(0), picture, alone)
    assert left is alone and image is picture and not gone.any(), "of three joints none is cut off"


def test_joints_beyond_the_border_want_zeros():
    source = one(person(center=(130, 110), scale=0.9))
    data = CropDataset(source, 64, augmentation=Augmentation(**PLAIN, cut=1.0), absence_weight=1.0)
    lost = 0
    for epoch in range(40):
        sample = data[(epoch, 0)]
        nowhere = sample["joints"][:, 0] == absence.NOWHERE
        lost += int(nowhere.sum())
        points = from_map(sample["joints"].numpy())
        back = points @ sample["inverse"][:, :2].numpy().T + sample["inverse"][:, 2].numpy()
        kept = ~nowhere.numpy()
        moved = back[kept] - source.people[0].joints[kept]
        np.testing.assert_allclose(moved, np.tile(moved[0], (kept.sum(), 1)), atol=0.02)
        assert (sample["weight"] == 1).all()
    assert lost > 40


def test_things_cover_a_part_or_everything():
    rng, points = np.random.default_rng(0), np.array([[20.0, 12.0], [44.0, 12.0], [30.0, 52.0]])
    image = smooth_image(64, 64)
    shares = []
    for _ in range(60):
        covered = absence.cover(rng, image, points)
        assert covered is not image
        shares.append(float((covered != image).any(axis=2).mean()))
    assert min(shares) > 0 and max(shares) < 0.75 and np.mean(shares) < 0.35
    whole = absence.cover(rng, image, points, whole=True)
    assert (whole != image).any(axis=2)[12:53, 20:45].mean() > 0.6
    np.testing.assert_array_equal(image, smooth_image(64, 64))


def test_labels_stay_where_something_covers_them():
    source = one(person(center=(130, 110), scale=0.9))
    plain, covered = (
        CropDataset(source, 64, augmentation=Augmentation(**PLAIN, cover=share))[0] for share in (0.0, 1.0)
    )
    assert torch.equal(plain["joints"], covered["joints"]) and torch.equal(plain["weight"], covered["weight"])
    assert not torch.equal(plain["image"], covered["image"])
    np.testing.assert_allclose(plain["joints"].numpy(), to_map(from_map(plain["joints"].numpy())), atol=1e-4)
