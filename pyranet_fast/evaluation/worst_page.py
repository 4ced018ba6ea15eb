"""HTML page of the worst predictions."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import cv2
import numpy as np
import numpy.typing as npt

from ..data.dataset import PIXELS_PER_SCALE, Image, PeopleSource, Person
from ..data.image_io import write_image
from ..errors import UserError
from ..io import atomic_write
from ..keypoints import Skeleton
from ..metrics import BoolArray, Float64Array, relative_errors
from ..visualization import COLORS, draw_pose

_SIDE = 448  # pixels of a picture
_PICTURES = "worst"
_TRUTH = (255, 255, 255)
_DARK = (16, 16, 20)
_MISS = (255, 60, 200)
_TEMPLATE = Path(__file__).with_name("worst_page.html")
_SHIFT = 4  # OpenCV's drawing functions take coordinates in 1/16 pixels


@dataclass(frozen=True)
class Worst:
    """One person of the page.

    Attributes:
        index: of the person in the source, from 0.
        error: mean over the joints that were scored, in units of the metric; infinite where one has no prediction.
        joint: name of the joint with the greatest error.
        joint_error: of that joint, in units of the metric.
        image: name of the image.
        picture: path relative to the page, or None where the image cannot be read.
        reason: why there is no picture; empty where there is one.
    """

    index: int
    error: float
    joint: str
    joint_error: float
    image: str
    picture: str | None
    reason: str = ""


def people_errors(people: PeopleSource, predictions: npt.ArrayLike) -> Float64Array:
    """Error of every joint in units of the source's metric.

    Args:
        people: truth and units of length.
        predictions: (N, K, 2 or 3), x and y in the pixels of ``people.image(i)``.

    Returns:
        (N, K): infinite where there is no prediction, NaN where a joint is not labeled or the person has no unit
        of length or cannot be read.

    Raises:
        ValueError: predictions of another shape.
    """
    points = _checked(people, predictions)
    truth = np.full_like(points, np.nan)
    lengths = np.full(len(people), np.nan)
    for index in range(len(people)):
        try:
            person = people.person(index)
            lengths[index] = people.reference_length(index)
        except (UserError, OSError):
            continue
        truth[index] = np.where(person.labeled[:, None], person.joints, np.nan)
    return relative_errors(points, truth, lengths)


def worst_page(
    folder: str | Path,
    people: PeopleSource,
    predictions: npt.ArrayLike,
    errors: npt.ArrayLike,
    count: int = 24,
) -> list[Worst]:
    """Write ``worst.html`` and its pictures into a folder: the people with the greatest mean error, worst first.

    The page links to its pictures relatively and needs no network. A picture shows the square around the person
    with the prediction in colors, the truth in thin white lines, and a line from the worst joint's prediction to
    where it belongs. A person whose image cannot be read becomes a line.

    Args:
        folder: made where it does not exist; older pictures of such a page in it are replaced.
        people: who was predicted.
        predictions: (N, K, 2 or 3), x and y in the pixels of ``people.image(i)``, and perhaps the score.
        errors: (N, K) in units of the metric, as ``people_errors`` gives them: NaN where a joint does not count,
            infinite where it has no prediction. People of whom no joint counts are not shown.
        count: how many people at most.

    Returns:
        What the page shows, in its order.

    Raises:
        ValueError: shapes that do not agree with ``people``, or a count below 1.
        OSError: the folder cannot be written to.
    """
    points = _checked(people, predictions)
    values = np.asarray(errors, dtype=np.float64)
    if values.shape != points.shape[:2]:
        raise ValueError(f"errors must have shape {points.shape[:2]} for these predictions, got {values.shape}")
    if count < 1:
        raise ValueError(f"count must be a positive integer, got {count}")
    folder = Path(folder)
    (folder / _PICTURES).mkdir(parents=True, exist_ok=True)
    counts: BoolArray = ~np.isnan(values)
    ranked = [int(i) for i in np.argsort(-mean_errors(values), kind="stable") if counts[i].any()][:count]
    shown = [_one(folder, people, points[i], values[i], i, rank) for rank, i in enumerate(ranked, 1)]
    kept = {entry.picture for entry in shown}
    for old in (folder / _PICTURES).glob("[0-9][0-9][0-9]*.jpg"):
        if f"{_PICTURES}/{old.name}" not in kept:
            old.unlink()
    page = _page(people, shown, values)
    atomic_write(folder / "worst.html", lambda file: file.write(page.encode()))
    return shown


def _checked(people: PeopleSource, predictions: npt.ArrayLike) -> Float64Array:
    points = np.asarray(predictions, dtype=np.float64)
    wanted = (len(people), len(people.skeleton))
    if points.ndim != 3 or points.shape[:2] != wanted or points.shape[2] not in (2, 3):
        raise ValueError(
            f"predictions must have shape ({wanted[0]}, {wanted[1]}, 2 or 3) for {people.name}, got {points.shape}"
        )
    return points[..., :2]


def mean_errors(errors: Float64Array) -> Float64Array:
    """Mean over the last axis of what is not NaN; 0 where everything is."""
    known = ~np.isnan(errors)
    return np.asarray(np.where(known, errors, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1))


def _one(
    folder: Path, people: PeopleSource, points: Float64Array, errors: Float64Array, index: int, rank: int
) -> Worst:
    joint = int(np.nanargmax(errors))
    try:
        name = people.image_name(index)
    except (UserError, OSError):
        name = "?"
    picture, reason = None, ""
    try:
        image, person = people.image(index), people.person(index)
    except (UserError, OSError) as error:
        reason = str(error)
    else:
        picture = f"{_PICTURES}/{rank:03d}.jpg"
        write_image(folder / picture, person_picture(image, person, points, people.skeleton, joint))
    found = float(mean_errors(errors)), people.skeleton.joints[joint], float(errors[joint])
    return Worst(index, *found, image=name, picture=picture, reason=reason)


def person_picture(
    image: Image, person: Person, points: Float64Array, skeleton: Skeleton, joint: int, pixels: int = _SIDE
) -> Image:
    """The square around a person, with the predicted pose, the true one in thin white, and the miss of one joint.

    Args:
        image: (H, W, 3) uint8 RGB.
        person: the truth.
        points: (K, 2) predicted, x and y in image pixels.
        skeleton: of the K joints.
        joint: the one whose miss is drawn.
        pixels: side of the picture.

    Returns:
        (pixels, pixels, 3) uint8 RGB.
    """
    side = max(float(person.scale) * PIXELS_PER_SCALE, 8.0)
    zoom = pixels / side
    corner = np.asarray(person.center, dtype=np.float64) - side / 2
    matrix = np.array([[zoom, 0, -zoom * corner[0]], [0, zoom, -zoom * corner[1]]])
    if zoom < 0.7:
        # warpAffine does not average: a large image is reduced first.
        height, width = image.shape[:2]
        size = max(1, round(width * zoom)), max(1, round(height * zoom))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        matrix[:, :2] /= np.array([size[0] / width, size[1] / height])
    canvas = cv2.warpAffine(image, matrix, (pixels, pixels), flags=cv2.INTER_CUBIC, borderValue=_DARK)
    placed = (points - corner) * zoom
    truth = np.where(person.labeled[:, None], (person.joints.astype(np.float64) - corner) * zoom, np.nan)
    drawn = draw_pose(np.asarray(canvas, dtype=np.uint8), placed, skeleton=skeleton, long_side=None)
    # Thin lines, dark below white: they are seen on the pose and on any photograph.
    bones = [(truth[a], truth[b]) for a, b in skeleton.bones]
    for color, width in ((_DARK, 3), (_TRUTH, 1)):
        for a, b in bones:
            _line(drawn, a, b, color, width)
    _line(drawn, placed[joint], truth[joint], _DARK, 4)
    _line(drawn, placed[joint], truth[joint], _MISS, 2)
    if np.isfinite(truth[joint]).all():
        cv2.circle(drawn, _fixed(truth[joint]), 7 << _SHIFT, _DARK, 4, cv2.LINE_AA, _SHIFT)
        cv2.circle(drawn, _fixed(truth[joint]), 7 << _SHIFT, _MISS, 2, cv2.LINE_AA, _SHIFT)
    return drawn


def _line(canvas: Image, a: Float64Array, b: Float64Array, color: tuple[int, int, int], width: int) -> None:
    if np.isfinite(a).all() and np.isfinite(b).all():
        cv2.line(canvas, _fixed(a), _fixed(b), color, width, cv2.LINE_AA, _SHIFT)


def _fixed(point: Float64Array) -> tuple[int, int]:
    # Points far outside are pulled in: OpenCV's coordinates are 32-bit.
    x, y = np.rint(np.clip(point, -30000, 60000) * (1 << _SHIFT)).astype(int)
    return int(x), int(y)


def _page(people: PeopleSource, shown: Sequence[Worst], errors: Float64Array) -> str:
    unit = people.metric.units
    scored = int((~np.isnan(errors)).any(axis=1).sum())
    title = f"Worst predictions of {people.name}"
    head = (
        f"{len(shown)} of {scored} people, the greatest mean error first; errors in {unit}, "
        "a mean over the joints that were scored."
    )
    items = "\n".join(_item(rank, entry, unit) for rank, entry in enumerate(shown, 1))
    nobody = "" if shown else "<p>No people were scored.</p>"
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title), summary=html.escape(head), legend=picture_legend(), nobody=nobody, items=items
    )


def picture_legend() -> str:
    """What the colors of `person_picture` mean, as HTML of spans of the class swatch."""
    return "".join(
        f'<span class="swatch" style="background: rgb{color}"></span>{html.escape(name)}'
        for name, color in (*((f"predicted, {side}", COLORS[side]) for side in COLORS), ("worst joint", _MISS))
    )


def _item(rank: int, entry: Worst, unit: str) -> str:
    def number(value: float) -> str:
        return f"{value:.2f} {unit}" if np.isfinite(value) else "no prediction"

    mean = f"mean error {number(entry.error)}" if np.isfinite(entry.error) else "some joints have no prediction"
    lines = [
        f"<strong>{rank}. {html.escape(mean)}</strong>",
        f"worst joint: {html.escape(entry.joint)}, {number(entry.joint_error)}",
        f"{html.escape(entry.image)}, person {entry.index} (from 0)",
    ]
    if entry.picture is None:
        lines.append(f"no picture: {html.escape(entry.reason)}")
        return f"<li><div>{'<br>'.join(lines)}</div></li>"
    alternative = html.escape(f"{entry.image}: prediction and truth", quote=True)
    picture = f'<img src="{html.escape(entry.picture, quote=True)}" alt="{alternative}" loading="lazy">'
    return f'<li><a href="{html.escape(entry.picture, quote=True)}">{picture}</a><div>{"<br>".join(lines)}</div></li>'
