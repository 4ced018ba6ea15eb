"""Renderer of rounded solids, on a layer of color and a layer of shade, and the camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..dataset import Image
from .kinematics import Point3D

Color = tuple[float, float, float]  # RGB, 0 to 255
Circle = tuple[float, float, float]  # x, y, radius in pixels
Hull = npt.NDArray[np.int32]


@dataclass
class Camera:
    """Perspective from the body's units to pixels: ``distance`` heights away, ``zoom`` pixels per height."""

    zoom: float
    distance: float
    x: float = 0.0
    y: float = 0.0

    def project(self, point: Point3D) -> tuple[float, float, float]:
        """Return x and y in pixels, and pixels per unit at that depth."""
        px = self.zoom * self.distance / (self.distance - float(point[2]))
        return self.x + px * float(point[0]), self.y - px * float(point[1]), px

    def circle(self, point: Point3D, radius: float) -> Circle:
        """Return a ball's outline."""
        x, y, px = self.project(point)
        return x, y, px * radius


_SHIFT = 4  # drawing coordinates have four fractional bits
_ANGLES = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_UNIT = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1).astype(np.float32)
# From rim to ridge: share of the radius, and brightness (128 = the surface's own color).
_RINGS = np.array([1.0, 0.83, 0.6, 0.32], dtype=np.float32)
_SHADES = np.array([86, 108, 124, 137], dtype=np.float32)


class Renderer:
    """Draws parts on an image: a layer of colors, and one of how light or dark each pixel is (128 = unchanged).

    Parts are recorded and drawn together by ``render``, so that the geometry of all of them is computed at
    once: one by one, NumPy's cost per call would be most of the time.
    """

    def __init__(self, background: Image, light: tuple[float, float], contrast: float) -> None:
        """Draw on ``background`` (H, W, 3), lit from the direction ``light`` (picture x, y)."""
        self.color = background
        self.shade: Image = np.full(background.shape[:2], 128, dtype=np.uint8)
        self._light = np.array(light, dtype=np.float32)
        self._shades = (128 + (_SHADES - 128) * contrast).tolist()
        self._groups: list[Sequence[Circle]] = []
        self._axes: list[tuple[float, float] | None] = []
        self._jobs: list[Callable[[list[Hull]], None]] = []

    def solid(
        self,
        chains: Sequence[Sequence[Circle]],
        color: Color,
        axis: Sequence[tuple[float, float]] | None = None,
        dim: float = 1.0,
        cloth: tuple[Image, npt.NDArray[np.float64]] | None = None,
    ) -> None:
        """Draw the union of convex hulls of circles, shaded like something round.

        Args:
            chains: one set of circles per hull; hulls that share a circle look joined.
            color: of the surface.
            axis: where the inner, brighter rings contract to, per hull; None is each circle's middle.
            dim: brightness of the whole part.
            cloth: a repeating tile to lay on it, and the (2, 3) map from tile pixels to picture pixels.
        """
        start = len(self._groups)
        self._groups.extend(chains)
        self._axes.extend(axis if axis is not None else [None] * len(chains))
        few = max(circle[2] for chain in chains for circle in chain) < 3.5
        levels = (0, 2) if few else range(len(_RINGS))

        def draw(hulls: list[Hull]) -> None:
            mine = hulls[start : start + len(chains)]
            for level in levels:
                value = min(255.0, self._shades[level] * dim)
                for hull in mine:
                    if level == 0:
                        cv2.fillConvexPoly(self.color, hull[0], color, cv2.LINE_AA, _SHIFT)
                    cv2.fillConvexPoly(self.shade, hull[level], value, cv2.LINE_AA, _SHIFT)
            if cloth is not None:
                self._lay([hull[0] for hull in mine], *cloth)

        self._jobs.append(draw)

    def patch(self, points: npt.NDArray[np.floating], color: Color, shade: float | None = None) -> None:
        """Draw a flat convex patch; with ``shade``, its brightness too."""
        hull = cv2.convexHull((points * (1 << _SHIFT) + 0.5).astype(np.int32))

        def draw(hulls: list[Hull]) -> None:
            cv2.fillConvexPoly(self.color, hull, color, cv2.LINE_AA, _SHIFT)
            if shade is not None:
                cv2.fillConvexPoly(self.shade, hull, shade, cv2.LINE_AA, _SHIFT)

        self._jobs.append(draw)

    def dot(self, x: float, y: float, radius: float, color: Color) -> None:
        """Draw a small flat disc."""
        scale = 1 << _SHIFT
        center, reach = (round(x * scale), round(y * scale)), max(1, round(radius * scale))

        def draw(hulls: list[Hull]) -> None:
            cv2.circle(self.color, center, reach, color, -1, cv2.LINE_AA, _SHIFT)

        self._jobs.append(draw)

    def render(self) -> Image:
        """Draw everything, in the order of the calls; return the lit image, (H, W, 3) uint8."""
        hulls = self._hulls()
        for job in self._jobs:
            job(hulls)
        shade = cv2.GaussianBlur(self.shade, (3, 3), 0)
        return cv2.multiply(self.color, cv2.merge([shade, shade, shade]), scale=1 / 128)  # type: ignore[return-value]

    def _hulls(self) -> list[Hull]:
        """Return each group's rings, (rings, points, 2) in sixteenths of a pixel."""
        most = max(len(group) for group in self._groups)
        # Groups are filled up with their last circle, which changes no hull.
        flat = [c for group in self._groups for c in (*group, *([group[-1]] * (most - len(group))))]
        circles = np.array(flat, dtype=np.float32).reshape(1, -1, most, 3)
        middle, full = circles[..., :2], circles[..., 2:]
        rings = _RINGS[:, None, None, None]
        radius = full * rings
        inner = middle + (full - radius) * (0.45 * self._light)
        for number, target in enumerate(self._axes):
            if target is not None:
                pull = np.array(target[:2], dtype=np.float32) - middle[0, number]
                inner[:, number] += pull * (1 - np.maximum(_RINGS, 0.35))[:, None, None]
        points = inner[..., None, :] + radius[..., None, :] * _UNIT
        fixed = (points * (1 << _SHIFT) + 0.5).astype(np.int32).reshape(len(_RINGS), len(self._groups), -1, 2)
        # The rim's hull serves the inner rings too: they are the same shape but for its scale.
        return [
            fixed[:, number].take(cv2.convexHull(fixed[0, number], returnPoints=False).ravel(), axis=1)
            for number in range(len(self._groups))
        ]

    def _lay(self, outlines: Sequence[Hull], tile: Image, matrix: npt.NDArray[np.float64]) -> None:
        """Repeat ``tile`` inside outlines."""
        points: Hull = np.concatenate(outlines) >> _SHIFT
        x, y, w, h = cv2.boundingRect(points)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w + 1, self.shade.shape[1]), min(y + h + 1, self.shade.shape[0])
        if right <= left or bottom <= top:
            return
        moved = matrix.copy()
        moved[:, 2] -= (left, top)
        size = (right - left, bottom - top)
        # With WRAP, warpAffine repeats the tile.
        pattern = cv2.warpAffine(tile, moved, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        mask = np.zeros((size[1], size[0]), dtype=np.uint8)
        for outline in outlines:
            shifted = outline - np.array([left << _SHIFT, top << _SHIFT], dtype=np.int32)
            cv2.fillConvexPoly(mask, shifted, 255, cv2.LINE_8, _SHIFT)
        cv2.copyTo(pattern, mask, self.color[top:bottom, left:right])
