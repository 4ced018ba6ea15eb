"""Drawing of a posed body, part by part from far to near: limbs, clothes and head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from .kinematics import Body, Point3D
from .renderer import Camera, Circle, Color, Renderer

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
class Appearance:
    """Clothes, skin and hair."""

    skin: Color
    hair: Color
    hair_style: Literal["short", "long", "bald", "hat", "bun"]
    hat: Color
    shirt: Color
    tile: npt.NDArray[np.uint8] | None
    sleeves: Literal["none", "short", "long"]
    bottom: Color
    legs: Literal["shorts", "trousers", "skirt"]
    loose: float
    shoes: Color
    socks: Color


def sample_appearance(rng: Generator) -> Appearance:
    """Draw clothes, skin and hair at random."""
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
    return Appearance(
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


def rgb(values: Iterable[float]) -> Color:
    """Clip to 0..255."""
    r, g, b = (min(max(float(value), 0.0), 255.0) for value in values)
    return r, g, b


def _fabric(rng: Generator, dark: float = 0.3) -> Color:
    """Draw a cloth's color: often dark, white or gray, else of any hue."""
    if rng.random() < dark:
        return rgb(rng.uniform(18, 75) + rng.normal(0, 9, 3))
    if rng.random() < 0.25:
        return rgb(rng.uniform(170, 245) + rng.normal(0, 6, 3))
    pixel = np.array([[[rng.integers(180), rng.integers(70, 235), rng.integers(80, 235)]]], dtype=np.uint8)
    return rgb(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])


def _tile(rng: Generator, base: Color) -> npt.NDArray[np.uint8]:
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


# Directions on the head: the face is a cap around slightly below straight ahead; hats cover the top.
_TURNS = np.linspace(0, 2 * np.pi, 14, endpoint=False)


def _cap(axis: tuple[float, float, float], degrees: float) -> npt.NDArray[np.float64]:
    """Unit directions that fill a cap, rings included."""
    middle = np.array(axis) / np.linalg.norm(axis)
    side = np.cross(middle, (1.0, 0.0, 0.0))
    side /= np.linalg.norm(side)
    up = np.cross(middle, side)
    rings = [middle[None]]
    for angle in np.radians(np.linspace(degrees / 3, degrees, 3)):
        around = np.cos(_TURNS)[:, None] * side + np.sin(_TURNS)[:, None] * up
        rings.append(np.cos(angle) * middle + np.sin(angle) * around)
    return np.concatenate(rings)


_FACE = _cap((0, -0.28, 1), 58)
_HAT = _cap((0, 1, -0.1), 68)
_CIRCLE = np.stack([np.cos(_TURNS), np.sin(_TURNS)])


class Head:
    """The head of a posed body: an ellipsoid with hair, a face, perhaps a hat."""

    def __init__(self, body: Body, appearance: Appearance, camera: Camera) -> None:
        """Compute what all parts share."""
        self.body, self.appearance, self.camera = body, appearance, camera
        # Half-axes of the skull (left, up, forward), a little under the joint on its top.
        self.axes = np.array([0.355, 0.5, 0.43]) * body.proportions.head

    def box(self) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of the box around the skull."""
        outline = self._skull(1.0)
        low, high = outline.min(axis=0), outline.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def draw_hair(self, renderer: Renderer) -> None:
        """Long hair or a bun: behind the head as the body sees it."""
        at, turn, size = self.body.points["head"], self.body.head, self.body.proportions.head
        if self.appearance.hair_style == "bun":
            ball = self.camera.circle(at + turn @ np.array([0, 0.25, -0.5]) * size, 0.2 * size)
            renderer.solid([[ball]], self.appearance.hair)
            return
        spots = ((0, 0.1, -0.12, 0.42), (0.22, -0.55, -0.25, 0.2), (-0.22, -0.55, -0.25, 0.2))
        balls = [self.camera.circle(at + turn @ np.array([x, y, z]) * size, r * size) for x, y, z, r in spots]
        renderer.solid([balls], self.appearance.hair)

    def draw(self, renderer: Renderer) -> None:
        """Draw skull, hair that lies on it, face and hat."""
        appearance, turn = self.appearance, self.body.head
        x, y, px = self.camera.project(self.body.points["head"])
        size = px * self.body.proportions.head
        bald = appearance.hair_style == "bald"
        skull = self._skull(1.0 if bald else 1.04)
        shade = 112.0
        renderer.patch(skull, appearance.skin if bald else appearance.hair, shade)
        renderer.patch(0.8 * skull + 0.2 * skull.mean(axis=0), appearance.skin if bald else appearance.hair, 122.0)

        def surface(direction: tuple[float, float, float], out: float = 1.0) -> tuple[float, float, float]:
            """Return x, y and how far a point of the head faces the camera."""
            point = turn @ (np.array(direction) * self.axes * out)
            return x + px * point[0], y - px * point[1], float((turn @ np.array(direction))[2])

        for sign in (-1.0, 1.0):
            ex, ey, facing = surface((sign, -0.08, -0.05))
            if facing > -0.5 and appearance.hair_style != "long":
                renderer.dot(ex, ey, 0.07 * size, appearance.skin)
        face = self._visible(_FACE, 0.99)
        if len(face) >= 3:
            renderer.patch(face, appearance.skin, 126.0)
            renderer.patch(0.7 * face + 0.3 * face.mean(axis=0), appearance.skin, 134.0)
        dark: Color = (40.0, 30.0, 28.0)
        for sign in (-1.0, 1.0):
            ex, ey, facing = surface((sign * 0.42, 0.02, 0.88))
            if facing > 0.2:
                renderer.dot(ex, ey, 0.05 * size, dark)
        nose = surface((0, -0.25, 1.0), 1.12)
        if nose[2] > -0.15:
            renderer.dot(nose[0], nose[1], 0.05 * size, rgb(np.array(appearance.skin) * 0.86))
        for sign in (-0.16, 0.0, 0.16):
            mx, my, facing = surface((sign, -0.58, 0.8))
            if facing > 0.2:
                renderer.dot(mx, my, 0.032 * size, (150.0, 62.0, 58.0))
        if appearance.hair_style == "hat":
            self._hat(renderer)

    def _hat(self, renderer: Renderer) -> None:
        x, y, px = self.camera.project(self.body.points["head"])
        brim = np.array([(-0.75, 0.42, 0.6), (0.75, 0.42, 0.6), (0.5, 0.34, 1.75), (-0.5, 0.34, 1.75), (0, 0.34, 1.9)])
        points = (brim * self.axes * 1.08) @ self.body.head.T
        flat = points[:, :2] * (px, -px) + (x, y)
        crown = self._visible(_HAT, 1.12)
        if points[2:, 2].mean() < 0:  # the brim points away
            renderer.patch(flat, rgb(np.array(self.appearance.hat) * 0.8), 120.0)
        if len(crown) >= 3:
            renderer.patch(crown, self.appearance.hat, 118.0)
            renderer.patch(0.7 * crown + 0.3 * crown.mean(axis=0), self.appearance.hat, 132.0)
        if points[2:, 2].mean() >= 0:
            renderer.patch(flat, rgb(np.array(self.appearance.hat) * 0.8), 120.0)

    def _skull(self, grow: float) -> npt.NDArray[np.float64]:
        """Outline of the head's ellipsoid, in pixels."""
        x, y, px = self.camera.project(self.body.points["head"])
        half = (px * grow) * (self.body.head[:2] * self.axes)
        half[1] = -half[1]
        root = np.linalg.cholesky(half @ half.T)
        outline: npt.NDArray[np.float64] = (root @ _CIRCLE).T + np.array([x, y])
        return outline

    def _visible(self, directions: npt.NDArray[np.float64], grow: float) -> npt.NDArray[np.float64]:
        """Project those points of the head's surface that face the camera, (M, 2)."""
        x, y, px = self.camera.project(self.body.points["head"])
        normals = (directions / self.axes) @ self.body.head.T
        points = px * grow * ((directions * self.axes) @ self.body.head.T)[normals[:, 2] >= 0]
        return points[:, :2] * (1, -1) + (x, y)


_SIDES = ("left", "right")


class Figure:
    """A posed body with an appearance, as the camera sees it."""

    def __init__(self, body: Body, appearance: Appearance, camera: Camera) -> None:
        """Compute what all parts share."""
        self.body, self.appearance, self.camera = body, appearance, camera
        self.head = Head(body, appearance, camera)

    def draw(self, renderer: Renderer) -> None:
        """Draw every part, the farthest first."""
        p = self.body.points
        depth = self._depths()
        # What lies on the torso is nearer than its middle: limbs get a little credit.
        parts: list[tuple[float, Callable[[Renderer], None]]] = [
            (depth["torso"], self._torso),
            (depth["neck"] - 0.012, self._neck),
            (depth["head"], self.head.draw),
        ]
        if self.appearance.hair_style in ("long", "bun"):
            behind = p["head"] + self.body.head @ np.array([0, -0.02, -0.09])
            parts.append((float(behind[2]), self.head.draw_hair))
        for side in _SIDES:
            parts.append((depth[side + "_arm"], partial(self._upper_arm, side=side)))
            parts.append((depth[side + "_forearm"], partial(self._forearm, side=side)))
            parts.append((depth[side + "_thigh"], partial(self._thigh, side=side)))
            parts.append((depth[side + "_shank"], partial(self._shank, side=side)))
        if self.appearance.legs == "skirt":
            nearest = max(depth["left_thigh"], depth["right_thigh"])
            parts.append((nearest + 0.001, self._skirt))
        for _, part in sorted(parts, key=lambda item: item[0]):
            part(renderer)

    def _depths(self) -> dict[str, float]:
        p = self.body.points

        def z(*names: str) -> float:
            return sum(float(p[name][2]) for name in names) / len(names)

        depth = {"torso": z("pelvis", "thorax"), "neck": z("upper_neck", "thorax"), "head": z("head") + 0.03}
        for side in _SIDES:
            depth[side + "_arm"] = z(f"{side}_shoulder", f"{side}_elbow") + 0.035
            depth[side + "_forearm"] = z(f"{side}_elbow", f"{side}_wrist") + 0.04
            depth[side + "_thigh"] = z(f"{side}_hip", f"{side}_knee") - 0.03
            depth[side + "_shank"] = z(f"{side}_knee", f"{side}_ankle") - 0.032
        return depth

    def _limb(self, start: str, end: str, *profile: tuple[float, float]) -> list[list[Circle]]:
        """Return hulls between consecutive balls; ``profile`` is (where between the joints, radius)."""
        a, b = self.body.points[start], self.body.points[end]
        girth = self.body.proportions.girth
        balls = [self.camera.circle(a + t * (b - a), radius * girth) for t, radius in profile]
        return [list(pair) for pair in pairwise(balls)]

    def _neck(self, renderer: Renderer) -> None:
        p, girth = self.body.points, self.body.proportions.girth
        low = self.camera.circle(p["thorax"], 0.03 * girth)
        top = self.camera.circle(p["upper_neck"] + 0.25 * (p["head"] - p["upper_neck"]), 0.028 * girth)
        renderer.solid([[low, top]], self.appearance.skin, dim=0.9)

    def _torso(self, renderer: Renderer) -> None:
        body, appearance, girth = self.body, self.appearance, self.body.proportions.girth
        p = body.points
        width = body.proportions.shoulder / 0.108
        chest_at = p["waist"] + 0.55 * (p["thorax"] - p["waist"])

        def pair(
            at: Point3D, frame: npt.NDArray[np.float64], out: float, radius: float, down: float = 0.0
        ) -> list[Circle]:
            ball = radius * girth
            return [self.camera.circle(at + frame @ np.array([sign * out, down, 0.0]), ball) for sign in (-1.0, 1.0)]

        shoulders = [
            self.camera.circle(
                p["thorax"] + 0.72 * (p[f"{side}_shoulder"] - p["thorax"]) - 0.01 * body.chest[:, 1],
                0.042 * girth,
            )
            for side in _SIDES
        ]
        chest = pair(chest_at, body.chest, 0.046 * width * girth, 0.06)
        waist = pair(p["waist"], body.pelvis, 0.03 * girth, 0.056)
        hips = pair(p["pelvis"], body.pelvis, 0.038 * girth, 0.06, 0.012)
        seat = pair(p["pelvis"], body.pelvis, 0.034 * girth, 0.06, -0.015)
        hem = pair(p["pelvis"], body.pelvis, 0.036 * girth, 0.063, 0.03)
        renderer.solid([[*hips, *seat]], appearance.bottom)
        neck_base = self.camera.circle(p["thorax"] + 0.3 * (p["upper_neck"] - p["thorax"]), 0.026 * girth)
        renderer.solid(
            [[*shoulders, *chest, neck_base], [*chest, *waist], [*waist, *hem]],
            appearance.shirt,
            axis=[self.camera.project(at)[:2] for at in (chest_at, 0.5 * (chest_at + p["waist"]), p["waist"])],
            cloth=None if appearance.tile is None else (appearance.tile, self._cloth_matrix()),
        )
        # The neckline: a patch of skin below the throat, seen from the front only.
        front = body.chest @ np.array([0.0, 0.1, 1.0])
        if front[2] > 0.25:
            outline = [(-0.026, 0.024), (0.026, 0.024), (0.012, -0.012), (0.0, -0.026), (-0.012, -0.012)]
            points = [
                self.camera.project(p["thorax"] + body.chest @ np.array([x, y, 0.036 * girth]))[:2] for x, y in outline
            ]
            renderer.patch(np.array(points), appearance.skin)

    def _cloth_matrix(self) -> npt.NDArray[np.float64]:
        """Map tile pixels to the torso: across from hip to hip, up along the spine."""
        body = self.body
        x, y, px = self.camera.project(body.points["waist"])
        unit = px / 160  # a tile of 32 px covers a fifth of the height
        across, up = body.chest[:, 0], body.chest[:, 1]
        squeeze = np.array([[across[0], -up[0]], [-across[1], up[1]]]) * unit
        if abs(np.linalg.det(squeeze)) < 0.15 * unit * unit:
            # Seen edge-on: do not stretch threads into streaks.
            squeeze = np.array([[up[1], -up[0]], [up[0], up[1]]]) * unit * 0.7
        return np.column_stack([squeeze, [x, y]])

    def _upper_arm(self, renderer: Renderer, side: str) -> None:
        appearance = self.appearance
        ends = f"{side}_shoulder", f"{side}_elbow"
        if appearance.sleeves == "long":
            renderer.solid(self._limb(*ends, (0, 0.037), (0.4, 0.034), (1, 0.027)), appearance.shirt)
            return
        renderer.solid(self._limb(*ends, (0, 0.034), (0.4, 0.031), (1, 0.023)), appearance.skin)
        if appearance.sleeves == "short":
            renderer.solid(
                self._limb(*ends, (0, 0.039), (0.5, 0.037 * (0.85 + 0.15 * appearance.loose))), appearance.shirt
            )

    def _forearm(self, renderer: Renderer, side: str) -> None:
        appearance = self.appearance
        hand = self._limb(f"{side}_wrist", f"{side}_hand", (0.05, 0.017), (0.5, 0.022), (1, 0.014))
        renderer.solid(hand, appearance.skin)
        ends = f"{side}_elbow", f"{side}_wrist"
        if appearance.sleeves == "long":
            renderer.solid(self._limb(*ends, (0, 0.028), (0.3, 0.028), (0.95, 0.021)), appearance.shirt)
        else:
            renderer.solid(self._limb(*ends, (0, 0.023), (0.25, 0.025), (1, 0.015)), appearance.skin)

    def _thigh(self, renderer: Renderer, side: str) -> None:
        appearance = self.appearance
        ends = f"{side}_hip", f"{side}_knee"
        if appearance.legs == "trousers":
            renderer.solid(
                self._limb(*ends, (0, 0.058), (0.4, 0.054), (1, 0.038 * appearance.loose)), appearance.bottom
            )
            return
        renderer.solid(self._limb(*ends, (0, 0.055), (0.4, 0.05), (1, 0.034)), appearance.skin)
        if appearance.legs == "shorts":
            renderer.solid(
                self._limb(*ends, (0, 0.06), (0.35 + 0.3 * appearance.loose, 0.046 * appearance.loose)),
                appearance.bottom,
            )

    def _shank(self, renderer: Renderer, side: str) -> None:
        appearance = self.appearance
        foot = [
            self.camera.circle(self.body.points[f"{side}_{end}"], radius)
            for end, radius in (("heel", 0.021), ("toe", 0.018))
        ]
        instep = self.camera.circle(self.body.points[f"{side}_ankle"], 0.021)
        renderer.solid([[*foot, instep]], appearance.shoes)
        ends = f"{side}_knee", f"{side}_ankle"
        if appearance.legs == "trousers":
            wide = 0.5 + 0.5 * appearance.loose
            renderer.solid(
                self._limb(
                    *ends, (0, 0.038 * appearance.loose), (0.35, 0.038 * appearance.loose), (0.97, 0.029 * wide)
                ),
                appearance.bottom,
            )
            return
        renderer.solid(self._limb(*ends, (0, 0.034), (0.28, 0.037), (0.6, 0.03), (1, 0.019)), appearance.skin)
        renderer.solid(self._limb(*ends, (0.8, 0.023), (1, 0.021)), appearance.socks)

    def _skirt(self, renderer: Renderer) -> None:
        p, girth = self.body.points, self.body.proportions.girth
        waist = self.camera.circle(p["pelvis"] + 0.2 * (p["waist"] - p["pelvis"]), 0.07 * girth)
        hem = [
            self.camera.circle(p[f"{s}_hip"] + 0.75 * (p[f"{s}_knee"] - p[f"{s}_hip"]), 0.055 * self.appearance.loose)
            for s in _SIDES
        ]
        renderer.solid([[waist, *hem]], self.appearance.bottom)
