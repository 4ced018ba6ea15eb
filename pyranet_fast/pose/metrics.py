"""PCK@0.2 (LSP) and PCKh@0.5 (MPII), each in one named convention.

The same predictions give different figures under different readings of "mean". ``Score.settings`` carries the
reading of the mean, so that a number never travels without it, and ``Score.conventions`` the other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .conventions import PCK, PCKH, Convention, Flags, Floats, mean_of, percent_right, readings, relative_errors

_LSP_RIGHT_HIP, _LSP_LEFT_SHOULDER = 2, 9


@dataclass
class Score:
    """A metric over a set of people, in percent (0..100).

    Attributes:
        metric: name with its threshold, such as ``"PCKh@0.5"``.
        mean: unweighted mean over the joints that count (NaN where none was scored).
        columns: the paper's columns, left and right averaged (NaN where none was scored).
        count: number of people scored.
        settings: the convention, JSON-able; ``"left_out"`` counts people who were not scored, by reason.
        conventions: the same predictions read in other ways, percent by the reading's name.
    """

    metric: str
    mean: float
    columns: dict[str, float]
    count: int
    settings: dict[str, Any] = field(default_factory=dict)
    conventions: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary that is valid JSON (NaN, which JSON lacks, becomes None)."""
        content: dict[str, Any] = {
            "metric": self.metric,
            "mean": self.mean,
            "columns": self.columns,
            "conventions": self.conventions,
            "count": self.count,
            "settings": self.settings,
        }
        return {name: _json_value(value) for name, value in content.items()}

    def table(self) -> str:
        """Return two lines of text, in the paper's column order, Mean last."""
        names = ["", *self.columns, "Mean"]
        cells = [_cell(value) for value in (*self.columns.values(), self.mean)]
        values = [self.metric, *cells]
        widths = [max(len(name), len(value)) for name, value in zip(names, values, strict=True)]
        return "\n".join(
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (names, values)
        )

    def readings(self) -> str:
        """Return a line of text for every convention, and one for what was left out or is unusual."""
        lines = [f"{_cell(value):>6}  {name}" for name, value in self.conventions.items()]
        people = f"{self.count} {'person' if self.count == 1 else 'people'} scored"
        left_out = [f"{count} left out ({why})" for why, count in self.settings.get("left_out", {}).items()]
        lines.append(", ".join([people, *left_out]))
        outside = self.settings.get("joints_outside_image")
        if outside:
            which = (
                "1 labelled joint lies outside its" if outside == 1 else f"{outside} labelled joints lie outside their"
            )
            lines.append(f"{which} image; such joints are scored like the others")
        return "\n".join(lines)


def pck(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    visible: npt.ArrayLike | None = None,
    *,
    threshold: float = 0.2,
    image_size: npt.ArrayLike | None = None,
) -> Score:
    """Person-centric PCK of the Leeds Sports Pose data.

    A joint is right where error / torso <= ``threshold``, torso = |left shoulder - right hip|
    of the ground truth. Head is the mean of neck and head top; Mean is over the 14 joints.

    Args:
        predictions: (N, 14, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, 14, 2), in the same pixels.
        visible: (N, 14), true where labelled; None means wherever the truth is finite. People without both
            torso joints, or with a torso of length 0, have no unit of length: they are left out of ``count``
            and counted in ``settings["left_out"]``, as are people without any labelled joint.
        threshold: fraction of the torso.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labelled joints outside
            the image are counted in ``settings["joints_outside_image"]``; they are scored all the same.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, a threshold that is not positive, or a visible joint that is not finite.
    """
    predicted, truth, seen = checked(predictions, ground_truth, visible, threshold, PCK)
    length = torso_length(truth, seen)
    settings = {
        "threshold": threshold,
        "comparison": "error <= threshold * torso",
        "torso": "left shoulder to right hip",
        "mean": PCK.mean,
        "centric": "person",
    }
    return score_errors(predicted, truth, seen, length, "no torso", threshold, PCK, settings, image_size)


def torso_length(truth: npt.ArrayLike, visible: npt.ArrayLike) -> Floats:
    """PCK's unit of length (N,) for joints (N, 14, 2): left shoulder to right hip; NaN where that is unknown or 0."""
    points, seen = np.asarray(truth, dtype=np.float64), np.asarray(visible).astype(bool)
    torso = np.linalg.norm(points[:, _LSP_LEFT_SHOULDER] - points[:, _LSP_RIGHT_HIP], axis=1)
    known = seen[:, _LSP_LEFT_SHOULDER] & seen[:, _LSP_RIGHT_HIP] & (torso > 0)
    length: Floats = np.where(known, torso, np.nan)
    return length


def pckh(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    head_size: npt.ArrayLike,
    visible: npt.ArrayLike | None = None,
    *,
    threshold: float = 0.5,
    on_bad_size: Literal["raise", "leave_out"] = "raise",
    image_size: npt.ArrayLike | None = None,
) -> Score:
    """PCKh of the MPII Human Pose data.

    A joint is right where error / head_size < ``threshold``, strictly. Joints that are not
    labelled are left out. Mean is over 14 joints, pelvis and thorax left out, each joint
    weighing the same however often it is labelled.

    Args:
        predictions: (N, 16, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, 16, 2), in the same pixels.
        head_size: (N,), 0.6 times the diagonal of the head box, in the same pixels.
        visible: (N, 16), true where labelled; None means wherever the truth is finite. People without any
            labelled joint are not in ``count`` but in ``settings["left_out"]``.
        threshold: fraction of ``head_size``.
        on_bad_size: what a head size does that is zero, negative or not finite: ``"raise"`` ValueError, or
            ``"leave_out"`` the person, counted in ``settings["left_out"]``.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labelled joints outside
            the image are counted in ``settings["joints_outside_image"]``; they are scored all the same.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, a head size or threshold that is not positive, or a visible joint that is
            not finite.
    """
    predicted, truth, seen = checked(predictions, ground_truth, visible, threshold, PCKH)
    size = np.asarray(head_size, dtype=np.float64)
    if size.shape != (len(truth),):
        raise ValueError(f"head_size has shape {size.shape}; it must be ({len(truth)},), one length per person")
    if on_bad_size not in ("raise", "leave_out"):
        raise ValueError(f"on_bad_size is {on_bad_size!r}; 'raise' and 'leave_out' are accepted")
    good = np.isfinite(size) & (size > 0)
    if on_bad_size == "raise" and not good.all():
        worst = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"head_size[{worst}] is {size[worst]:g}; every head size must be positive "
            "(on_bad_size='leave_out' leaves such people out and counts them)"
        )
    settings = {
        "threshold": threshold,
        "comparison": "error < threshold * head_size",
        "head_size": "0.6 * head box diagonal",
        "mean": PCKH.mean,
    }
    length = np.where(good, size, np.nan)
    return score_errors(predicted, truth, seen, length, "no head size", threshold, PCKH, settings, image_size)


def checked(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    visible: npt.ArrayLike | None,
    threshold: float,
    convention: Convention,
) -> tuple[Floats, Floats, Flags]:
    predicted = np.asarray(predictions, dtype=np.float64)
    truth = np.asarray(ground_truth, dtype=np.float64)
    joints = len(convention.skeleton)
    for name, array in (("predictions", predicted), ("ground_truth", truth)):
        if array.ndim != 3 or array.shape[1:] != (joints, 2):
            raise ValueError(f"{name} has shape {array.shape}; it must be (N, {joints}, 2)")
    if len(predicted) != len(truth):
        raise ValueError(f"predictions has {len(predicted)} people and ground_truth {len(truth)}; they must agree")
    if len(truth) == 0:
        raise ValueError("ground_truth has no people; at least one is needed")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive")
    finite: Flags = np.asarray(np.isfinite(truth).all(axis=-1))
    seen = finite if visible is None else np.asarray(visible).astype(bool)
    if seen.shape != truth.shape[:2]:
        raise ValueError(f"visible has shape {seen.shape}; it must be {truth.shape[:2]}")
    unknown = np.argwhere(seen & ~finite)
    if len(unknown):
        person, joint = unknown[0]
        raise ValueError(f"ground_truth[{person}, {joint}] is not finite, but visible says that it is labelled")
    return predicted, truth, seen


def score_errors(
    predicted: Floats,
    truth: Floats,
    seen: Flags,
    length: Floats,
    without_length: str,
    threshold: float,
    convention: Convention,
    settings: dict[str, Any],
    image_size: npt.ArrayLike | None,
) -> Score:
    """Score the people who have a length (not NaN) and a labelled joint; count the others."""
    labelled = seen.any(axis=1)
    measurable = labelled & ~np.isnan(length)
    reasons = {"no labelled joint": ~labelled, without_length: labelled & ~measurable}
    settings["left_out"] = {why: int(which.sum()) for why, which in reasons.items() if which.any()}
    if image_size is not None:
        settings["joints_outside_image"] = _outside(truth, seen, image_size)
    errors = relative_errors(predicted[measurable], truth[measurable], length[measurable])
    seen = seen[measurable]
    per_joint = percent_right(errors, seen, [threshold], convention.strict)[0][0]
    return Score(
        metric=f"{convention.metric}@{threshold:g}",
        mean=float(mean_of(per_joint[list(convention.in_mean)])),
        columns={name: float(mean_of(per_joint[list(chosen)])) for name, chosen in convention.columns.items()},
        count=len(seen),
        settings=settings,
        conventions=readings(errors, seen, threshold, convention),
    )


def _outside(truth: Floats, seen: Flags, image_size: npt.ArrayLike) -> int:
    size = np.asarray(image_size, dtype=np.float64)
    if size.shape != (len(truth), 2):
        raise ValueError(f"image_size has shape {size.shape}; it must be ({len(truth)}, 2), width and height")
    # A pixel reaches half a pixel to each side of its centre.
    inside = ((truth >= -0.5) & (truth <= size[:, None] - 0.5)).all(axis=-1)
    return int((seen & ~inside).sum())


def _cell(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _json_value(value: Any) -> Any:
    """The value in JSON's types; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
