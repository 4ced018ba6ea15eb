"""The camera."""

from __future__ import annotations

from dataclasses import dataclass

from pyranet_fast.data.synthetic.canvas import Circle
from pyranet_fast.data.synthetic.kinematics import Vector


@dataclass
class View:
    """How the body's units become pixels: a camera ``distance`` heights away, ``zoom`` px per height."""

    zoom: float
    distance: float
    x: float = 0.0
    y: float = 0.0

    def project(self, point: Vector) -> tuple[float, float, float]:
        """Return x and y in pixels, and pixels per unit at that depth."""
        px = self.zoom * self.distance / (self.distance - float(point[2]))
        return self.x + px * float(point[0]), self.y - px * float(point[1]), px

    def circle(self, point: Vector, radius: float) -> Circle:
        """Return a ball's outline."""
        x, y, px = self.project(point)
        return x, y, px * radius
