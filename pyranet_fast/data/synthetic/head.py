"""Drawing a head: an ellipsoid with hair, a face, perhaps a hat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyranet_fast.data.synthetic.canvas import Canvas, Colour
from pyranet_fast.data.synthetic.kinematics import Body
from pyranet_fast.data.synthetic.look import Look, rgb
from pyranet_fast.data.synthetic.view import View

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
    """The head of a posed body as the camera sees it."""

    def __init__(self, body: Body, look: Look, view: View) -> None:
        """Compute what all parts share."""
        self.body, self.look, self.view = body, look, view
        # Half-axes of the skull (left, up, forward), a little under the joint on its top.
        self.axes = np.array([0.355, 0.5, 0.43]) * body.proportions.head

    def box(self) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of the box around the skull."""
        outline = self._skull(1.0)
        low, high = outline.min(axis=0), outline.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def draw_hair(self, canvas: Canvas) -> None:
        """Long hair or a bun: behind the head as the body sees it."""
        at, turn, size = self.body.points["head"], self.body.head, self.body.proportions.head
        if self.look.hair_style == "bun":
            ball = self.view.circle(at + turn @ np.array([0, 0.25, -0.5]) * size, 0.2 * size)
            canvas.solid([[ball]], self.look.hair)
            return
        spots = ((0, 0.1, -0.12, 0.42), (0.22, -0.55, -0.25, 0.2), (-0.22, -0.55, -0.25, 0.2))
        balls = [self.view.circle(at + turn @ np.array([x, y, z]) * size, r * size) for x, y, z, r in spots]
        canvas.solid([balls], self.look.hair)

    def draw(self, canvas: Canvas) -> None:
        """Draw skull, hair that lies on it, face and hat."""
        look, turn = self.look, self.body.head
        x, y, px = self.view.project(self.body.points["head"])
        size = px * self.body.proportions.head
        bald = look.hair_style == "bald"
        skull = self._skull(1.0 if bald else 1.04)
        shade = 112.0
        canvas.patch(skull, look.skin if bald else look.hair, shade)
        canvas.patch(0.8 * skull + 0.2 * skull.mean(axis=0), look.skin if bald else look.hair, 122.0)

        def surface(direction: tuple[float, float, float], out: float = 1.0) -> tuple[float, float, float]:
            """Return x, y and how far a point of the head faces the camera."""
            point = turn @ (np.array(direction) * self.axes * out)
            return x + px * point[0], y - px * point[1], float((turn @ np.array(direction))[2])

        for sign in (-1.0, 1.0):
            ex, ey, facing = surface((sign, -0.08, -0.05))
            if facing > -0.5 and look.hair_style != "long":
                canvas.dot(ex, ey, 0.07 * size, look.skin)
        face = self._visible(_FACE, 0.99)
        if len(face) >= 3:
            canvas.patch(face, look.skin, 126.0)
            canvas.patch(0.7 * face + 0.3 * face.mean(axis=0), look.skin, 134.0)
        dark: Colour = (40.0, 30.0, 28.0)
        for sign in (-1.0, 1.0):
            ex, ey, facing = surface((sign * 0.42, 0.02, 0.88))
            if facing > 0.2:
                canvas.dot(ex, ey, 0.05 * size, dark)
        nose = surface((0, -0.25, 1.0), 1.12)
        if nose[2] > -0.15:
            canvas.dot(nose[0], nose[1], 0.05 * size, rgb(np.array(look.skin) * 0.86))
        for sign in (-0.16, 0.0, 0.16):
            mx, my, facing = surface((sign, -0.58, 0.8))
            if facing > 0.2:
                canvas.dot(mx, my, 0.032 * size, (150.0, 62.0, 58.0))
        if look.hair_style == "hat":
            self._hat(canvas)

    def _hat(self, canvas: Canvas) -> None:
        x, y, px = self.view.project(self.body.points["head"])
        brim = np.array([(-0.75, 0.42, 0.6), (0.75, 0.42, 0.6), (0.5, 0.34, 1.75), (-0.5, 0.34, 1.75), (0, 0.34, 1.9)])
        points = (brim * self.axes * 1.08) @ self.body.head.T
        flat = points[:, :2] * (px, -px) + (x, y)
        crown = self._visible(_HAT, 1.12)
        if points[2:, 2].mean() < 0:  # the brim points away
            canvas.patch(flat, rgb(np.array(self.look.hat) * 0.8), 120.0)
        if len(crown) >= 3:
            canvas.patch(crown, self.look.hat, 118.0)
            canvas.patch(0.7 * crown + 0.3 * crown.mean(axis=0), self.look.hat, 132.0)
        if points[2:, 2].mean() >= 0:
            canvas.patch(flat, rgb(np.array(self.look.hat) * 0.8), 120.0)

    def _skull(self, grow: float) -> npt.NDArray[np.float64]:
        """Outline of the head's ellipsoid, in pixels."""
        x, y, px = self.view.project(self.body.points["head"])
        half = (px * grow) * (self.body.head[:2] * self.axes)
        half[1] = -half[1]
        root = np.linalg.cholesky(half @ half.T)
        outline: npt.NDArray[np.float64] = (root @ _CIRCLE).T + np.array([x, y])
        return outline

    def _visible(self, directions: npt.NDArray[np.float64], grow: float) -> npt.NDArray[np.float64]:
        """Project those points of the head's surface that face the camera, (M, 2)."""
        x, y, px = self.view.project(self.body.points["head"])
        normals = (directions / self.axes) @ self.body.head.T
        points = px * grow * ((directions * self.axes) @ self.body.head.T)[normals[:, 2] >= 0]
        return points[:, :2] * (1, -1) + (x, y)
