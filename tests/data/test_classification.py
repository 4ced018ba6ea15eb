"""CIFAR-10's files, whole and broken; crops and mirroring; the colored shapes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyranet_fast.data.classification import (
    CIFAR10_CLASSES,
    CIFAR10_MEAN,
    CIFAR10_STD,
    augment,
    load_cifar10,
    load_shapes,
    normalize_by_channel,
    sample_augmentation,
)
from pyranet_fast.errors import UserError


def batch(seed: int, count: int = 20, **change: Any) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, count).tolist()
    return {b"data": data, b"labels": labels, **{name.encode(): value for name, value in change.items()}}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    for seed, name in enumerate(("data_batch_1", "data_batch_4", "test_batch")):
        write(folder / name, batch(seed))
    write(folder / "batches.meta", {b"label_names": [name.encode() for name in CIFAR10_CLASSES]})
    return tmp_path


def test_the_files_that_are_there_are_read_in_order(root: Path) -> None:
    data = load_cifar10(root, "train")
    assert data.name == "CIFAR-10 train, 40 images (2 of 5 files)" and len(data) == 40
    assert data.images.dtype == torch.uint8 and data.images.shape == (40, 3, 32, 32)
    assert data.labels.dtype == torch.int64 and data.classes == CIFAR10_CLASSES
    for part, seed in enumerate((0, 1)):
        expected = batch(seed)
        chosen = slice(20 * part, 20 * part + 20)
        assert data.labels[chosen].tolist() == expected[b"labels"]
        assert np.array_equal(data.images[chosen].numpy().reshape(20, 3072), expected[b"data"])
    test = load_cifar10(root / "cifar-10-batches-py", "test")
    assert test.name == "CIFAR-10 test, 20 images" and test.labels.tolist() == batch(2)[b"labels"]
    (root / "cifar-10-batches-py" / "batches.meta").unlink()
    assert load_cifar10(root, "test").classes == CIFAR10_CLASSES


def test_the_real_files(data_root: Path) -> None:
    if not (data_root / "cifar-10-batches-py").is_dir():
        pytest.skip("no CIFAR-10 there")
    data, test = load_cifar10(data_root, "train"), load_cifar10(data_root, "test")
    assert len(data) % 10_000 == 0 and len(test) == 10_000 and data.classes == CIFAR10_CLASSES
    assert test.labels.bincount().tolist() == [1000] * 10
    x = normalize_by_channel(test.images, CIFAR10_MEAN, CIFAR10_STD)
    assert x.mean((0, 2, 3)).abs().max() < 0.05 and (x.std((0, 2, 3)) - 1).abs().max() < 0.05


def failure(root: Path, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        load_cifar10(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folders_and_files_are_named(root: Path, tmp_path: Path) -> None:
    assert "cifar-10-batches-py does not exist" in failure(tmp_path / "none")
    with pytest.raises(UserError, match="CIFAR-10 needs --root"):
        load_cifar10(None, "train")
    folder = root / "cifar-10-batches-py"
    (folder / "test_batch").unlink()
    assert "test_batch does not exist" in failure(root)
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_4").unlink()
    assert "none of data_batch_1 to data_batch_5" in failure(root, "train")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        load_cifar10(root, "val")


@pytest.mark.parametrize("length", [0, 1, 50, 30_000, -1])
def test_a_truncated_file_is_named(root: Path, length: int) -> None:
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:length])
    assert "test_batch cannot be read: it is cut short or damaged" in failure(root)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_calls_something_is_refused_and_not_run(root: Path, tmp_path: Path) -> None:
    path = root / "cifar-10-batches-py" / "test_batch"
    write(path, {b"data": Hostile(tmp_path / "ran")})
    assert "test_batch asks for posix.mkdir" in failure(root) or os.name != "posix"
    assert not (tmp_path / "ran").exists()
    path.write_bytes(b"c__builtin__\neval\n(S'1'\ntR.")
    assert "asks for" in failure(root) and "eval" in failure(root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "is no batch of CIFAR-10: it has no data and labels"),
        ({"data": 1, "labels": 2}, "it has no data and labels"),
        (batch(0, data=[1, 2]), "data must be uint8 (N, 3072), got list"),
        (batch(0, data=np.zeros((20, 3072))), "data must be uint8 (N, 3072), got float64 (20, 3072)"),
        (batch(0, data=np.zeros((20, 3000), np.uint8)), "data must be uint8 (N, 3072), got uint8 (20, 3000)"),
        (batch(0, labels=[1.5] * 20), "labels is not a list of integers"),
        (batch(0, labels=[1] * 19), "must have one label per image, got 19 for 20"),
        (batch(0, labels=[1] * 7 + [10] + [1] * 12), "label 10 of image 7 is outside 0 to 9"),
        (batch(0, labels=[-1] * 20), "label -1 of image 0"),
    ],
)
def test_wrong_content_is_named(root: Path, content: Any, sentence: str) -> None:
    write(root / "cifar-10-batches-py" / "test_batch", content)
    assert sentence in failure(root)


def test_wrong_class_names_are_named(root: Path) -> None:
    write(root / "cifar-10-batches-py" / "batches.meta", {b"label_names": "cats"})
    assert "label_names is missing or no list" in failure(root)


def test_augmentation_depends_on_seed_epoch_and_index_alone() -> None:
    indices = np.arange(5000)
    drawn = sample_augmentation(3, np.full(5000, 7), indices)
    assert np.array_equal(sample_augmentation(3, [7, 7], [4999, 12]), drawn[[4999, 12]])
    for other in (sample_augmentation(4, np.full(5000, 7), indices), sample_augmentation(3, np.full(5000, 8), indices)):
        same = (other == drawn).mean(0)
        assert np.allclose(same, [1 / 9, 1 / 9, 1 / 2], atol=0.03)
    for axis in (0, 1):
        counts = np.bincount(drawn[:, axis] + 4, minlength=9)
        assert len(counts) == 9 and (np.abs(counts - 5000 / 9) < 100).all()
    assert 0.47 < drawn[:, 2].mean() < 0.53


def test_crops_are_those_of_a_padded_and_mirrored_image() -> None:
    images = torch.randint(0, 256, (50, 3, 12, 9), dtype=torch.uint8)
    drawn = sample_augmentation(0, np.zeros(50), np.arange(50))
    before = images.clone()
    changed = augment(images, drawn)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape and torch.equal(images, before)
    for image, (down, right, mirror), found in zip(images.numpy(), drawn, changed.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        if mirror:
            padded = padded[:, :, ::-1]
        # moved in the image's own frame: mirroring comes last
        left = 4 - right if mirror else 4 + right
        assert np.array_equal(padded[:, 4 + down : 16 + down, left : left + 9], found)
    assert torch.equal(augment(images, np.zeros((50, 3), np.int64)), images)
    with pytest.raises(ValueError, match=r"drawn must have shape .*, got \(50, 2\)"):
        augment(images, drawn[:, :2])
    with pytest.raises(ValueError, match=r"images must have more than .*, got 4x9"):
        augment(images[:, :, :4], drawn)


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR10_STD).view(
        3, 1, 1
    )
    torch.testing.assert_close(normalize_by_channel(images, CIFAR10_MEAN, CIFAR10_STD), expected.float())
    with pytest.raises(ValueError, match="images must be uint8"):
        normalize_by_channel(images.float(), CIFAR10_MEAN, CIFAR10_STD)


def test_the_colored_shapes_repeat() -> None:
    one, other = load_shapes("train"), load_shapes("test")
    assert one.images.shape == (2400, 3, 32, 32) and other.images.shape == (600, 3, 32, 32)
    assert one.labels.bincount().tolist() == [400] * 6 and other.labels.bincount().tolist() == [100] * 6
    assert torch.equal(load_shapes("train").images, one.images)
    assert not torch.equal(one.images[:600], other.images)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        load_shapes("val")
