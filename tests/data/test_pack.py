"""Packed people are the people that were packed."""

from __future__ import annotations

import json
import warnings

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast import cli
from pyranet_fast.data import (
    Augmentation,
    CachedSource,
    ConcatSource,
    CropDataset,
    LSPExtendedSource,
    LSPSource,
    PackedSource,
    open_dataset,
)
from pyranet_fast.data import pack as command
from pyranet_fast.data.crops import ScaledCrops
from pyranet_fast.data.packed import HELD_OUT_REACH, PackedFile, write_packed
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.inference.heatmaps import SIX_SCALES
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.pose import MPII
from tests.data.coco_people import dogs
from tests.data.coco_people import write as write_coco
from tests.data.packed_people import repacked, same_labels
from tests.data.people import MemorySource, lspet_joints, person, smooth_image, write_release


def test_labels_lead_back(demo, file):
    for source, split in zip(demo, ("train", "val"), strict=True):
        packed = open_dataset(f"packed:{file}", None, split)
        assert len(packed) == len(source) and packed.available() == source.available()
        assert packed.skeleton == MPII and packed.skeleton.as_value() == "mpii" and packed.metric.key == "pckh"
        assert packed.name == f"{source.name}, packed" and packed.notes == source.notes
        ratios = [same_labels(source, packed, index) for index in range(len(source))]
        # A crop's side is 64 px in training, 128 elsewhere; the demo's people are larger.
        assert min(ratios) > (2 if split == "train" else 1)
        assert packed.detail == (64 if split == "train" else 128)


def test_pixels_lead_back():
    """Where a mark is in the picture, ``to_original`` finds it in the image."""
    image = np.full((300, 420, 3), 90, np.uint8)
    cv2.circle(image, (250, 130), 9, (255, 255, 255), -1)
    packed = repacked(MemorySource([image], [person(center=(240.0, 120.0), scale=0.7)]), input_size=64)
    bright = packed.image(0)[..., 1].astype(float) - 90
    bright[bright < 20] = 0
    y, x = np.mgrid[: bright.shape[0], : bright.shape[1]]
    middle = [(bright * x).sum() / bright.sum(), (bright * y).sum() / bright.sum()]
    np.testing.assert_allclose(packed.to_original(0, middle), (250, 130), atol=0.15)
    # The whole image's edges, by the same map.
    left, top, width, height = packed.frame(0, packed.image(0))
    edges = packed.to_original(0, [[left - 0.5, top - 0.5], [left - 0.5 + width, top - 0.5 + height]])
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [419.5, 299.5]], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "limit"),
    [({"input_size": 512, "quality": 95, "limit": None}, 1.2), ({"input_size": 128}, 5.0), ({}, 4.0)],
    ids=["JPEG alone, quality 95", "averaged down to 128 px, 5500 bytes", "defaults"],
)
def test_network_input_differs_by_loss_alone(demo, options, limit):
    """Joints are the same; the mean absolute difference of augmented crops stays below ``limit`` of 255."""
    packed = repacked(demo[0], **options)
    plain, small = (CropDataset(s, 128, augmentation=Augmentation(), seed=5) for s in (demo[0], packed))
    differences = []
    for epoch in range(3):
        for index in range(len(plain)):
            a, b = plain[(epoch, index)], small[(epoch, index)]
            torch.testing.assert_close(a["joints"], b["joints"], atol=1e-3, rtol=0)
            assert torch.equal(a["weight"], b["weight"])
            differences.append((a["image"].int() - b["image"].int()).abs().float().mean())
    assert np.mean(differences) < limit


def test_six_scales_show_the_same(demo, file):
    packed = PackedSource(file, "val")
    for index in range(len(packed)):
        a, b = (ScaledCrops(source, 64, SIX_SCALES)[index] for source in (demo[1], packed))
        difference = (a["images"].int() - b["images"].int()).abs().float().mean((1, 2, 3))
        assert difference.mean() < 2
        # The image's border, which bounds the search for the maximum, in units of the crop.
        borders = [
            torch.cat([item["frame"][:2] - 0.5 - item["center"], item["frame"][2:]]) / item["side"] for item in (a, b)
        ]
        torch.testing.assert_close(*borders, atol=3e-3, rtol=0)


def test_more_than_was_packed_is_said():
    source = MemorySource([smooth_image(300, 300)], [person(center=(150.0, 150.0), scale=0.6)])
    packed = repacked(source, input_size=64, reach=0.5)
    assert packed.reach == 0.5 and packed.detail == 64
    with pytest.raises(
        UserError, match=r"memory, packed: its images reach 0\.5 .* asks for 0\.65; use scales of at most 1 "
    ):
        ScaledCrops(packed, 64, SIX_SCALES)
    with pytest.warns(DataWarning, match=r"asks for 0\.884; the rest is gray"):
        CropDataset(packed, 64, augmentation=Augmentation())
    with pytest.warns(DataWarning, match="kept with 64 pixels along a crop's side, less than the input size 128"):
        ScaledCrops(packed, 128)
    with pytest.raises(UserError, match="its images reach"):
        ScaledCrops(CachedSource(packed), 64, SIX_SCALES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CropDataset(packed, 64, augmentation=None)
        # Images that are kept whole show all there is.
        ScaledCrops(repacked(source, input_size=128, reach=2), 64, (4.0,))
        ScaledCrops(source, 512, (4.0,))


def test_a_limit_lowers_the_quality_of_long_pictures_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    source = MemorySource([noise, smooth_image(200, 200)], [person(center=(100.0, 100.0), scale=1.0)] * 2)
    sizes = {}
    for limit in (None, 6000):
        write_packed(tmp_path / "a.pack", {"train": source}, limit=limit)
        sizes[limit] = np.diff(PackedFile(tmp_path / "a.pack").array("train/offsets")).tolist()
    assert sizes[6000][0] <= 6000 < sizes[None][0] and sizes[6000][1] == sizes[None][1]
    assert sizes[6000][0] > 5000  # the best that fits


def test_lsp_with_unlabeled_joints_and_packing_twice(tmp_path):
    joints = lspet_joints(4)
    joints[9, 2, 1] = 0  # no torso
    write_release(tmp_path, "lspet_dataset", joints, 4, 5)
    write_release(tmp_path, "lsp_dataset", np.random.default_rng(1).uniform(2, 38, (3, 14, 3)), 3, 4)
    source = ConcatSource([LSPSource(tmp_path, "1-3"), LSPExtendedSource(tmp_path)])
    write_packed(tmp_path / "one.pack", {"train": source})
    one = PackedSource(tmp_path / "one.pack", "train")
    # A picture that comes of a packed picture leads back to the image all the same.
    write_packed(tmp_path / "two.pack", {"train": one}, input_size=32, reach=0.6)
    two = PackedSource(tmp_path / "two.pack", "train")
    for packed in (one, two):
        for index in range(7):
            atol = 1e-3 if index < 3 else 1e-3 * 2  # an unlabeled joint is 500 px away
            same_labels(source, packed, index, atol)
        assert np.isnan(packed.reference_length(4)) and packed.metric.key == "pck"


def test_skeleton_and_ids_of_ones_own(tmp_path):
    root = write_coco(tmp_path, dogs())
    people = {split: open_dataset("coco:dogs.json", root, split) for split in ("train", "val", "test")}
    contents = write_packed(tmp_path / "dogs.pack", people)
    assert contents["test"] == {"same_as": "val"}
    for split, source in people.items():
        packed = PackedSource(tmp_path / "dogs.pack", split)
        assert packed.skeleton == source.skeleton and packed.metric.key == "pck-box"
        for index in range(len(source)):
            same_labels(source, packed, index)
    header = PackedFile(tmp_path / "dogs.pack").header
    assert header["splits"]["val"]["skeleton"]["flip_pairs"] and json.dumps(header)


def test_command_train_and_evaluate(tmp_path, capsys, monkeypatch):
    from pyranet_fast import evaluate, train
    from pyranet_fast.data import registry

    monkeypatch.setattr(registry, "_DEMO_COUNT", {"train": 8, "val": 3, "test": 2})
    path = tmp_path / "demo.pack"
    assert cli.run(command.main, ["--dataset", "demo", "--output", str(path), "--input-size", "64"]) == 0
    said = capsys.readouterr().out
    assert "train: 8 people of demo train; " in said and f"wrote {path}: 13 people, " in said
    assert "bytes a person" in said and "PSNR" in said
    header = PackedFile(path).header
    assert header["dataset"] == "demo" and "--input-size 64" in header["command"]

    results = {}
    for name, dataset in (("packed", f"packed:{path}"), ("whole", "demo")):
        output = tmp_path / name
        flags = [
            "--dataset", dataset, "--output", str(output), "--stacks", "1", "--features", "24", "--depth", "2",
            "--input-size", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu",
        ]  # fmt: skip
        assert cli.run(train.main, flags) == 0
        assert load_checkpoint(output / "last.pt").skeleton == "mpii"
        assert "8 people to train on, 3 to validate on" in capsys.readouterr().err
        flags = ["--checkpoint", str(tmp_path / "packed" / "last.pt"), "--dataset", dataset, "--scales", "6"]
        assert cli.run(evaluate.main, [*flags, "--device", "cpu", "--output", str(output)]) == 0
        said = capsys.readouterr().out
        assert "published" not in said
        results[name] = json.loads((output / "metrics.json").read_text())
    assert results["packed"]["count"] == results["whole"]["count"] == 2
    assert results["packed"]["settings"]["joints_outside_image"] == results["whole"]["settings"]["joints_outside_image"]

    for flags in (["--quality", "0"], ["--splits", "train,dev"], ["--bytes", "10"], ["--reach", "0.1"]):
        with pytest.raises(SystemExit) as stop:
            command.main(["--dataset", "demo", "--output", str(path), *flags])
        assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


def test_predictions_are_written_in_pixels_of_the_image(file, demo, tmp_path):
    import h5py

    from pyranet_fast.evaluation.evaluator import score_predictions
    from pyranet_fast.evaluation.report import write_predictions

    scores = []
    for folder, people in (("a", demo[1]), ("b", PackedSource(file, "val"))):
        found = np.stack([people.person(i).joints for i in range(len(people))])
        frames = np.stack([people.frame(i, people.image(i)) for i in range(len(people))])
        scores.append(score_predictions(people, found + 0.4 * people.reference_length(0), frames=frames))
        (tmp_path / folder).mkdir()
        found = np.concatenate([found, np.ones_like(found[..., :1])], -1)
        found[1] = np.nan
        write_predictions(tmp_path / folder, people, found)
    a, b = (h5py.File(tmp_path / folder / "predictions.h5")["preds"][:] for folder in "ab")
    np.testing.assert_allclose(a, b, atol=1e-3)
    assert scores[0].settings == scores[1].settings


def test_real(data_root, tmp_path):
    """LSP's test people: PCK of a wrong but fixed prediction is the same, and pictures hardly differ."""
    if not (data_root / "lsp_dataset").is_dir():
        pytest.skip("no lsp_dataset")
    from pyranet_fast.data import Subset

    source = Subset(LSPSource(data_root, "1001-"), range(0, 100, 5))
    about = write_packed(tmp_path / "a.pack", {"train": source, "val": source})
    assert about["train"]["bytes"] / 20 < 5500 and about["val"]["psnr"] > 40
    assert "same_as" not in about["val"]  # of another quality
    packed = PackedSource(tmp_path / "a.pack", "val")
    assert packed.reach == np.inf > HELD_OUT_REACH  # these images are no larger than what is kept
    for index in range(20):
        same_labels(source, packed, index)
        a, b = (CropDataset(s, 256, augmentation=None)[index]["image"].int() for s in (source, packed))
        assert (a - b).abs().float().mean() < 2
