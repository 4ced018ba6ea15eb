"""Small data for the tests of this folder: a source in memory, and folders laid out like the releases."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pyranet_fast.data.dataset import PeopleSource, Person
from pyranet_fast.errors import UserError
from pyranet_fast.metrics import PCK
from pyranet_fast.pose import LSP


class MemorySource(PeopleSource):
    """People given as images and Person records; an image that is None is corrupt."""

    skeleton = LSP
    name = "memory"
    metric = PCK

    def __init__(self, images, people):
        self.images, self.people = images, people
        self.decoded = 0

    def __len__(self):
        return len(self.images)

    def image(self, index):
        self.decoded += 1
        if self.images[index] is None:
            raise UserError(f"image {index}.jpg cannot be read")
        return self.images[index]

    def image_name(self, index):
        return f"{index}.jpg"

    def person(self, index):
        return self.people[index]

    def reference_length(self, index):
        joints = self.people[index].joints
        return float(np.linalg.norm(joints[9] - joints[2]))


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def person(center=(60.0, 50.0), scale=0.5, seed=0, labeled=None) -> Person:
    """A person whose joints lie within a crop of that center and scale."""
    rng = np.random.default_rng(seed)
    joints = np.asarray(center) + 200 * scale * rng.uniform(-0.3, 0.3, (14, 2))
    return Person(
        joints=joints.astype(np.float32),
        labeled=np.ones(14, dtype=bool) if labeled is None else labeled,
        center=np.array(center, dtype=np.float32),
        scale=scale,
    )


def write_release(root: Path, folder: str, joints: np.ndarray, count: int, digits: int) -> Path:
    """Write ``folder``/joints.mat and ``count`` images."""
    from scipy.io import savemat

    images = root / folder / "images"
    images.mkdir(parents=True)
    savemat(root / folder / "joints.mat", {"joints": joints})
    for number in range(1, count + 1):
        bgr = smooth_image(60 + number, 40, number)
        assert cv2.imwrite(str(images / f"im{number:0{digits}d}.jpg"), bgr)
    return root / folder


def lsp_joints(count: int) -> np.ndarray:
    """LSP's joints.mat: (3, 14, N), third row 1 = occluded."""
    rng = np.random.default_rng(3)
    joints = rng.uniform(2, 38, (3, 14, count))
    joints[2] = rng.integers(0, 2, (14, count))
    return joints


def lspet_joints(count: int) -> np.ndarray:
    """LSP-extended's joints.mat: (14, 3, N), third column 1 = labeled."""
    rng = np.random.default_rng(4)
    joints = rng.uniform(2, 38, (14, 3, count))
    joints[:, 2] = 1
    joints[3, :, :] = [[-30.0], [500.0], [0.0]]  # never labeled, far away
    return joints
