"""What people wear and look like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from pyranet_fast.data.synthetic.canvas import Colour
from pyranet_fast.data.synthetic.kinematics import Rng

_SKIN = np.array(
    [
        (255, 224, 196),
        (241, 194, 160),
        (224, 172, 132),
        (198, 140, 100),
        (156, 103, 68),
        (112, 72, 48),
        (78, 50, 36),
    ],
    dtype=np.float64,
)
_HAIR = (
    (30, 24, 20),
    (60, 40, 26),
    (98, 66, 38),
    (150, 108, 60),
    (206, 172, 112),
    (132, 60, 32),
    (150, 148, 146),
)


@dataclass
class Look:
    """What somebody wears and looks like; colours are RGB."""

    skin: Colour
    hair: Colour
    hair_style: Literal["short", "long", "bald", "hat", "bun"]
    hat: Colour
    shirt: Colour
    tile: npt.NDArray[np.uint8] | None
    sleeves: Literal["none", "short", "long"]
    bottom: Colour
    legs: Literal["shorts", "trousers", "skirt"]
    loose: float
    shoes: Colour
    socks: Colour


def draw_look(rng: Rng) -> Look:
    """Draw clothes, skin and hair."""
    at = rng.uniform(0, len(_SKIN) - 1)
    low = int(at)
    skin = _SKIN[low] + (at - low) * (_SKIN[low + 1] - _SKIN[low])
    shirt = _fabric(rng)
    legs = ("trousers", "shorts", "skirt")[int(rng.choice(3, p=(0.55, 0.33, 0.12)))]
    bottom = shirt if rng.random() < 0.12 else _fabric(rng, dark=0.5)
    tile = None
    if rng.random() < 0.45:
        tile = _tile(rng, shirt)
    style = ("short", "long", "bald", "hat", "bun")[int(rng.choice(5, p=(0.48, 0.2, 0.07, 0.17, 0.08)))]
    hair = np.array(_HAIR[int(rng.integers(len(_HAIR)))]) * rng.uniform(0.8, 1.25)
    return Look(
        skin=rgb(skin * rng.uniform(0.92, 1.05)),
        hair=rgb(hair),
        hair_style=style,  # type: ignore[arg-type]
        hat=_fabric(rng),
        shirt=shirt,
        tile=tile,
        sleeves=("none", "short", "long")[int(rng.choice(3, p=(0.2, 0.45, 0.35)))],
        bottom=bottom,
        legs=legs,  # type: ignore[arg-type]
        loose=float(rng.uniform(1.02, 1.3)),
        shoes=_fabric(rng, dark=0.5),
        socks=(235.0, 235.0, 232.0) if rng.random() < 0.5 else _fabric(rng),
    )


def rgb(values: Iterable[float]) -> Colour:
    """Clip to 0..255."""
    r, g, b = (min(max(float(value), 0.0), 255.0) for value in values)
    return r, g, b


def _fabric(rng: Rng, dark: float = 0.3) -> Colour:
    """Draw a cloth's colour: often dark, white or grey, else of any hue."""
    if rng.random() < dark:
        return rgb(rng.uniform(18, 75) + rng.normal(0, 9, 3))
    if rng.random() < 0.25:
        return rgb(rng.uniform(170, 245) + rng.normal(0, 6, 3))
    pixel = np.array([[[rng.integers(180), rng.integers(70, 235), rng.integers(80, 235)]]], dtype=np.uint8)
    return rgb(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])


def _tile(rng: Rng, base: Colour) -> npt.NDArray[np.uint8]:
    """Draw a 32 x 32 repeating pattern: stripes either way, checks, dots."""
    tile = np.empty((32, 32, 3), dtype=np.uint8)
    tile[:] = base
    other = np.array(_fabric(rng), dtype=np.uint8)
    period, start = int(rng.choice((8, 16, 32))), int(rng.integers(8))
    band = (np.arange(32) + start) % period < max(2, period * rng.uniform(0.25, 0.6))
    kind = int(rng.integers(5))
    if kind in (0, 4):
        tile[band] = other
    elif kind == 1:
        tile[:, band] = other
    elif kind == 2:
        tile[band[:, None] ^ band[None, :]] = other
    else:
        for corner in ((8, 8), (24, 24)):
            cv2.circle(tile, corner, int(rng.integers(3, 7)), other.tolist(), -1, cv2.LINE_AA)
    return tile
