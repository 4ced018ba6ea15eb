"""PCK@0.2 (LSP) and PCKh@0.5 (MPII), each in one named convention.

The same predictions give different figures under different readings of "mean";
``Score.settings`` carries the reading, so that a number never travels without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyranet_fast.pose.skeleton import LSP, MPII, Skeleton

# Left and right are averaged; the columns stand in the order of the paper's tables.
_PCKH_COLUMNS: Mapping[str, Sequence[int]] = {
    "Head": (9,),
    "Shoulder": (12, 13),
    "Elbow": (11, 14),
    "Wrist": (10, 15),
    "Hip": (2, 3),
    "Knee": (1, 4),
    "Ankle": (0, 5),
}
_PCK_COLUMNS: Mapping[str, Sequence[int]] = {
    "Head": (12, 13),
    "Shoulder": (8, 9),
    "Elbow": (7, 10),
    "Wrist": (6, 11),
    "Hip": (2, 3),
    "Knee": (1, 4),
    "Ankle": (0, 5),
}
_LSP_RIGHT_HIP, _LSP_LEFT_SHOULDER = 2, 9
# MPII's pelvis and thorax are left out of the mean, as in the published tables.
_PCKH_MEAN = (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15)


@dataclass
class Score:
    """A metric over a set of people, in percent (0..100).

    Attributes:
        metric: name with its threshold, such as ``"PCKh@0.5"``.
        mean: unweighted mean over the joints that count (NaN where none was scored).
        columns: the paper's columns, left and right averaged (NaN where none was scored).
        count: number of people scored.
        settings: the convention, JSON-able.
    """

    metric: str
    mean: float
    columns: dict[str, float]
    count: int
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary that is valid JSON (NaN, which JSON lacks, becomes None)."""
        return {
            "metric": self.metric,
            "mean": _json_number(self.mean),
            "columns": {name: _json_number(value) for name, value in self.columns.items()},
            "count": self.count,
            "settings": dict(self.settings),
        }

    def table(self) -> str:
        """Return two lines of text, in the paper's column order, Mean last."""
        names = ["", *self.columns, "Mean"]
        cells = [f"{value:.2f}" if np.isfinite(value) else "-" for value in (*self.columns.values(), self.mean)]
        values = [self.metric, *cells]
        widths = [max(len(name), len(value)) for name, value in zip(names, values, strict=True)]
        return "\n".join(
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (names, values)
        )


def pck(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    visible: npt.ArrayLike | None = None,
    *,
    threshold: float = 0.2,
) -> Score:
    """Person-centric PCK of the Leeds Sports Pose data.

    A joint is right where error / torso <= ``threshold``, torso = |left shoulder - right hip|
    of the ground truth. Head is the mean of neck and head top; Mean is over the 14 joints.

    Args:
        predictions: (N, 14, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, 14, 2), in the same pixels.
        visible: (N, 14), true where labelled; None means everywhere. People without both
            torso joints have no unit of length and are left out of ``count``.
        threshold: fraction of the torso.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, or a threshold that is not positive.
    """
    predicted, truth, seen = _checked(predictions, ground_truth, visible, threshold, LSP)
    torso = np.linalg.norm(truth[:, _LSP_LEFT_SHOULDER] - truth[:, _LSP_RIGHT_HIP], axis=1)
    measurable = seen[:, _LSP_LEFT_SHOULDER] & seen[:, _LSP_RIGHT_HIP] & (torso > 0)
    predicted, truth, seen, torso = (a[measurable] for a in (predicted, truth, seen, torso))
    relative = _error(predicted, truth) / torso[:, None]
    settings = {
        "threshold": threshold,
        "comparison": "error <= threshold * torso",
        "torso": "left shoulder to right hip",
        "mean": "unweighted over 14 joints",
        "centric": "person",
    }
    return _score(f"PCK@{threshold:g}", relative <= threshold, seen, _PCK_COLUMNS, range(14), settings)


def pckh(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    head_size: npt.ArrayLike,
    visible: npt.ArrayLike | None = None,
    *,
    threshold: float = 0.5,
) -> Score:
    """PCKh of the MPII Human Pose data.

    A joint is right where error / head_size < ``threshold``, strictly. Joints that are not
    labelled are left out. Mean is over 14 joints, pelvis and thorax left out, each joint
    weighing the same however often it is labelled.

    Args:
        predictions: (N, 16, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, 16, 2), in the same pixels.
        head_size: (N,), 0.6 times the diagonal of the head box, in the same pixels.
        visible: (N, 16), true where labelled; None means everywhere.
        threshold: fraction of ``head_size``.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, a head size or threshold that is not positive.
    """
    predicted, truth, seen = _checked(predictions, ground_truth, visible, threshold, MPII)
    size = np.asarray(head_size, dtype=np.float64)
    if size.shape != (len(truth),):
        raise ValueError(f"head_size has shape {size.shape}; it must be ({len(truth)},), one length per person")
    if not np.all(size > 0):
        worst = int(np.argmin(np.where(np.isnan(size), -np.inf, size)))
        raise ValueError(f"head_size[{worst}] is {size[worst]:g}; every head size must be positive")
    settings = {
        "threshold": threshold,
        "comparison": "error < threshold * head_size",
        "head_size": "0.6 * head box diagonal",
        "mean": "unweighted over 14 joints, without pelvis and thorax",
    }
    relative = _error(predicted, truth) / size[:, None]
    return _score(f"PCKh@{threshold:g}", relative < threshold, seen, _PCKH_COLUMNS, _PCKH_MEAN, settings)


_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


def _checked(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    visible: npt.ArrayLike | None,
    threshold: float,
    skeleton: Skeleton,
) -> tuple[_Floats, _Floats, _Flags]:
    predicted = np.asarray(predictions, dtype=np.float64)
    truth = np.asarray(ground_truth, dtype=np.float64)
    joints = len(skeleton)
    for name, array in (("predictions", predicted), ("ground_truth", truth)):
        if array.ndim != 3 or array.shape[1:] != (joints, 2):
            raise ValueError(f"{name} has shape {array.shape}; it must be (N, {joints}, 2)")
    if len(predicted) != len(truth):
        raise ValueError(f"predictions has {len(predicted)} people and ground_truth {len(truth)}; they must agree")
    if len(truth) == 0:
        raise ValueError("ground_truth has no people; at least one is needed")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive")
    seen = np.ones(truth.shape[:2], dtype=bool) if visible is None else np.asarray(visible).astype(bool)
    if seen.shape != truth.shape[:2]:
        raise ValueError(f"visible has shape {seen.shape}; it must be {truth.shape[:2]}")
    return predicted, truth, seen


def _error(predicted: _Floats, truth: _Floats) -> _Floats:
    error: _Floats = np.sqrt(np.square(predicted - truth).sum(axis=-1))
    return error


def _score(
    metric: str,
    correct: _Flags,
    seen: _Flags,
    columns: Mapping[str, Sequence[int]],
    in_mean: Sequence[int],
    settings: dict[str, Any],
) -> Score:
    labelled = seen.sum(axis=0)
    hits = (correct & seen).sum(axis=0)
    per_joint = np.where(labelled > 0, 100.0 * hits / np.maximum(labelled, 1), np.nan)
    return Score(
        metric=metric,
        mean=_mean(per_joint[list(in_mean)]),
        columns={name: _mean(per_joint[list(indices)]) for name, indices in columns.items()},
        count=len(seen),
        settings=settings,
    )


def _mean(values: _Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _json_number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
