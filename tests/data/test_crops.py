"""A sample's picture and its targets belong together; its randomness has no state."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.data import Augmentation, CachedSource, ConcatSource, CropDataset, SyntheticSource, worker_init
from pyranet_fast.data.transforms import MEAN, from_map, transform_points
from pyranet_fast.errors import UserError
from tests.data.people import MemorySource, person, smooth_image

EVERYTHING = Augmentation(flip=0.5, rotation_probability=1.0)


def one(image=None, **changes):
    return MemorySource([smooth_image(110, 120) if image is None else image], [person(**changes)])


@pytest.mark.parametrize("epoch", range(12))
def test_a_dot_at_a_joint_is_found_at_the_target(epoch):
    """Draw one joint into the picture: its bright spot must be where the sample says that joint is."""
    for joint in (1, 9, 12):
        someone = person(center=(150.0, 140.0), scale=1.0)
        # Near the middle: no dot may be cut by the crop's border.
        someone.joints = np.rint(145 + 0.5 * (someone.joints - 145))
        image = np.zeros((300, 310, 3), dtype=np.uint8)
        cv2.circle(image, tuple(int(v) for v in someone.joints[joint]), 4, (255, 255, 255), -1)
        source = MemorySource([image], [someone])
        dataset = CropDataset(source, 128, augmentation=EVERYTHING, seed=joint)
        sample = dataset[(epoch, 0)]
        # Told apart from the gray border by its brightness.
        bright = np.clip(sample["image"].numpy().astype(float) - 170, 0, None).sum(axis=0)
        y, x = np.mgrid[:128, :128]
        seen = np.array([(bright * x).sum(), (bright * y).sum()]) / bright.sum()
        # A mirrored right knee is a left knee.
        mirrored = np.linalg.det(sample["inverse"][:, :2].numpy()) < 0
        label = source.skeleton.flip_permutation[joint] if mirrored else joint
        np.testing.assert_allclose(seen, from_map(sample["joints"][label].numpy()), atol=0.35)


def test_mirrored_samples_swap_left_and_right_and_nothing_else():
    source = one(labeled=np.arange(14) != 0)
    never, always = (
        CropDataset(source, 64, augmentation=Augmentation(flip=f, rotation_probability=0, scale=0, color=0))[0]
        for f in (0.0, 1.0)
    )
    order = source.skeleton.flip_permutation
    assert torch.equal(always["image"], never["image"].flip(2))
    expected = never["joints"].clone()
    seen = never["weight"] > 0
    expected[:, 0] = 15 - expected[:, 0]
    torch.testing.assert_close(always["joints"][order][seen], expected[seen])
    assert never["weight"][0] == 0 and always["weight"][5] == 0  # the unlabeled ankle changes sides too
    assert torch.equal(always["weight"][order], never["weight"])


def test_sample_layout():
    sample = CropDataset(one(), 64, augmentation=None)[0]
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.uint8
    assert sample["image"].is_contiguous()
    assert sample["joints"].shape == (14, 2) and sample["joints"].dtype == torch.float32
    assert sample["weight"].shape == (14,) and sample["weight"].dtype == torch.float32
    assert sample["inverse"].shape == (2, 3) and sample["inverse"].dtype == torch.float32
    assert sample["index"] == 0 and sample["valid"] is True


@pytest.mark.parametrize("epoch", range(6))
def test_inverse_leads_back_to_the_image(epoch):
    source = one()
    sample = CropDataset(source, 64, augmentation=EVERYTHING)[(epoch, 0)]
    back = transform_points(sample["inverse"].numpy(), from_map(sample["joints"].numpy()))
    if np.linalg.det(sample["inverse"][:, :2].numpy()) < 0:
        back = back[source.skeleton.flip_permutation]
    np.testing.assert_allclose(back, source.people[0].joints, atol=1e-3)


def test_weight_is_zero_outside_and_where_unlabeled():
    someone = person(center=(60.0, 50.0), scale=0.5, labeled=np.arange(14) != 4)
    someone.joints[0] = (9.9, 50.0)  # the crop covers x from 10 to 110 as continuous coordinates,
    someone.joints[1] = (10.1, 50.0)
    someone.joints[2] = (109.9, 50.0)
    someone.joints[3] = (110.1, 50.0)
    weight = CropDataset(MemorySource([smooth_image(90, 90)], [someone]), 64, augmentation=None)[0]["weight"]
    assert weight[:5].tolist() == [0, 1, 1, 0, 0]


def test_randomness_comes_from_seed_epoch_and_index_alone():
    source = MemorySource([smooth_image(80, 90)] * 3, [person()] * 3)
    dataset = CropDataset(source, 64, augmentation=Augmentation(), seed=5)
    first = [dataset[(e, i)]["image"] for e in range(2) for i in range(3)]
    again = CropDataset(source, 64, augmentation=Augmentation(), seed=5)
    backwards = [again[(e, i)]["image"] for e in (1, 0) for i in (2, 1, 0)][::-1]
    for a, b in zip(first, backwards, strict=True):
        assert torch.equal(a, b)
    for i in range(1, 6):
        assert not torch.equal(first[0], first[i])
    other = CropDataset(source, 64, augmentation=Augmentation(), seed=6)
    assert not torch.equal(first[0], other[(0, 0)]["image"])
    assert torch.equal(dataset[1]["image"], dataset[(0, 1)]["image"])


def test_border_is_the_data_mean_whatever_the_gains():
    dataset = CropDataset(one(image=np.zeros((4, 4, 3), np.uint8)), 64, augmentation=Augmentation(color=0.2))
    for epoch in range(8):
        corner = dataset[(epoch, 0)]["image"][:, 0, 0].float()
        assert (corner - 255 * torch.tensor(MEAN)).abs().max() < 1.2


def test_corrupt_images_are_named_or_skipped():
    source = MemorySource([smooth_image(60, 60), None], [person(), person()])
    with pytest.raises(UserError, match=r"image 1\.jpg cannot be read"):
        CropDataset(source, 64, augmentation=None)[1]
    skipping = CropDataset(source, 64, augmentation=None, on_error="skip")
    gray = skipping[(3, 1)]
    assert gray["valid"] is False and gray["index"] == 1
    assert gray["weight"].sum() == 0
    assert gray["image"].float().mean((1, 2)).tolist() == [round(255 * m) for m in MEAN]
    good = skipping[(3, 0)]
    assert good["valid"] is True
    batch = torch.utils.data.default_collate([good, gray])  # same keys, shapes and types
    assert batch["valid"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 30}, "input_size must be a positive multiple of 4, got 30"),
        ({"input_size": 0}, "input_size must be a positive multiple of 4, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
    ],
)
def test_bad_settings(change, message):
    arguments = {"input_size": 64, "augmentation": None} | change
    with pytest.raises(ValueError, match=message):
        CropDataset(one(), **arguments)


def test_index_outside():
    dataset = CropDataset(one(), 64, augmentation=None)
    for key in (1, -1, (0, 1)):
        with pytest.raises(IndexError):
            dataset[key]


def test_loader_with_a_worker_gives_the_same_samples():
    dataset = CropDataset(SyntheticSource(6, seed=1), 64, augmentation=Augmentation(), seed=2)
    keys = [(1, i) for i in range(6)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, sampler=keys, num_workers=1, worker_init_fn=worker_init)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([dataset[key]["image"] for key in keys]))


class TestCache:
    """The cache changes where pixels are kept, nothing else."""

    def test_same_samples_with_each_image_decoded_once(self):
        images = [smooth_image(400, 500, i) for i in range(3)]
        people = [person(center=(120 + 100 * i, 60 + 120 * i), scale=0.45, seed=i) for i in range(3)]
        source = MemorySource(images, people)
        cached = CachedSource(source, augmentation=EVERYTHING)
        assert source.decoded == 3
        assert cached.nbytes < sum(image.size for image in images) / 2  # cropped to what can be reached
        plain, fast = (CropDataset(s, 64, augmentation=EVERYTHING) for s in (source, cached))
        for epoch in range(20):
            for index in range(3):
                a, b = plain[(epoch, index)], fast[(epoch, index)]
                torch.testing.assert_close(a["joints"], b["joints"], atol=1e-3, rtol=0)
                assert torch.equal(a["weight"], b["weight"])
                # Warping fractions are rounded from other coordinates: a level or two at most.
                assert (a["image"].int() - b["image"].int()).abs().max() <= 3
        assert source.decoded == 3 + 60

    def test_large_people_are_reduced_and_lead_back(self):
        someone = person(center=(500.0, 400.0), scale=4.0)
        source = MemorySource([smooth_image(900, 1000)], [someone])
        cached = CachedSource(source, augmentation=None, input_size=64)
        small = cached.person(0)
        assert 200 * small.scale == pytest.approx(2 * 64, rel=0.02)
        assert cached.image(0).shape[0] < 150
        np.testing.assert_allclose(cached.to_original(0, small.joints), someone.joints, atol=1e-3)
        ratio = cached.reference_length(0) / small.scale
        assert ratio == pytest.approx(source.reference_length(0) / someone.scale)
        a, b = (CropDataset(s, 64, augmentation=None)[0] for s in (source, cached))
        torch.testing.assert_close(a["joints"], b["joints"], atol=0.02, rtol=0)
        assert (a["image"].int() - b["image"].int()).abs().float().mean() < 2

    def test_failures_are_kept_and_raised_when_asked_for(self):
        source = MemorySource([smooth_image(60, 60), None], [person(), person()])
        cached = CachedSource(source)
        assert list(cached.failures) == [1]
        cached.image(0)
        with pytest.raises(UserError, match=r"1\.jpg"):
            cached.image(1)
        assert CropDataset(cached, 64, augmentation=None, on_error="skip")[1]["valid"] is False

    def test_pixels_cannot_be_changed_by_accident(self):
        cached = CachedSource(one())
        with pytest.raises(ValueError, match="read-only"):
            cached.image(0)[0, 0] = 0


class TestConcat:
    """Sets one after the other."""

    def test_indices_lead_to_the_right_set(self):
        a = MemorySource([smooth_image(10, 10)] * 2, [person(seed=0), person(seed=1)])
        b = MemorySource([smooth_image(11, 10)] * 3, [person(seed=s) for s in (2, 3, 4)])
        both = ConcatSource([a, b])
        assert len(both) == 5 and both.name == "memory+memory"
        for index in range(5):
            expected = (a.people + b.people)[index]
            assert both.person(index) is expected
            assert both.image(index).shape[0] == (10 if index < 2 else 11)
        assert both.image_name(2) == "0.jpg"
        with pytest.raises(IndexError):
            both.person(5)

    def test_sets_must_agree(self):
        with pytest.raises(ValueError, match=r"sources differ: memory .* demo train"):
            ConcatSource([one(), SyntheticSource(1)])
        with pytest.raises(ValueError, match="sources must not be empty"):
            ConcatSource([])
