"""Dataset of synthetic people: person i is a function of (seed, split, i)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from ...keypoints import MPII
from ...metrics import PCKH
from ..dataset import PIXELS_PER_SCALE, Image, PeopleSource, Person, digest_of
from . import scene
from .figure import Figure, sample_appearance
from .kinematics import MPII_POINTS, build, sample_pose, sample_proportions
from .renderer import Camera, Renderer

_HEIGHT = 256
_WIDEST = 384
_SPLITS = {"train": 0, "val": 1, "test": 2}
# The joints' box fills this share of the crop, whose side is never below this share of the standing height.
_FILL = 0.75
_STANDING = 0.85
# People cached after they were rendered; more than the threads that may ask at once.
_RECENT = 64


@dataclass
class _Rendered:
    image: Image
    person: Person
    head_size: float


class SyntheticSource(PeopleSource):
    """Rendered people with MPII's 16 joints.

    Images are 256 px high and show one entire person. All joints are labeled, occluded ones too. Person i is a
    function of (seed, split, i) alone, the same in every process; the splits of one seed are disjoint. The metric is
    PCKh with the rendered head's size, 0.6 times the diagonal of its box.
    """

    skeleton = MPII
    metric = dataclasses.replace(PCKH, published=())  # no figure of real people stands beside them

    def __init__(self, count: int, seed: int = 0, *, split: str = "train", variety: float = 1.0) -> None:
        """Describe ``count`` people; images are rendered on access.

        Below 1, ``variety`` makes unusual poses and views, and things in front of the person, that much rarer.

        Raises:
            ValueError: count below 1, a negative seed, a split that is not train, val or test, or a variety outside
                0..1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        if not 0 <= variety <= 1:
            raise ValueError(f"variety must lie in 0..1, got {variety}")
        self.count, self.seed, self.split, self.variety = count, seed, split, variety
        self.name = f"demo {split}"
        # A sample asks for image and labels one after the other: the last few stay in memory.
        self._recent: OrderedDict[int, _Rendered] = OrderedDict()

    def __len__(self) -> int:
        return self.count

    def _get(self, index: int) -> _Rendered:
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1} of {self.name}")
        found = self._recent.get(index)
        if found is None:
            found = _render(np.random.default_rng((self.seed, _SPLITS[self.split], index)), self.variety)
            self._recent[index] = found
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return found

    def image(self, index: int) -> Image:
        return self._get(index).image

    def image_name(self, index: int) -> str:
        return f"{self.split}-{self.seed}-{index:06d}"

    def digest(self, index: int) -> bytes:
        return digest_of(self.image_name(index), self.variety)

    def person(self, index: int) -> Person:
        return self._get(index).person

    def reference_length(self, index: int) -> float:
        return self._get(index).head_size


def _render(rng: np.random.Generator, variety: float) -> _Rendered:
    body = build(sample_pose(rng, variety), sample_proportions(rng), camera_pitch=float(rng.normal(4, 7)))
    appearance = sample_appearance(rng)
    # Every point of the body decides how large it is drawn, joints alone where it is cropped.
    camera = Camera(zoom=1.0, distance=float(rng.uniform(3.5, 9.0)))
    points = np.array([camera.project(point)[:2] for point in body.points.values()])
    low, high = points.min(axis=0) - 0.03, points.max(axis=0) + 0.03
    extent = high - low
    zoom = _HEIGHT * rng.uniform(0.6, 0.94) / max(extent[1], extent[0] * 0.8)
    camera.zoom = float(zoom)
    needed = zoom * extent[0]
    width = int(np.clip(max(rng.uniform(150, 290), needed * rng.uniform(1.08, 1.6)), needed + 6, _WIDEST))
    room = np.array([width, _HEIGHT]) - zoom * extent
    corner = room * rng.uniform(0.05, 0.95, 2)
    camera.x, camera.y = (float(v) for v in corner - zoom * low)

    figure = Figure(body, appearance, camera)
    joints = np.array([camera.project(body.points[name])[:2] for name in MPII_POINTS])
    box_low, box_high = joints.min(axis=0), joints.max(axis=0)
    place = scene.background(rng, _HEIGHT, width)
    if rng.random() < 0.5:
        feet = joints[[0, 5]]
        scene.shadow(rng, place, float(feet[:, 0].mean()), float(box_high[1] + 0.03 * zoom), 0.35 * zoom)
    angle = rng.uniform(-np.pi, 0)  # light comes from above
    light = (float(np.cos(angle)), float(np.sin(angle)))
    renderer = Renderer(place, light, contrast=float(rng.uniform(0.6, 1.25)))
    figure.draw(renderer)
    image = renderer.render()
    scene.foreground(rng, image, (*box_low.tolist(), *box_high.tolist()), 0.28 * variety)
    image = scene.photograph(rng, image)

    box = float((box_high - box_low).max())
    side = max(box / _FILL, _STANDING * zoom) * float(np.clip(rng.normal(1, 0.03), 0.92, 1.08))
    center = (box_low + box_high) / 2 + rng.normal(0, 0.012 * side, 2)
    x0, y0, x1, y1 = figure.head.box()
    person = Person(
        joints=joints.astype(np.float32),
        labeled=np.ones(len(MPII), dtype=bool),
        center=center.astype(np.float32),
        scale=side / PIXELS_PER_SCALE,
    )
    return _Rendered(image, person, 0.6 * float(np.hypot(x1 - x0, y1 - y0)))
