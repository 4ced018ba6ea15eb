"""Datasets of small labeled images held in memory, and their augmentation in batches.

CIFAR-10 is read from its original pickles without executing them; the colored shapes are synthetic, to try
classification without a download.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UserError

PAD = 4  # pixels on each side that a random crop may reach beyond the image


@dataclass(frozen=True)
class LabeledImages:
    """Images of one size with one label each.

    Attributes:
        name: dataset, split and number of images.
        images: (N, 3, H, W) uint8 RGB.
        labels: (N,) int64, 0 to len(classes) - 1.
        classes: names of the labels.
        mean, std: per channel, of values in [0, 1]; see `normalize_by_channel`.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


def normalize_by_channel(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalize (N, 3, H, W) uint8 to float32 by channel, (image / 255 - mean) / std, on their device."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return images.float().mul_(1 / 255).sub_(shift).div_(scale)


def sample_augmentation(seed: int, epochs: npt.ArrayLike, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Draw offsets and mirroring of samples from (seed, epoch, index), reproducible on resuming.

    Args:
        seed: seed of the run.
        epochs, indices: (N,) epoch and index of the samples.

    Returns:
        (N, 3): row and column offset of the crop, -4 to 4, and 1 for mirrored images, else 0.
    """
    # A generator for each image would cost more than the crop; a counter-based hash gives all of a batch at once.
    state = _mix(np.asarray(seed, np.uint64))
    for part in (np.asarray(epochs, np.uint64), np.asarray(indices, np.uint64)):
        state = _mix(state ^ part)
    span = np.uint64(2 * PAD + 1)
    low, middle = state & np.uint64(0xFFFFFF), (state >> np.uint64(24)) & np.uint64(0xFFFFFF)
    drawn = np.stack([low % span, middle % span, state >> np.uint64(63)], axis=-1).astype(np.int64)
    drawn[..., :2] -= PAD
    return drawn


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes half of the output's."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def augment(images: Tensor, drawn: npt.NDArray[np.int64]) -> Tensor:
    """Crop images padded by 4 reflected pixels on each side, as for Wide ResNets.

    Args:
        images: (N, 3, H, W), any dtype and device, H and W of at least 5.
        drawn: (N, 3), see `sample_augmentation`.

    Returns:
        (N, 3, H, W), new.
    """
    n, _, h, w = images.shape
    if min(h, w) <= PAD:
        raise ValueError(f"images must have more than {PAD} pixels in height and width, got {h}x{w}")
    if drawn.shape != (n, 3):
        raise ValueError(f"drawn must have shape ({n}, 3), got {drawn.shape}")
    moved = torch.from_numpy(drawn).to(images.device)
    columns = torch.arange(w, device=images.device).expand(n, w)
    columns = torch.where(moved[:, 2:] != 0, w - 1 - columns, columns)
    rows = _reflect(torch.arange(h, device=images.device) + moved[:, :1], h)
    columns = _reflect(columns + moved[:, 1:2], w)
    sample = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(1, 3, 1, 1)
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(position: Tensor, size: int) -> Tensor:
    """Positions beyond an edge, mirrored at it."""
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)


# CIFAR-10 (Krizhevsky, 2009).

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of all 50,000 training images: the same constants for every part, so that networks can be exchanged.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def load_cifar10(root: str | Path | None, split: str) -> LabeledImages:
    """Read a split of CIFAR-10.

    Args:
        root: folder that contains ``cifar-10-batches-py/``, or that folder itself.
        split: ``"train"``: all existing files data_batch_1 to data_batch_5 (the name gives the number of images);
            ``"test"``: test_batch.

    Raises:
        UserError: no such folder or file, or a file that is truncated, corrupt, or not a CIFAR-10 batch.
        ValueError: an unknown split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    folder = find_cifar10_folder(root)
    if split == "train":
        files = [folder / name for name in CIFAR10_TRAINING if (folder / name).is_file()]
        if not files:
            raise UserError(f"{folder} has none of data_batch_1 to data_batch_5, CIFAR-10's training images")
    else:
        files = [folder / "test_batch"]
    classes = read_cifar10_classes(folder / "batches.meta")
    parts = [read_cifar10_batch(file, len(classes)) for file in files]
    images = torch.from_numpy(np.concatenate([images for images, _ in parts]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    name = f"CIFAR-10 {split}, {len(images)} images"
    if split == "train" and len(files) < len(CIFAR10_TRAINING):
        name += f" ({len(files)} of {len(CIFAR10_TRAINING)} files)"
    return LabeledImages(name, images, labels, classes, CIFAR10_MEAN, CIFAR10_STD)


def find_cifar10_folder(root: str | Path | None) -> Path:
    """Return the folder of the batches in (or at) a root."""
    if root is None:
        raise UserError(f"CIFAR-10 needs --root, the folder that contains {CIFAR10_FOLDER}/")
    root = Path(root)
    if (root / CIFAR10_FOLDER).is_dir():
        return root / CIFAR10_FOLDER
    if root.is_dir() and any((root / name).is_file() for name in (*CIFAR10_TRAINING, "test_batch")):
        return root
    raise UserError(f"folder {root / CIFAR10_FOLDER} does not exist; it comes out of cifar-10-python.tar.gz")


def read_cifar10_batch(
    path: Path, classes: int = len(CIFAR10_CLASSES)
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read images (N, 3, 32, 32) RGB and labels (N,) of one file.

    Raises:
        UserError: see `load_cifar10`.
    """
    content = safe_unpickle(path)
    if not isinstance(content, dict) or b"data" not in content or b"labels" not in content:
        raise UserError(f"{path} is no batch of CIFAR-10: it has no data and labels")
    data, labels = content[b"data"], content[b"labels"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserError(f"{path} is no batch of CIFAR-10: data must be uint8 (N, 3072), got {found}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is no batch of CIFAR-10: labels is not a list of integers")
    if len(labels) != len(data) or not labels:
        raise UserError(f"{path} must have one label per image, got {len(labels)} for {len(data)}")
    wrong = next((i for i, label in enumerate(labels) if not 0 <= label < classes), None)
    if wrong is not None:
        raise UserError(f"{path}: label {labels[wrong]} of image {wrong} is outside 0 to {classes - 1}")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32)), np.array(labels, dtype=np.int64)


def read_cifar10_classes(path: Path) -> tuple[str, ...]:
    """Read the class names in batches.meta, or return CIFAR-10's if it is missing."""
    if not path.is_file():
        return CIFAR10_CLASSES
    content = safe_unpickle(path)
    names = content.get(b"label_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{path} does not hold the names of CIFAR-10's classes: label_names is missing or no list")
    return tuple(name.decode("ascii", "replace") for name in names)


# Pickles of plain data.


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes under protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # it has moved between NumPy's versions
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


class _Refused(Exception):
    """The pickle asks for something that data do not need."""


class _SafeUnpickler(pickle.Unpickler):
    """Builds arrays, numbers, text and containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def safe_unpickle(path: Path) -> Any:
    """Read a pickle of arrays and plain values without executing code; Python 2 strings become bytes.

    Raises:
        UserError: no such file; truncated or corrupt; or it contains code (not executed).
    """
    try:
        with path.open("rb") as file:
            return _SafeUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError:
        raise
    except _Refused as error:
        raise UserError(f"{path} asks for {error}, which images do not need: it was not executed") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} cannot be read: it is cut short or damaged") from error


# Colored shapes.

SHAPES = ("disc", "ring", "square", "triangle", "cross", "bars")
SHAPE_SIDE = 32
SHAPE_COUNTS = {"train": 2400, "test": 600}
_SHIFT = 4  # OpenCV's drawing functions take coordinates in 1/16 pixels


def load_shapes(split: str) -> LabeledImages:
    """Generate 32x32 images of one shape each, with random color, size and position, on a noisy background.

    Args:
        split: ``"train"`` (2,400 images) or ``"test"`` (600 others); deterministic.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SHAPE_COUNTS:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    rng = np.random.default_rng((1708, list(SHAPE_COUNTS).index(split)))
    labels = rng.permutation(np.arange(SHAPE_COUNTS[split]) % len(SHAPES))
    pictures = np.stack([draw_shape(SHAPES[label], rng) for label in labels])
    images = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    name = f"colored shapes {split}, {len(images)} images"
    return LabeledImages(name, images, torch.from_numpy(labels.astype(np.int64)), SHAPES, (0.5,) * 3, (0.25,) * 3)


def draw_shape(shape: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one image (32, 32, 3) uint8."""
    color, ground = rng.uniform(0, 255, (2, 3))
    if np.abs(color - ground).max() < 90:  # too alike to see
        color = (ground + 128) % 256
    mask = np.zeros((SHAPE_SIDE, SHAPE_SIDE), np.uint8)
    radius = rng.uniform(6, 12)
    center = rng.uniform(radius + 1, SHAPE_SIDE - radius - 2, 2)
    _draw(mask, shape, center, radius, rng.uniform(-0.25, 0.25))
    share = mask[:, :, None] / 255.0
    picture = ground + rng.normal(0, 18, (SHAPE_SIDE, SHAPE_SIDE, 3)) + share * (color - ground)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _draw(mask: npt.NDArray[np.uint8], shape: str, center: npt.NDArray[np.float64], radius: float, turn: float) -> None:
    """A shape in white, turned by some radians."""
    scale = 1 << _SHIFT
    middle = (round(center[0] * scale), round(center[1] * scale))
    if shape in ("disc", "ring"):
        outer = round(radius * scale)
        cv2.circle(mask, middle, outer, 255, -1, cv2.LINE_AA, _SHIFT)
        if shape == "ring":
            cv2.circle(mask, middle, round(0.55 * outer), 0, -1, cv2.LINE_AA, _SHIFT)
        return
    box = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    parts = {
        "square": [0.85 * box],
        "triangle": [np.array([(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)])],
        "cross": [box * (1.0, 0.3), box * (0.3, 1.0)],
        "bars": [box * (1.0, 0.2) + (0.0, y) for y in (-0.75, 0.0, 0.75)],
    }[shape]
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    for part in parts:
        corners = np.round((part @ rotation * radius + center) * scale).astype(np.int32)
        cv2.fillConvexPoly(mask, corners, 255, cv2.LINE_AA, _SHIFT)
