"""Crop, scale, rotation and flip in one affine warp; color gains; normalization.

A crop square of side S = 200 * scale around ``center`` becomes ``input_size`` pixels:
input = (image - center) * input_size / S + (input_size - 1) / 2. Score maps are a quarter of
that: map = (input + 0.5) / 4 - 0.5, so that mirroring a map is map' = (W - 1) - map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ..errors import renamed
from .dataset import PIXELS_PER_SCALE, Image

# Mean of the training images (RGB, 0..1), subtracted from every input; there is no division.
MEAN = (0.4404, 0.4440, 0.4327)
MAP_STRIDE = 4
# How much smaller and larger than usual `Augmentation.resize` shows people.
RESIZE = (0.4, 2.0)

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AugmentationSample:
    """One random change, drawn from an ``Augmentation``; the default changes nothing."""

    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    empty: bool = False
    cut: bool = False
    cover: bool = False


@renamed(colour="color")
@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of a training crop, with the distributions of the authors' released code.

    The last five are off there. They imitate crops without an annotated box: see `data.absence`.

    Attributes:
        scale: s; the crop side is multiplied by 1 + s * N(0, 1), clamped to 1 - s .. 1 + s.
        rotation: r degrees; the angle is r * N(0, 1), clamped to -2r .. 2r.
        rotation_probability: probability of a rotation.
        flip: probability of mirroring.
        color: c; each channel is multiplied by an independent U(1 - c, 1 + c).
        resize: fraction of samples in which the person is scaled by another ``RESIZE[0]`` to ``RESIZE[1]``,
            log-uniformly.
        turn: fraction of samples rotated by any angle instead of ``rotation``.
        cut: fraction of samples in which the border of the image or the crop truncates the person.
        cover: fraction of samples in which an object occludes part of the person.
        empty: fraction of samples without a person.
    """

    scale: float = 0.25
    rotation: float = 30.0
    rotation_probability: float = 0.4
    flip: float = 0.5
    color: float = 0.2
    resize: float = 0.0
    turn: float = 0.0
    cut: float = 0.0
    cover: float = 0.0
    empty: float = 0.0

    def __post_init__(self) -> None:
        """Check that every setting lies within its limits."""
        limits = {
            "scale": (self.scale, 0.9),
            "rotation": (self.rotation, 90.0),
            "rotation_probability": (self.rotation_probability, 1.0),
            "flip": (self.flip, 1.0),
            "color": (self.color, 1.0),
            **{name: (getattr(self, name), 1.0) for name in ("resize", "turn", "cut", "cover", "empty")},
        }
        for name, (value, highest) in limits.items():
            if not 0 <= value <= highest:
                raise ValueError(f"{name} must lie in 0..{highest:g}, got {value}")

    @property
    def reach(self) -> float:
        """Half-width, in crop sides, of the image square that augmentation can reach."""
        angle = min(2 * self.rotation, 45.0) if self.rotation_probability > 0 else 0.0
        angle = 45.0 if self.turn else angle
        turn = math.cos(math.radians(angle)) + math.sin(math.radians(angle))
        return 0.5 * (1 + self.scale) * turn / (RESIZE[0] if self.resize else 1.0)

    def draw(self, rng: np.random.Generator) -> AugmentationSample:
        """Draw one augmentation; it consumes the same number of values from ``rng`` with any settings."""
        normals = rng.standard_normal(2)
        uniforms = rng.random(5)
        scale = 1 + self.scale * float(np.clip(normals[0], -1, 1))
        rotation = self.rotation * float(np.clip(normals[1], -2, 2))
        gains = 1 + self.color * (2 * uniforms[2:] - 1)
        rotation = rotation if uniforms[0] < self.rotation_probability else 0.0
        more = rng.random(7)  # after the others, which stay what they were before these were there
        if more[0] < self.resize:
            low, high = (math.log(times) for times in RESIZE)
            scale /= math.exp(low + float(more[1]) * (high - low))
        if more[2] < self.turn:
            rotation = 360 * float(more[3]) - 180
        return AugmentationSample(
            scale=scale,
            rotation=rotation,
            flip=bool(uniforms[1] < self.flip),
            gains=(float(gains[0]), float(gains[1]), float(gains[2])),
            cut=bool(more[4] < self.cut),
            cover=bool(more[5] < self.cover),
            empty=bool(more[6] < self.empty),
        )


@renamed(centre="center")
def crop_matrix(center: npt.ArrayLike, scale: float, rotation: float, input_size: int, flip: bool = False) -> Matrix:
    """Return the (2, 3) float64 affine map from image pixels to input pixels.

    Args:
        center: (2,) image pixels; goes to the middle of the crop.
        scale: crop side / 200 px.
        rotation: degrees, counterclockwise in the image.
        input_size: side of the crop in input pixels.
        flip: mirror left and right, last.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if input_size < 1:
        raise ValueError(f"input_size must be at least 1, got {input_size}")
    x, y = (float(v) for v in np.asarray(center, dtype=np.float64))
    zoom = input_size / (PIXELS_PER_SCALE * scale)
    cos, sin = (zoom * f(math.radians(rotation)) for f in (math.cos, math.sin))
    middle = (input_size - 1) / 2
    matrix = np.array(
        [[cos, sin, middle - cos * x - sin * y], [-sin, cos, middle + sin * x - cos * y]], dtype=np.float64
    )
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += input_size - 1
    return matrix


def transform_points(matrix: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Apply a (2, 3) affine map to points (..., 2)."""
    affine = np.asarray(matrix, dtype=np.float64)
    result: npt.NDArray[np.float64] = np.asarray(points, dtype=np.float64) @ affine[:, :2].T + affine[:, 2]
    return result


def invert(matrix: npt.ArrayLike) -> Matrix:
    """Return the inverse (2, 3) affine map."""
    (a, b, x), (c, d, y) = np.asarray(matrix, dtype=np.float64).tolist()
    det = a * d - b * c
    return np.array(
        [[d / det, -b / det, (b * y - d * x) / det], [-c / det, a / det, (c * x - a * y) / det]],
        dtype=np.float64,
    )


def to_map(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert input pixels to score-map pixels."""
    result: npt.NDArray[np.float64] = (np.asarray(points, dtype=np.float64) + 0.5) / MAP_STRIDE - 0.5
    return result


def from_map(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert score-map pixels to input pixels."""
    result: npt.NDArray[np.float64] = (np.asarray(points, dtype=np.float64) + 0.5) * MAP_STRIDE - 0.5
    return result


def crop(
    image: Image,
    matrix: Matrix,
    input_size: int,
    border: tuple[float, float, float] | None = None,
) -> Image:
    """Warp an image to the crop.

    Args:
        image: (H, W, 3) uint8 RGB.
        matrix: (2, 3), image to input pixels.
        input_size: side of the result.
        border: color outside the image, 0..255; None is the data mean.

    Returns:
        (input_size, input_size, 3) uint8. If the crop shrinks the image more than twice, its visible part is first
        averaged down by an integer factor, since bilinear taps alone would skip pixels.
    """
    color = tuple(255 * m for m in MEAN) if border is None else border
    shrink = 1 / math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    if shrink > 2:
        image, matrix = _reduced(image, matrix, input_size, math.floor(shrink))
    return cv2.warpAffine(  # type: ignore[return-value]
        image,
        matrix,
        (input_size, input_size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(round(c) for c in color),
    )


def _reduced(image: Image, matrix: Matrix, input_size: int, factor: int) -> tuple[Image, Matrix]:
    """Average the visible part of an image over about ``factor`` x ``factor`` pixels."""
    edge = (-1.0, float(input_size))
    seen = transform_points(invert(matrix), [(x, y) for x in edge for y in edge])
    height, width = image.shape[:2]
    left, top = (max(0, math.floor(v) - factor) for v in seen.min(axis=0))
    right = min(width, math.ceil(seen[:, 0].max()) + factor + 1)
    bottom = min(height, math.ceil(seen[:, 1].max()) + factor + 1)
    if right <= left or bottom <= top:  # the crop lies outside the image: all border
        return image[:1, :1], np.array([[1.0, 0.0, -9.0], [0.0, 1.0, -9.0]])
    size = (max(1, round((right - left) / factor)), max(1, round((bottom - top) / factor)))
    small = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
    # small = (image - corner + 0.5) / ratio - 0.5, put in front of the warp
    ratio = np.array([(right - left) / size[0], (bottom - top) / size[1]])
    linear = matrix[:, :2] * ratio
    shift = matrix[:, 2] + matrix[:, :2] @ (0.5 * ratio - 0.5 + np.array([left, top]))
    return np.asarray(small, dtype=np.uint8), np.column_stack([linear, shift])


def apply_gains(image: Image, gains: tuple[float, float, float]) -> Image:
    """Multiply the channels of an (H, W, 3) uint8 image, rounded and clipped to 0..255."""
    table = np.arange(256, dtype=np.float32)[:, None] * np.asarray(gains, dtype=np.float32)
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, 3))  # type: ignore[return-value]


def normalize(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Convert uint8 images (N, 3, H, W) to network input, image / 255 - mean, on their device."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    scaled = images.float().mul_(1 / 255)
    for channel, mean in enumerate(MEAN):  # numbers: copying a tensor of them to the GPU would break a CUDA graph
        scaled[:, channel] -= mean
    return scaled.to(dtype)
