"""PCK and PCKh as functions of the threshold, and the area under the curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import renamed
from ..metrics import PCKH, BoolArray, Float64Array, Metric, area, mean_of, percent_right, resolve_metric, steps


@dataclass(frozen=True)
class Curve:
    """Accuracy in percent at every threshold.

    Attributes:
        metric: its name, ``"PCK"`` or ``"PCKh"``.
        thresholds: (T,) ascending, in units of the metric.
        mean: (T,) percent, the convention's mean over joints.
        columns: (T,) percent for each column of the paper; NaN without labels.
        count: people with at least one joint that counts.
        unit: unit of the thresholds, as text.
    """

    metric: str
    thresholds: Float64Array
    mean: Float64Array
    columns: dict[str, Float64Array]
    count: int
    unit: str = "unit of the metric"

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary that is valid JSON (NaN becomes None)."""
        return {
            "metric": self.metric,
            "thresholds": self.thresholds.round(6).tolist(),
            "mean": _json(self.mean),
            "columns": {name: _json(values) for name, values in self.columns.items()},
            "count": self.count,
        }


@renamed(convention="metric")
def pck_curve(
    errors: npt.ArrayLike,
    seen: npt.ArrayLike | None = None,
    thresholds: npt.ArrayLike | None = None,
    *,
    metric: Metric | str = PCKH,
) -> Curve:
    """Compute the curve of a metric over many thresholds at once.

    Args:
        errors: (N, K) in units of the metric (head sizes, torsos), as ``relative_errors`` gives them; infinite
            where a joint has no prediction.
        seen: (N, K), true where a joint counts; None: wherever its error is not NaN.
        thresholds: (T,) ascending, at least 0; None: 0 to the usual one (0.5 for PCKh, 0.2 for PCK) in steps of 0.01.
        metric: ``"pckh"``, ``"pck"`` or a ``Metric``: columns, mean and comparison.

    Raises:
        ValueError: invalid shapes, thresholds or metric name, or NaN where ``seen`` is true.
    """
    how = resolve_metric(metric)
    values = np.asarray(errors, dtype=np.float64)
    joints = len(how.skeleton)
    if values.ndim != 2 or values.shape[1] != joints or len(values) == 0:
        raise ValueError(f"errors must have shape (N, {joints}) with N above 0 for {how.name}, got {values.shape}")
    counts: BoolArray = ~np.isnan(values) if seen is None else np.asarray(seen).astype(bool)
    if counts.shape != values.shape:
        raise ValueError(f"seen must have the shape of errors, {values.shape}, got {counts.shape}")
    unknown = np.argwhere(counts & np.isnan(values))
    if len(unknown):
        person, joint = unknown[0]
        raise ValueError(f"errors[{person}, {joint}] is NaN where seen is true; give inf where there is no prediction")
    limits = steps(how.threshold) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or len(limits) == 0 or not np.all(np.isfinite(limits)):
        raise ValueError(f"thresholds must be (T,) finite numbers, T above 0, got shape {limits.shape}")
    if limits[0] < 0 or np.any(np.diff(limits) <= 0):
        raise ValueError("thresholds must be at least 0 and ascend, each above the one before")
    per_joint, _ = percent_right(values, counts, limits, how.strict)
    return Curve(
        metric=how.name,
        thresholds=limits,
        mean=mean_of(per_joint[:, list(how.in_mean)]),
        columns={name: mean_of(per_joint[:, list(chosen)]) for name, chosen in how.columns.items()},
        count=int(counts.any(axis=1).sum()),
        unit=how.unit,
    )


def auc(curve: Curve, highest: float | None = None, column: str | None = None) -> float:
    """Return the area under a curve from its first threshold to ``highest``, in percent of that of a perfect one.

    Uses the trapezoidal rule between thresholds.

    Args:
        curve: with at least two thresholds.
        highest: upper threshold, within the curve; None: its last one.
        column: a column of the curve; None: the mean.

    Returns:
        0 to 100; NaN for a column without labels.

    Raises:
        ValueError: unknown column, upper threshold outside the curve, or a curve of one point.
    """
    if column is not None and column not in curve.columns:
        raise ValueError(f"column must be one of {', '.join(curve.columns)}, got {column!r}")
    if len(curve.thresholds) < 2:
        raise ValueError(f"curve has {len(curve.thresholds)} threshold; an area needs at least two")
    x, y = curve.thresholds, curve.mean if column is None else curve.columns[column]
    end = float(x[-1]) if highest is None else float(highest)
    if not x[0] < end <= x[-1] + 1e-9:
        raise ValueError(f"highest must be above {x[0]:g} and at most {x[-1]:g} for this curve, got {end:g}")
    inside = x < end - 1e-9
    return area(np.append(x[inside], end), np.append(y[inside], np.interp(end, x, y)))


def _json(values: Float64Array) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
