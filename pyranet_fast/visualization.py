"""Drawing of poses: skeletons over images, and image grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .data.dataset import Image
from .data.transforms import crop, invert
from .keypoints import MPII, Skeleton

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# RGB; they stay apart for color-blind eyes of all kinds, and on most photographs.
COLORS = {"right": (255, 122, 20), "left": (40, 150, 255), "center": (235, 235, 235)}
_OUTLINE = (16, 16, 20)
_PAPER = (28, 28, 32)
_INK = (225, 225, 225)
_FAINT = 0.35
_SHIFT = 4  # OpenCV's drawing functions take coordinates in 1/16 pixels


def draw_pose(
    image: Image,
    joints: npt.ArrayLike,
    scores: npt.ArrayLike | None = None,
    skeleton: Skeleton = MPII,
    *,
    threshold: float = 0.2,
    long_side: tuple[int, int] | None = (512, 2048),
) -> Image:
    """Draw a skeleton over a copy of an image: right limbs orange, left limbs blue, the center white.

    Line width scales with the person. Joints with a score below ``threshold`` are hollow rings with faint limbs; NaN
    joints are not drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        joints: (K, 2), x and y in image pixels.
        scores: (K,); None: draw all joints as confident.
        skeleton: names and bones of the K joints.
        threshold: minimum score of a filled joint.
        long_side: minimum and maximum of the longer side; the image is resized to lie between them. None keeps the
            size.

    Returns:
        (H', W', 3) uint8 RGB, a new image.

    Raises:
        ValueError: invalid shape of joints or scores.
    """
    return draw_poses(image, [(joints, scores)], skeleton, threshold=threshold, long_side=long_side)


def draw_poses(
    image: Image,
    people: Sequence[tuple[npt.ArrayLike, npt.ArrayLike | None]],
    skeleton: Skeleton = MPII,
    *,
    threshold: float = 0.2,
    long_side: tuple[int, int] | None = (512, 2048),
) -> Image:
    """Draw the skeletons of several people over a copy of an image, see `draw_pose`.

    Args:
        image: (H, W, 3) uint8 RGB.
        people: joints and scores of each.
        skeleton: names and bones of the K joints.
        threshold: minimum score of a filled joint.
        long_side: see `draw_pose`.

    Returns:
        (H', W', 3) uint8 RGB, a new image.

    Raises:
        ValueError: invalid shape of joints or scores.
    """
    canvas, zoom = _resized(image, long_side)
    for joints, scores in people:
        points = np.asarray(joints, dtype=np.float64)
        if points.shape != (len(skeleton), 2):
            expected = f"({len(skeleton)}, 2) for skeleton {skeleton.name!r}"
            raise ValueError(f"joints must have shape {expected}, got {points.shape}")
        certain = np.full(len(skeleton), np.inf) if scores is None else np.asarray(scores, dtype=np.float64)
        if certain.shape != (len(skeleton),):
            raise ValueError(f"scores must have shape ({len(skeleton)},), got {certain.shape}")
        canvas = _draw_person(canvas, (points + 0.5) * zoom - 0.5, certain, skeleton, threshold)
    return canvas


def _draw_person(
    canvas: Image, points: Float64Array, certain: Float64Array, skeleton: Skeleton, threshold: float
) -> Image:
    """Draw one person in pixels of the canvas, which may be changed."""

    shown: BoolArray = np.asarray(np.isfinite(points).all(axis=1))
    solid: BoolArray = np.asarray(certain >= threshold)
    width = _line_width(points[shown], max(canvas.shape[:2]))
    # Faint things first, on a layer of their own, so that certain limbs lie above them at full strength.
    layer = canvas.copy()
    _draw_bones(layer, points, shown, skeleton, width, lambda a, b: not bool(solid[a] and solid[b]))
    canvas = np.asarray(cv2.addWeighted(layer, _FAINT, canvas, 1 - _FAINT, 0), dtype=np.uint8)
    _draw_bones(canvas, points, shown, skeleton, width, lambda a, b: bool(solid[a] and solid[b]))
    for joint in np.flatnonzero(shown):
        color = COLORS[skeleton.sides[joint]]
        _draw_joint(canvas, points[joint], color, width, bool(solid[joint]))
    return canvas


def _bone_color(skeleton: Skeleton, first: int, second: int) -> tuple[int, int, int]:
    sides = {skeleton.sides[first], skeleton.sides[second]} - {"center"}
    return COLORS[sides.pop()] if len(sides) == 1 else COLORS["center"]


def _resized(image: Image, long_side: tuple[int, int] | None) -> tuple[Image, float]:
    side = max(image.shape[:2])
    wanted = side if long_side is None else min(max(side, long_side[0]), long_side[1])
    if wanted == side:
        return image.copy(), 1.0
    zoom = wanted / side
    size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8), zoom


def _line_width(points: Float64Array, side: int) -> float:
    """Width of a limb in pixels: a fiftieth of the person, within what suits the picture."""
    person = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    return float(np.clip(person / 55, max(1.5, side / 300), max(2.5, side / 75)))


def _fixed(point: Float64Array) -> tuple[int, int]:
    # Points far outside are pulled in: OpenCV's coordinates are 32-bit.
    x, y = np.rint(np.clip(point, -30000, 60000) * (1 << _SHIFT)).astype(int)
    return int(x), int(y)


def _draw_bones(
    canvas: Image,
    points: Float64Array,
    shown: BoolArray,
    skeleton: Skeleton,
    width: float,
    wanted: Callable[[int, int], bool],
) -> None:
    bones = [(a, b) for a, b in skeleton.bones if shown[a] and shown[b] and wanted(a, b)]
    outline = max(1, round(width + max(2.0, 0.5 * width)))
    for a, b in bones:
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), _OUTLINE, outline, cv2.LINE_AA, _SHIFT)
    for a, b in bones:
        color = _bone_color(skeleton, a, b)
        ends = _fixed(points[a]), _fixed(points[b])
        cv2.line(canvas, *ends, color, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def _draw_joint(canvas: Image, point: Float64Array, color: tuple[int, int, int], width: float, solid: bool) -> None:
    def disc(radius: float, fill: tuple[int, int, int], thickness: int = -1) -> None:
        cv2.circle(canvas, _fixed(point), round(radius * (1 << _SHIFT)), fill, thickness, cv2.LINE_AA, _SHIFT)

    radius = 0.85 * width + 0.8
    line = max(1, round(0.35 * width))
    if solid:
        disc(radius + max(1.0, 0.3 * width), _OUTLINE)
        disc(radius, (255, 255, 255))
        disc(0.65 * radius, color)
    else:
        disc(radius, _OUTLINE, line + 2)
        disc(radius, color, line)


def draw_crop(image: Image, heatmap_to_image: npt.ArrayLike, map_size: int, side: int = 256) -> Image:
    """Return the network's view of a person: the square of its score maps, rotated like the crop.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap_to_image: (2, 3), affine map from pixels of the score maps to pixels of the image.
        map_size: side of the score maps.
        side: of the result.

    Returns:
        (side, side, 3) uint8 RGB; gray outside the image.
    """
    zoom = side / map_size
    to_map = invert(heatmap_to_image)
    matrix = zoom * to_map
    matrix[:, 2] += (zoom - 1) / 2
    return crop(image, matrix, side)


def draw_heatmaps(
    image: Image,
    heatmaps: npt.NDArray[np.float32],
    heatmap_to_image: npt.ArrayLike,
    skeleton: Skeleton = MPII,
    *,
    joints: Sequence[int] | None = None,
    cell: int = 192,
) -> Image:
    """Draw one cell per joint with the crop, the score map over it, and name and peak below.

    All cells share one color scale, from 0 to the larger of 1 and the highest peak, so that low confidence stays dark.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmaps: (K, h, w).
        heatmap_to_image: (2, 3), affine map from their pixels to those of the image.
        skeleton: names of the K joints.
        joints: indices of the joints to show; None: all.
        cell: side of a cell in pixels.

    Returns:
        (rows, columns, 3) uint8 RGB.

    Raises:
        ValueError: wrong number of maps.
    """
    if heatmaps.ndim != 3 or len(heatmaps) != len(skeleton):
        raise ValueError(f"heatmaps has shape {heatmaps.shape}; expected ({len(skeleton)}, h, w)")
    shown = list(range(len(skeleton))) if joints is None else list(joints)
    # A dim gray ground leaves the colors to the maps.
    ground = draw_crop(image, heatmap_to_image, heatmaps.shape[2], cell)
    gray = 0.55 * cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    top = max(1.0, float(heatmaps.max()))
    cells, captions = [], []
    for joint in shown:
        share = np.clip(cv2.resize(heatmaps[joint], (cell, cell), interpolation=cv2.INTER_LINEAR) / top, 0, 1)
        colors = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
        alpha = np.sqrt(share)[..., None]  # faint answers are to be seen, too
        cells.append(np.clip((1 - alpha) * gray + alpha * colors, 0, 255).astype(np.uint8))
        captions.append(f"{skeleton.joints[joint]} {heatmaps[joint].max():.2f}")
    return contact_sheet(cells, columns=min(6, len(cells)), cell=cell, captions=captions)


def contact_sheet(
    images: Sequence[Image], columns: int, cell: int = 256, captions: Sequence[str] | None = None
) -> Image:
    """Arrange images in a grid of square cells, each resized to fit without distortion.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes; at least one.
        columns: cells in a row.
        cell: side of a cell in pixels.
        captions: one line of text per image.

    Returns:
        (rows, columns x cells, 3) uint8 RGB.

    Raises:
        ValueError: no images, columns or cell below 1, or a wrong number of captions.
    """
    if len(images) == 0:
        raise ValueError("images is empty; a contact sheet needs at least one image")
    if columns < 1 or cell < 1:
        raise ValueError(f"columns is {columns} and cell is {cell}; both must be at least 1")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must have one line per image, got {len(captions)} for {len(images)} images")
    columns = min(columns, len(images))
    gap, strip = max(2, cell // 64), 0 if captions is None else max(14, cell // 12)
    rows = -(-len(images) // columns)
    sheet = np.empty((rows * (cell + strip + gap) + gap, columns * (cell + gap) + gap, 3), np.uint8)
    sheet[:] = _PAPER
    for index, image in enumerate(images):
        top = gap + (index // columns) * (cell + strip + gap)
        left = gap + (index % columns) * (cell + gap)
        small, _ = _resized(image, (cell, cell))
        height, width = small.shape[:2]
        y, x = top + (cell - height) // 2, left + (cell - width) // 2
        sheet[y : y + height, x : x + width] = small
        if captions is not None:
            _write(sheet[top + cell : top + cell + strip, left : left + cell], captions[index])
    return sheet


def _write(strip: Image, text: str) -> None:
    """One line of text, shortened to the strip's width. OpenCV's font has ASCII only."""
    text = text.encode("ascii", "replace").decode()
    height, width = strip.shape[:2]
    font, size = cv2.FONT_HERSHEY_SIMPLEX, height / 46
    while len(text) > 1 and cv2.getTextSize(text, font, size, 1)[0][0] > width - 4:
        text = text.removesuffix("..")[:-1] + ".." if len(text) > 4 else text[:-1]
    ink = np.ascontiguousarray(strip)
    cv2.putText(ink, text, (2, round(0.72 * height)), font, size, _INK, 1, cv2.LINE_AA)
    strip[:] = ink


def fitted(image: Image, long_side: int) -> Image:
    """The (H, W, 3) image, reduced where its longer side is above ``long_side``, to even sizes."""
    zoom = min(1.0, long_side / max(image.shape[:2]))
    size = tuple(max(2, round(side * zoom) // 2 * 2) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
