"""Drawing a posed body: limbs and clothes, from far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pyranet_fast.data.synthetic.canvas import Canvas, Circle
from pyranet_fast.data.synthetic.head import Head
from pyranet_fast.data.synthetic.kinematics import Body, Vector
from pyranet_fast.data.synthetic.look import Look
from pyranet_fast.data.synthetic.view import View

_SIDES = ("left", "right")


class Figure:
    """A body, its look and its view, ready to be drawn."""

    def __init__(self, body: Body, look: Look, view: View) -> None:
        """Compute what all parts share."""
        self.body, self.look, self.view = body, look, view
        self.head = Head(body, look, view)

    def draw(self, canvas: Canvas) -> None:
        """Draw every part, the farthest first."""
        p = self.body.points
        depth = self._depths()
        # What lies on the torso is nearer than its middle: limbs get a little credit.
        parts: list[tuple[float, Callable[[Canvas], None]]] = [
            (depth["torso"], self._torso),
            (depth["neck"] - 0.012, self._neck),
            (depth["head"], self.head.draw),
        ]
        if self.look.hair_style in ("long", "bun"):
            behind = p["head"] + self.body.head @ np.array([0, -0.02, -0.09])
            parts.append((float(behind[2]), self.head.draw_hair))
        for side in _SIDES:
            parts.append((depth[side + "_arm"], partial(self._upper_arm, side=side)))
            parts.append((depth[side + "_forearm"], partial(self._forearm, side=side)))
            parts.append((depth[side + "_thigh"], partial(self._thigh, side=side)))
            parts.append((depth[side + "_shank"], partial(self._shank, side=side)))
        if self.look.legs == "skirt":
            nearest = max(depth["left_thigh"], depth["right_thigh"])
            parts.append((nearest + 0.001, self._skirt))
        for _, part in sorted(parts, key=lambda item: item[0]):
            part(canvas)

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
        balls = [self.view.circle(a + t * (b - a), radius * girth) for t, radius in profile]
        return [list(pair) for pair in pairwise(balls)]

    def _neck(self, canvas: Canvas) -> None:
        p, girth = self.body.points, self.body.proportions.girth
        low = self.view.circle(p["thorax"], 0.03 * girth)
        top = self.view.circle(p["upper_neck"] + 0.25 * (p["head"] - p["upper_neck"]), 0.028 * girth)
        canvas.solid([[low, top]], self.look.skin, dim=0.9)

    def _torso(self, canvas: Canvas) -> None:
        body, look, girth = self.body, self.look, self.body.proportions.girth
        p = body.points
        width = body.proportions.shoulder / 0.108
        chest_at = p["waist"] + 0.55 * (p["thorax"] - p["waist"])

        def pair(
            at: Vector, frame: npt.NDArray[np.float64], out: float, radius: float, down: float = 0.0
        ) -> list[Circle]:
            ball = radius * girth
            return [self.view.circle(at + frame @ np.array([sign * out, down, 0.0]), ball) for sign in (-1.0, 1.0)]

        shoulders = [
            self.view.circle(
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
        canvas.solid([[*hips, *seat]], look.bottom)
        neck_base = self.view.circle(p["thorax"] + 0.3 * (p["upper_neck"] - p["thorax"]), 0.026 * girth)
        canvas.solid(
            [[*shoulders, *chest, neck_base], [*chest, *waist], [*waist, *hem]],
            look.shirt,
            axis=[self.view.project(at)[:2] for at in (chest_at, 0.5 * (chest_at + p["waist"]), p["waist"])],
            cloth=None if look.tile is None else (look.tile, self._cloth_matrix()),
        )
        # The neckline: a patch of skin below the throat, seen from the front only.
        front = body.chest @ np.array([0.0, 0.1, 1.0])
        if front[2] > 0.25:
            outline = [(-0.026, 0.024), (0.026, 0.024), (0.012, -0.012), (0.0, -0.026), (-0.012, -0.012)]
            points = [
                self.view.project(p["thorax"] + body.chest @ np.array([x, y, 0.036 * girth]))[:2] for x, y in outline
            ]
            canvas.patch(np.array(points), look.skin)

    def _cloth_matrix(self) -> npt.NDArray[np.float64]:
        """Map tile pixels to the torso: across from hip to hip, up along the spine."""
        body = self.body
        x, y, px = self.view.project(body.points["waist"])
        unit = px / 160  # a tile of 32 px covers a fifth of the height
        across, up = body.chest[:, 0], body.chest[:, 1]
        squeeze = np.array([[across[0], -up[0]], [-across[1], up[1]]]) * unit
        if abs(np.linalg.det(squeeze)) < 0.15 * unit * unit:
            # Seen edge-on: do not stretch threads into streaks.
            squeeze = np.array([[up[1], -up[0]], [up[0], up[1]]]) * unit * 0.7
        return np.column_stack([squeeze, [x, y]])

    def _upper_arm(self, canvas: Canvas, side: str) -> None:
        look = self.look
        ends = f"{side}_shoulder", f"{side}_elbow"
        if look.sleeves == "long":
            canvas.solid(self._limb(*ends, (0, 0.037), (0.4, 0.034), (1, 0.027)), look.shirt)
            return
        canvas.solid(self._limb(*ends, (0, 0.034), (0.4, 0.031), (1, 0.023)), look.skin)
        if look.sleeves == "short":
            canvas.solid(self._limb(*ends, (0, 0.039), (0.5, 0.037 * (0.85 + 0.15 * look.loose))), look.shirt)

    def _forearm(self, canvas: Canvas, side: str) -> None:
        look = self.look
        hand = self._limb(f"{side}_wrist", f"{side}_hand", (0.05, 0.017), (0.5, 0.022), (1, 0.014))
        canvas.solid(hand, look.skin)
        ends = f"{side}_elbow", f"{side}_wrist"
        if look.sleeves == "long":
            canvas.solid(self._limb(*ends, (0, 0.028), (0.3, 0.028), (0.95, 0.021)), look.shirt)
        else:
            canvas.solid(self._limb(*ends, (0, 0.023), (0.25, 0.025), (1, 0.015)), look.skin)

    def _thigh(self, canvas: Canvas, side: str) -> None:
        look = self.look
        ends = f"{side}_hip", f"{side}_knee"
        if look.legs == "trousers":
            canvas.solid(self._limb(*ends, (0, 0.058), (0.4, 0.054), (1, 0.038 * look.loose)), look.bottom)
            return
        canvas.solid(self._limb(*ends, (0, 0.055), (0.4, 0.05), (1, 0.034)), look.skin)
        if look.legs == "shorts":
            canvas.solid(self._limb(*ends, (0, 0.06), (0.35 + 0.3 * look.loose, 0.046 * look.loose)), look.bottom)

    def _shank(self, canvas: Canvas, side: str) -> None:
        look = self.look
        foot = [
            self.view.circle(self.body.points[f"{side}_{end}"], radius)
            for end, radius in (("heel", 0.021), ("toe", 0.018))
        ]
        instep = self.view.circle(self.body.points[f"{side}_ankle"], 0.021)
        canvas.solid([[*foot, instep]], look.shoes)
        ends = f"{side}_knee", f"{side}_ankle"
        if look.legs == "trousers":
            wide = 0.5 + 0.5 * look.loose
            canvas.solid(
                self._limb(*ends, (0, 0.038 * look.loose), (0.35, 0.038 * look.loose), (0.97, 0.029 * wide)),
                look.bottom,
            )
            return
        canvas.solid(self._limb(*ends, (0, 0.034), (0.28, 0.037), (0.6, 0.03), (1, 0.019)), look.skin)
        canvas.solid(self._limb(*ends, (0.8, 0.023), (1, 0.021)), look.socks)

    def _skirt(self, canvas: Canvas) -> None:
        p, girth = self.body.points, self.body.proportions.girth
        waist = self.view.circle(p["pelvis"] + 0.2 * (p["waist"] - p["pelvis"]), 0.07 * girth)
        hem = [
            self.view.circle(p[f"{s}_hip"] + 0.75 * (p[f"{s}_knee"] - p[f"{s}_hip"]), 0.055 * self.look.loose)
            for s in _SIDES
        ]
        canvas.solid([[waist, *hem]], self.look.bottom)
