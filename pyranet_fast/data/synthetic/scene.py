"""Surroundings of a person: backgrounds, occluders and camera artifacts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from ..dataset import Image

_BANK = 640


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[Image, Image]:
    """Return a smooth fractal (640, 640) and white noise (640, 640, 3) around 128, always the same."""
    rng = np.random.default_rng(20170803)
    field = np.zeros((_BANK, _BANK), dtype=np.float32)
    for cells, weight in ((5, 1.0), (11, 0.6), (26, 0.4), (64, 0.25), (160, 0.16), (320, 0.1)):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        field += weight * cv2.resize(coarse, (_BANK, _BANK), interpolation=cv2.INTER_CUBIC)
    low, high = np.percentile(field, (1, 99))
    smooth = np.clip(255 * (field - low) / (high - low), 0, 255).astype(np.uint8)
    white = np.clip(128 + 32 * rng.standard_normal((_BANK, _BANK, 3)), 0, 255).astype(np.uint8)
    return smooth, white


def background(rng: Generator, height: int, width: int) -> Image:
    """Draw a place: one surface, or wall and floor; things in it; perhaps out of focus."""
    kind = rng.random()
    image = texture(rng, height, width) if kind < 0.85 else _gradient(rng, height, width)
    if rng.random() < 0.6:
        horizon = int(height * rng.uniform(0.35, 0.95))
        tilt = rng.normal(0, 0.05) * width
        floor = texture(rng, height, width)
        mask = np.zeros((height, width), dtype=np.uint8)
        edge = np.array([[0, horizon - tilt], [width, horizon + tilt], [width, height], [0, height]])
        cv2.fillConvexPoly(mask, np.rint(edge).astype(np.int32), 255)
        cv2.copyTo(floor, mask, image)
    if rng.random() < 0.2:
        _grid(rng, image)
    for _ in range(int(rng.integers(0, 15)) if rng.random() < 0.85 else 0):
        _thing(rng, image)
    if rng.random() < 0.5:
        image = _u8(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.0)))
    return image


def texture(rng: Generator, height: int, width: int) -> Image:
    """Draw a surface: fractal noise seen through a random palette of related colors."""
    bank, _ = _noise_bank()
    zoom = rng.uniform(0.35, 2.2)
    h, w = min(_BANK, int(height * zoom)), min(_BANK, int(width * zoom))
    y, x = int(rng.integers(_BANK - h + 1)), int(rng.integers(_BANK - w + 1))
    field = cv2.resize(bank[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
    spread = rng.uniform(8, 70)
    base = rng.uniform(25, 225) + rng.normal(0, 28, 3)
    direction = rng.standard_normal((1, 3))
    stops = base + spread * direction * rng.uniform(-1, 1, (4, 1)) + rng.normal(0, 10, (4, 3))
    places = np.linspace(0, 255, 4)
    ramp = np.arange(256)
    palette = np.stack([np.interp(ramp, places, stops[:, c]) for c in range(3)], axis=-1)
    table = np.clip(palette, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    return _u8(cv2.LUT(cv2.merge([field, field, field]), table))


def _gradient(rng: Generator, height: int, width: int) -> Image:
    corners = rng.uniform(20, 240) + rng.normal(0, 40, (2, 2, 3))
    small = np.clip(corners, 0, 255).astype(np.float32)
    grown = cv2.resize(small, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    inner = grown[height // 2 : height // 2 + height, width // 2 : width // 2 + width]
    return np.asarray(inner, dtype=np.uint8)


def _grid(rng: Generator, image: Image) -> None:
    """Draw bars, tiles or a fence."""
    height, width = image.shape[:2]
    color = rng.uniform(0, 255, 3).tolist()
    step, thick = int(rng.integers(12, 48)), int(rng.integers(1, 4))
    if rng.random() < 0.7:
        for x in range(int(rng.integers(step)), width, step):
            cv2.line(image, (x, 0), (x + int(rng.integers(-2, 3)), height), color, thick, cv2.LINE_AA)
    if rng.random() < 0.6:
        for y in range(int(rng.integers(step)), height, step):
            cv2.line(image, (0, y), (width, y), color, thick, cv2.LINE_AA)


def _thing(rng: Generator, image: Image, at: tuple[float, float] | None = None, size: float | None = None) -> None:
    """Draw one object: a box, a ball, a pole or a shard, shaded a little."""
    height, width = image.shape[:2]
    x, y = at if at is not None else (rng.uniform(0, width), rng.uniform(0, height))
    reach = size if size is not None else float(np.clip(rng.lognormal(2.9, 0.6), 5, 80))
    base = rng.uniform(15, 235) + rng.normal(0, 45, 3)
    color = np.clip(base, 0, 255).tolist()
    lighter = np.clip(base * rng.uniform(0.7, 1.3), 0, 255).tolist()
    kind = int(rng.integers(4))
    turn = rng.normal(0, 12) if rng.random() < 0.7 else rng.uniform(0, 180)
    if kind == 0:
        w, h = reach * rng.uniform(0.5, 1.6, 2)
        for share, paint in ((1.0, color), (0.8, lighter)):
            box = cv2.boxPoints(((x, y), (share * w, share * h), turn))
            cv2.fillConvexPoly(image, np.rint(box * 16).astype(np.int32), paint, cv2.LINE_AA, 4)
    elif kind == 1:
        w, h = reach * rng.uniform(0.3, 1.0, 2)
        for share, paint in ((1.0, color), (0.65, lighter)):
            middle = (round(x - 0.4 * (1 - share) * w), round(y - 0.4 * (1 - share) * h))
            half = (round(share * w), round(share * h))
            cv2.ellipse(image, middle, half, turn, 0, 360, paint, -1, cv2.LINE_AA)
    elif kind == 2:  # poles and branches are what limbs are most easily mistaken for
        thick = max(1.5, reach * 0.12)
        box = cv2.boxPoints(((x, y), (thick * 2, reach * 4), turn))
        cv2.fillConvexPoly(image, np.rint(box * 16).astype(np.int32), color, cv2.LINE_AA, 4)
        box = cv2.boxPoints(((x, y), (thick, reach * 4), turn))
        cv2.fillConvexPoly(image, np.rint(box * 16).astype(np.int32), lighter, cv2.LINE_AA, 4)
    else:
        points = np.array([x, y]) + reach * rng.uniform(-1, 1, (4, 2))
        cv2.fillPoly(image, [np.rint(points * 16).astype(np.int32)], color, cv2.LINE_AA, 4)


def foreground(rng: Generator, image: Image, box: tuple[float, float, float, float], share: float) -> None:
    """Perhaps put a thing in front of the person whose joints lie in ``box`` (x0, y0, x1, y1)."""
    if rng.random() > share:
        return
    x0, y0, x1, y1 = box
    long = max(x1 - x0, y1 - y0)
    at = (rng.uniform(x0, x1), rng.uniform(y0 + 0.25 * (y1 - y0), y1))
    _thing(rng, image, at, rng.uniform(0.06, 0.15) * long)


def shadow(rng: Generator, image: Image, x: float, y: float, width: float) -> None:
    """Darken the ground under a person."""
    half = (max(2, round(0.5 * width * rng.uniform(0.8, 1.3))), max(1, round(0.09 * width)))
    top, bottom = max(0, round(y) - 4 * half[1]), min(image.shape[0], round(y) + 4 * half[1])
    if bottom - top < 3:
        return
    strip = image[top:bottom]
    mask: Image = np.full(strip.shape[:2], 255, dtype=np.uint8)
    dark = rng.uniform(110, 190)
    cv2.ellipse(mask, (round(x), round(y) - top), half, 0, 0, 360, dark, -1)
    mask = _u8(cv2.GaussianBlur(mask, (0, 0), 0.4 * half[1] + 1))
    cv2.multiply(strip, cv2.merge([mask, mask, mask]), dst=strip, scale=1 / 255)


def photograph(rng: Generator, image: Image) -> Image:
    """Add what a camera does: uneven light, exposure, contrast, color cast, blur and noise."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        light = rng.uniform(0.62, 1.25, (2, 2)).astype(np.float32) * 128
        field = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        image = _u8(cv2.multiply(image, cv2.merge([field, field, field]), scale=1 / 128))
    if rng.random() < 0.4:
        image = _u8(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1)))
    gain, bias = rng.normal(1, 0.1) * rng.normal(1, 0.05, 3), rng.normal(0, 10)
    gamma = float(np.exp(rng.normal(0, 0.18)))
    ramp = 255 * (np.arange(256) / 255.0) ** gamma
    table = np.clip(ramp[:, None] * gain + bias, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    image = _u8(cv2.LUT(image, table))
    strength = abs(rng.normal(0, 0.16))
    _, white = _noise_bank()
    y, x = int(rng.integers(_BANK - height + 1)), int(rng.integers(_BANK - width + 1))
    grain = white[y : y + height, x : x + width]
    return _u8(cv2.addWeighted(image, 1.0, grain, strength, -128 * strength))


def _u8(image: npt.NDArray[Any]) -> Image:
    """Tell the type checker what OpenCV returned; nothing is copied."""
    return np.asarray(image, dtype=np.uint8)
