"""Small labelled images held in memory, and their augmentation in batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAD = 4  # pixels on each side that a random crop may reach beyond the image


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size with one label each.

    Attributes:
        name: of the data set, with its part and what of it there is.
        images: (N, 3, H, W) uint8 RGB.
        labels: (N,) int64, 0 to len(classes) - 1.
        classes: names of the labels.
        mean, std: of the three channels, of values in [0, 1]; see `normalise`.
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


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, 3, H, W) uint8 to float32, (image / 255 - mean) / std by channel, on their device."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return images.float().mul_(1 / 255).sub_(shift).div_(scale)


def draw_augmentation(seed: int, epochs: npt.ArrayLike, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Offsets and mirroring of samples, from (seed, epoch, index) alone: the same on every machine and resumption.

    Args:
        seed: of the run.
        epochs, indices: (N,) of the samples.

    Returns:
        (N, 3): rows and columns that the crop is moved by, -4 to 4, and 1 where the image is mirrored, else 0.
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
    """Crops of images that are padded by 4 pixels on each side with their reflection (as Wide ResNets are trained).

    Args:
        images: (N, 3, H, W), any dtype and device, H and W of at least 5.
        drawn: (N, 3), see `draw_augmentation`.

    Returns:
        (N, 3, H, W), new.
    """
    n, _, h, w = images.shape
    if min(h, w) <= PAD:
        raise ValueError(f"images are {h}x{w} (height x width); more than {PAD} pixels of each are accepted")
    if drawn.shape != (n, 3):
        raise ValueError(f"drawn has shape {drawn.shape} for {n} images; ({n}, 3) is accepted")
    moved = torch.from_numpy(drawn).to(images.device)
    columns = torch.arange(w, device=images.device).expand(n, w)
    columns = torch.where(moved[:, 2:] != 0, w - 1 - columns, columns)
    rows = _reflect(torch.arange(h, device=images.device) + moved[:, :1], h)
    columns = _reflect(columns + moved[:, 1:2], w)
    sample = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(1, 3, 1, 1)
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(position: Tensor, size: int) -> Tensor:
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)
