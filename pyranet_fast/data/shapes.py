"""Coloured shapes: a small synthetic data set for trying classification without a download."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch

from .labelled import LabelledImages

CLASSES = ("disc", "ring", "square", "triangle", "cross", "bars")
SIDE = 32
COUNTS = {"train": 2400, "test": 600}
_SHIFT = 4  # OpenCV's drawing functions take coordinates in 1/16 pixels


def load_shapes(split: str) -> LabelledImages:
    """32x32 pictures of one shape each, in random colours, sizes and places, on a noisy background.

    Args:
        split: ``"train"`` (2,400 pictures) or ``"test"`` (600 others); always the same ones.

    Raises:
        ValueError: an unknown split.
    """
    if split not in COUNTS:
        raise ValueError(f"split is {split!r}; 'train' and 'test' are accepted")
    rng = np.random.default_rng((1708, list(COUNTS).index(split)))
    labels = rng.permutation(np.arange(COUNTS[split]) % len(CLASSES))
    pictures = np.stack([draw_shape(CLASSES[label], rng) for label in labels])
    images = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    name = f"coloured shapes {split}, {len(images)} images"
    return LabelledImages(name, images, torch.from_numpy(labels.astype(np.int64)), CLASSES, (0.5,) * 3, (0.25,) * 3)


def draw_shape(shape: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One picture (32, 32, 3) uint8."""
    colour, ground = rng.uniform(0, 255, (2, 3))
    if np.abs(colour - ground).max() < 90:  # too alike to see
        colour = (ground + 128) % 256
    mask = np.zeros((SIDE, SIDE), np.uint8)
    radius = rng.uniform(6, 12)
    centre = rng.uniform(radius + 1, SIDE - radius - 2, 2)
    _draw(mask, shape, centre, radius, rng.uniform(-0.25, 0.25))
    share = mask[:, :, None] / 255.0
    picture = ground + rng.normal(0, 18, (SIDE, SIDE, 3)) + share * (colour - ground)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _draw(mask: npt.NDArray[np.uint8], shape: str, centre: npt.NDArray[np.float64], radius: float, turn: float) -> None:
    """A shape in white, turned by some radians."""
    scale = 1 << _SHIFT
    middle = (round(centre[0] * scale), round(centre[1] * scale))
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
        corners = np.round((part @ rotation * radius + centre) * scale).astype(np.int32)
        cv2.fillConvexPoly(mask, corners, 255, cv2.LINE_AA, _SHIFT)
