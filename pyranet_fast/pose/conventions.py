"""How PCK and PCKh are read: columns, mean, comparison, and the other readings found in the literature.

The same predictions give figures percents apart under different readings of "mean". All of them are computed
from one array of errors, so that a figure can be set beside one that was read in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .skeleton import LSP, MPII, Skeleton

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

AUC_STEP = 0.01  # the grid of the curve, in units of the metric


@dataclass(frozen=True)
class Convention:
    """One reading of a metric.

    Attributes:
        metric: name without threshold, ``"PCK"`` or ``"PCKh"``.
        skeleton: the joints.
        unit: what one unit of error is, in the plural, for people to read.
        columns: joints of each column of the paper's tables; left and right are averaged.
        in_mean: joints of the mean.
        mean: the mean in words.
        strict: a joint is right where error < threshold; else where error <= threshold.
        usual: the threshold of the published tables, in units.
        fine: a tighter threshold that is reported beside it.
    """

    metric: str
    skeleton: Skeleton
    unit: str
    columns: Mapping[str, Sequence[int]]
    in_mean: Sequence[int]
    mean: str
    strict: bool
    usual: float
    fine: float = 0.1


PCKH = Convention(
    metric="PCKh",
    skeleton=MPII,
    unit="head sizes",
    columns={
        "Head": (9,),
        "Shoulder": (12, 13),
        "Elbow": (11, 14),
        "Wrist": (10, 15),
        "Hip": (2, 3),
        "Knee": (1, 4),
        "Ankle": (0, 5),
    },
    # MPII's pelvis and thorax are left out of the mean, as in the published tables.
    in_mean=(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15),
    mean="unweighted over 14 joints, without pelvis and thorax",
    strict=True,
    usual=0.5,
)
PCK = Convention(
    metric="PCK",
    skeleton=LSP,
    unit="torsos",
    columns={
        "Head": (12, 13),
        "Shoulder": (8, 9),
        "Elbow": (7, 10),
        "Wrist": (6, 11),
        "Hip": (2, 3),
        "Knee": (1, 4),
        "Ankle": (0, 5),
    },
    in_mean=tuple(range(14)),
    mean="unweighted over 14 joints",
    strict=False,
    usual=0.2,
)
CONVENTIONS: Mapping[str, Convention] = {"pckh": PCKH, "pck": PCK}


def relative_errors(predictions: npt.ArrayLike, ground_truth: npt.ArrayLike, length: npt.ArrayLike) -> Floats:
    """Distance of every joint to its true place, in units of each person's length.

    Args:
        predictions: (N, K, 2) pixels. Where it is not finite the error is infinite: no answer is a wrong one.
        ground_truth: (N, K, 2) in the same pixels.
        length: (N,) unit of length of each person (head size, torso), pixels.

    Returns:
        (N, K) errors; NaN where truth or length say nothing (not finite, or a length that is not positive).

    Raises:
        ValueError: shapes that do not agree.
    """
    predicted = np.asarray(predictions, dtype=np.float64)
    truth = np.asarray(ground_truth, dtype=np.float64)
    unit = np.asarray(length, dtype=np.float64)
    if predicted.ndim != 3 or predicted.shape[2] != 2 or predicted.shape != truth.shape:
        raise ValueError(
            f"predictions has shape {predicted.shape} and ground_truth {truth.shape}; both must be (N, K, 2)"
        )
    if unit.shape != truth.shape[:1]:
        raise ValueError(f"length has shape {unit.shape}; it must be ({len(truth)},), one per person")
    usable = np.isfinite(unit) & (unit > 0)
    known = np.isfinite(truth).all(axis=-1) & usable[:, None]
    errors: Floats = np.sqrt(np.square(predicted - truth).sum(axis=-1)) / np.where(usable, unit, 1.0)[:, None]
    errors[np.isnan(errors)] = np.inf
    errors[~known] = np.nan
    return errors


def percent_right(errors: Floats, seen: Flags, thresholds: npt.ArrayLike, strict: bool) -> tuple[Floats, Floats]:
    """Percentage of right answers of every joint at every threshold.

    Args:
        errors: (N, K) in units of the metric.
        seen: (N, K), true where a joint counts.
        thresholds: (T,) in the same units.
        strict: error < threshold instead of error <= threshold.

    Returns:
        (T, K) percent, NaN where a joint was never seen, and (T, K) the number of right answers.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    # In the sorted errors of a joint, a threshold's place is the number of right answers.
    side = "left" if strict else "right"
    hits = np.empty((len(limits), errors.shape[1]))
    for joint in range(errors.shape[1]):
        ordered = np.sort(errors[seen[:, joint], joint])
        hits[:, joint] = np.searchsorted(ordered, limits, side=side)  # type: ignore[call-overload]
    labelled = seen.sum(axis=0)
    return np.where(labelled > 0, 100.0 * hits / np.maximum(labelled, 1), np.nan), hits


def mean_of(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def steps(highest: float) -> Floats:
    """Thresholds from 0 to ``highest`` in steps of ``AUC_STEP``."""
    return np.linspace(0.0, highest, round(highest / AUC_STEP) + 1)


def readings(errors: Floats, seen: Flags, threshold: float, convention: Convention) -> dict[str, float]:
    """Read the same errors in every way in use.

    Args:
        errors: (N, K) in units of the metric.
        seen: (N, K), true where a joint counts.
        threshold: of the first readings, in the same units.
        convention: of the metric.

    Returns:
        Percent by the name of the reading, our mean first.
    """
    per_joint, hits = (a[0] for a in percent_right(errors, seen, [threshold], convention.strict))
    chosen, joints = list(convention.in_mean), len(convention.skeleton)
    name = f"{convention.metric}@{threshold:g}"
    columns = np.array([mean_of(per_joint[list(c)]) for c in convention.columns.values()])
    result = {
        f"{name}, mean over {len(chosen)} joints, every joint weighs the same": float(mean_of(per_joint[chosen])),
        f"{name}, {len(chosen)} joints pooled, every labelled joint of every person weighs the same": _pooled(
            hits, seen, chosen
        ),
    }
    if len(chosen) < joints:
        result[f"{name}, all {joints} joints pooled"] = _pooled(hits, seen, list(range(joints)))
    if {len(c) for c in convention.columns.values()} != {2}:
        result[f"{name}, mean over the {len(columns)} columns"] = float(mean_of(columns))
    if threshold != convention.fine:
        tight, _ = percent_right(errors, seen, [convention.fine], convention.strict)
        name = f"{convention.metric}@{convention.fine:g}, mean over {len(chosen)} joints"
        result[name] = float(mean_of(tight[0, chosen]))
    grid = steps(convention.usual)
    curve = mean_of(percent_right(errors, seen, grid, convention.strict)[0][:, chosen])
    name = f"area under the {convention.metric} curve, thresholds 0 to {convention.usual:g}"
    result[f"{name}, mean over {len(chosen)} joints"] = area(grid, curve)
    return result


def area(x: Floats, y: Floats) -> float:
    """Area under a curve by the trapezoidal rule, divided by the width: the mean height."""
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0]))


def _pooled(hits: Floats, seen: Flags, joints: list[int]) -> float:
    total = int(seen[:, joints].sum())
    return float(100.0 * hits[joints].sum() / total) if total else float("nan")
