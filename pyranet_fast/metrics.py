"""PCK and PCKh: columns, mean, comparison, and the other readings found in the literature.

The same predictions give figures percents apart under different readings of "mean". All of them are computed
from one array of errors, so that a figure can be set beside one that was read in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .keypoints import LSP, MPII, Skeleton, split_side

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

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


def relative_errors(predictions: npt.ArrayLike, ground_truth: npt.ArrayLike, length: npt.ArrayLike) -> Float64Array:
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
    errors: Float64Array = np.sqrt(np.square(predicted - truth).sum(axis=-1)) / np.where(usable, unit, 1.0)[:, None]
    errors[np.isnan(errors)] = np.inf
    errors[~known] = np.nan
    return errors


def percent_right(
    errors: Float64Array, seen: BoolArray, thresholds: npt.ArrayLike, strict: bool
) -> tuple[Float64Array, Float64Array]:
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
    labeled = seen.sum(axis=0)
    return np.where(labeled > 0, 100.0 * hits / np.maximum(labeled, 1), np.nan), hits


def mean_of(values: Float64Array) -> Float64Array:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def steps(highest: float) -> Float64Array:
    """Thresholds from 0 to ``highest`` in steps of ``AUC_STEP``."""
    return np.linspace(0.0, highest, round(highest / AUC_STEP) + 1)


def readings(errors: Float64Array, seen: BoolArray, threshold: float, convention: Convention) -> dict[str, float]:
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
        f"{name}, {len(chosen)} joints pooled, every labeled joint of every person weighs the same": _pooled(
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


def area(x: Float64Array, y: Float64Array) -> float:
    """Area under a curve by the trapezoidal rule, divided by the width: the mean height."""
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0]))


def _pooled(hits: Float64Array, seen: BoolArray, joints: list[int]) -> float:
    total = int(seen[:, joints].sum())
    return float(100.0 * hits[joints].sum() / total) if total else float("nan")


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
                "1 labeled joint lies outside its" if outside == 1 else f"{outside} labeled joints lie outside their"
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
        visible: (N, 14), true where labeled; None means wherever the truth is finite. People without both
            torso joints, or with a torso of length 0, have no unit of length: they are left out of ``count``
            and counted in ``settings["left_out"]``, as are people without any labeled joint.
        threshold: fraction of the torso.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labeled joints outside
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


def torso_length(truth: npt.ArrayLike, visible: npt.ArrayLike) -> Float64Array:
    """PCK's unit of length (N,) for joints (N, 14, 2): left shoulder to right hip; NaN where that is unknown or 0."""
    points, seen = np.asarray(truth, dtype=np.float64), np.asarray(visible).astype(bool)
    torso = np.linalg.norm(points[:, _LSP_LEFT_SHOULDER] - points[:, _LSP_RIGHT_HIP], axis=1)
    known = seen[:, _LSP_LEFT_SHOULDER] & seen[:, _LSP_RIGHT_HIP] & (torso > 0)
    length: Float64Array = np.where(known, torso, np.nan)
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
    labeled are left out. Mean is over 14 joints, pelvis and thorax left out, each joint
    weighing the same however often it is labeled.

    Args:
        predictions: (N, 16, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, 16, 2), in the same pixels.
        head_size: (N,), 0.6 times the diagonal of the head box, in the same pixels.
        visible: (N, 16), true where labeled; None means wherever the truth is finite. People without any
            labeled joint are not in ``count`` but in ``settings["left_out"]``.
        threshold: fraction of ``head_size``.
        on_bad_size: what a head size does that is zero, negative or not finite: ``"raise"`` ValueError, or
            ``"leave_out"`` the person, counted in ``settings["left_out"]``.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labeled joints outside
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
) -> tuple[Float64Array, Float64Array, BoolArray]:
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
    finite: BoolArray = np.asarray(np.isfinite(truth).all(axis=-1))
    seen = finite if visible is None else np.asarray(visible).astype(bool)
    if seen.shape != truth.shape[:2]:
        raise ValueError(f"visible has shape {seen.shape}; it must be {truth.shape[:2]}")
    unknown = np.argwhere(seen & ~finite)
    if len(unknown):
        person, joint = unknown[0]
        raise ValueError(f"ground_truth[{person}, {joint}] is not finite, but visible says that it is labeled")
    return predicted, truth, seen


def score_errors(
    predicted: Float64Array,
    truth: Float64Array,
    seen: BoolArray,
    length: Float64Array,
    without_length: str,
    threshold: float,
    convention: Convention,
    settings: dict[str, Any],
    image_size: npt.ArrayLike | None,
) -> Score:
    """Score the people who have a length (not NaN) and a labeled joint; count the others."""
    labeled = seen.any(axis=1)
    measurable = labeled & ~np.isnan(length)
    reasons = {"no labeled joint": ~labeled, without_length: labeled & ~measurable}
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


def _outside(truth: Float64Array, seen: BoolArray, image_size: npt.ArrayLike) -> int:
    size = np.asarray(image_size, dtype=np.float64)
    if size.shape != (len(truth), 2):
        raise ValueError(f"image_size has shape {size.shape}; it must be ({len(truth)}, 2), width and height")
    # A pixel reaches half a pixel to each side of its center.
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


def pck_box(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    box_size: npt.ArrayLike,
    visible: npt.ArrayLike | None,
    skeleton: Skeleton,
    threshold: float = 0.05,
    *,
    image_size: npt.ArrayLike | None = None,
) -> Score:
    """PCK of any skeleton: a joint is right where error / box_size <= ``threshold``.

    Args:
        predictions: (N, K, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, K, 2), in the same pixels.
        box_size: (N,), the longer side of each person's box, in the same pixels. People whose box has no size are
            left out, counted in ``settings["left_out"]``.
        visible: (N, K), true where labeled; None means everywhere.
        skeleton: meaning of the K joints. A flip pair is one column, called by the joints' name without the side,
            the mean of the two; any other joint is a column of its own.
        threshold: fraction of ``box_size``.
        image_size: as for ``pckh``.

    Returns:
        A Score in percent; its mean is over all K joints, each weighing the same however often it is labeled.

    Raises:
        ValueError: wrong shapes, N = 0, or a threshold that is not positive.
    """
    convention = box_convention(skeleton)
    predicted, truth, seen = checked(predictions, ground_truth, visible, threshold, convention)
    size = np.asarray(box_size, dtype=np.float64)
    if size.shape != (len(truth),):
        raise ValueError(f"box_size has shape {size.shape}; it must be ({len(truth)},), one length per person")
    length = np.where(np.isfinite(size) & (size > 0), size, np.nan)
    settings = {
        "threshold": threshold,
        "comparison": "error <= threshold * box_size",
        "box_size": "longer side of the person's box",
        "mean": convention.mean,
    }
    return score_errors(predicted, truth, seen, length, "no box", threshold, convention, settings, image_size)


def box_convention(skeleton: Skeleton) -> Convention:
    """How PCK in units of the box is read for a skeleton."""
    return Convention(
        metric="PCK-box",
        skeleton=skeleton,
        unit="longer sides of the box",
        columns=columns_of(skeleton),
        in_mean=tuple(range(len(skeleton))),
        mean=f"unweighted over {len(skeleton)} joints",
        strict=False,
        usual=0.05,
        fine=0.02,
    )


def columns_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Columns of a table, in the joints' order: name and the joints that are averaged."""
    partner = {index: pair for pair in skeleton.flip_pairs for index in pair}
    columns: dict[str, tuple[int, ...]] = {}
    for index, joint in enumerate(skeleton.joints):
        pair = partner.get(index, (index,))
        if index != min(pair):
            continue
        bare = split_side(joint)[1] if len(pair) == 2 else joint
        bare = bare or joint
        name = bare if bare not in columns else joint  # an unpaired "ear" beside "left ear" and "right ear"
        columns[name] = tuple(sorted(pair))
    return columns
