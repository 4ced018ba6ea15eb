"""PCK and PCKh: columns, mean, comparison, and the other conventions found in the literature.

Different definitions of "mean" change the result of the same predictions by whole percents. All are computed from one
array of errors, so that results under different conventions can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .keypoints import LSP, MPII, Skeleton, sides_of

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

AUC_STEP = 0.01  # the grid of the curve, in units of the metric


@dataclass(frozen=True)
class Published:
    """A published result.

    Attributes:
        name: method.
        data: dataset of the result, such as ``"MPII test"``.
        mean: percent.
        note: its source and how it was measured.
        columns: percent in the order of the metric's columns, or nothing where only the mean was published.
    """

    name: str
    data: str
    mean: float
    note: str
    columns: tuple[float, ...] = ()


@dataclass(frozen=True)
class Metric:
    """Unit of errors, joints that count, and published results for comparison.

    Datasets have one; tables, curves, calibration and the page of worst predictions use it.

    Attributes:
        key: name in packed files and arguments: ``"pckh"``, ``"pck"`` or ``"pck-box"``.
        name: without threshold, ``"PCKh"``, ``"PCK"`` or ``"PCK-box"``.
        skeleton: the joints.
        unit: unit of errors as text; ``units`` is its plural.
        length: name of the unit's length in a score's settings, such as ``"torso"``.
        length_meaning: how that length is measured on a person.
        without_length: why a person without this length is left out.
        columns: joints of each column of a table; left and right are averaged.
        in_mean: joints of the mean.
        mean: the mean in words.
        strict: a joint is correct where error < threshold; else where error <= threshold.
        threshold: of the published tables, in units.
        fine: a tighter threshold, also reported.
        settings: additional settings of a score.
        published: published results at ``threshold``.
        oks_sigmas: K constants of COCO's object keypoint similarity, the standard deviation of people who label a
            joint over the square root of the person's area; None where they are not known.
    """

    key: str
    name: str
    skeleton: Skeleton
    unit: str
    units: str
    length: str
    length_meaning: str
    without_length: str
    columns: Mapping[str, Sequence[int]]
    in_mean: Sequence[int]
    mean: str
    strict: bool
    threshold: float
    fine: float = 0.1
    settings: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    oks_sigmas: tuple[float, ...] | None = None

    def at(self, threshold: float | None = None) -> str:
        """The name with a threshold, such as ``"PCKh@0.5"``; None is the published tables'."""
        return f"{self.name}@{self.threshold if threshold is None else threshold:g}"

    def right(self, errors: npt.ArrayLike, threshold: float | None = None) -> BoolArray:
        """Return which errors, in units, count as correct; NaN does not."""
        limit = self.threshold if threshold is None else threshold
        values = np.asarray(errors, dtype=np.float64)
        return np.asarray(values < limit if self.strict else values <= limit)

    def score(
        self,
        predictions: npt.ArrayLike,
        ground_truth: npt.ArrayLike,
        visible: npt.ArrayLike | None,
        length: npt.ArrayLike,
        *,
        threshold: float | None = None,
        image_size: npt.ArrayLike | None = None,
    ) -> Score:
        """Score predictions.

        Args:
            predictions: (N, K, 2), x and y in image pixels. NaN counts as wrong.
            ground_truth: (N, K, 2), in the same pixels.
            visible: (N, K), true where labeled; None: wherever the truth is finite. People without any labeled joint
                are excluded from ``count`` and counted in ``settings["left_out"]``.
            length: (N,), each person's unit in the same pixels. People whose length is not positive and finite are
                left out, counted in ``settings["left_out"]``.
            threshold: in units; None is the published tables'.
            image_size: (N, 2), width and height of each person's image in pixels. With it, labeled joints outside
                the image are counted in ``settings["joints_outside_image"]``; they are scored nevertheless.

        Raises:
            ValueError: wrong shapes, N = 0, a threshold that is not positive, or a visible joint that is not finite.
        """
        limit = self.threshold if threshold is None else threshold
        predicted, truth, seen = _checked(predictions, ground_truth, visible, limit, self)
        size = np.asarray(length, dtype=np.float64)
        if size.shape != (len(truth),):
            raise ValueError(f"{self.length} must have shape ({len(truth)},), one length per person, got {size.shape}")
        size = np.where(np.isfinite(size) & (size > 0), size, np.nan)
        labeled = seen.any(axis=1)
        measurable = labeled & ~np.isnan(size)
        reasons = {"no labeled joint": ~labeled, self.without_length: labeled & ~measurable}
        settings: dict[str, Any] = {
            "threshold": limit,
            "comparison": f"error {'<' if self.strict else '<='} threshold * {self.length}",
            self.length: self.length_meaning,
            "mean": self.mean,
            **self.settings,
            "left_out": {why: int(which.sum()) for why, which in reasons.items() if which.any()},
        }
        if image_size is not None:
            settings["joints_outside_image"] = _outside(truth, seen, image_size)
        errors = relative_errors(predicted[measurable], truth[measurable], size[measurable])
        seen = seen[measurable]
        per_joint = percent_right(errors, seen, [limit], self.strict)[0][0]
        return Score(
            metric=self.at(limit),
            mean=float(mean_of(per_joint[list(self.in_mean)])),
            columns={name: float(mean_of(per_joint[list(chosen)])) for name, chosen in self.columns.items()},
            count=len(seen),
            settings=settings,
            conventions=readings(errors, seen, limit, self),
        )


_PAPER = "Yang et al., ICCV 2017"
_SMALL = f"{_PAPER}, ablation with 2 stacks"

PCKH = Metric(
    key="pckh",
    name="PCKh",
    skeleton=MPII,
    unit="head size",
    units="head sizes",
    length="head_size",
    length_meaning="0.6 * head box diagonal",
    without_length="no head size",
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
    threshold=0.5,
    published=(
        Published(
            "PRM, 8 stacks", "MPII test", 92.0, f"{_PAPER}, six scales", (98.5, 96.7, 92.5, 88.7, 91.1, 88.6, 86.0)
        ),
        Published("plain hourglass, 8 stacks", "MPII test", 90.9, f"Newell et al., ECCV 2016, as quoted by {_PAPER}"),
        Published("plain hourglass", "MPII validation", 87.6, _SMALL),
        Published("with variance control", "MPII validation", 88.0, _SMALL),
        Published("with variance control and PRM", "MPII validation", 88.5, _SMALL),
    ),
)
PCK = Metric(
    key="pck",
    name="PCK",
    skeleton=LSP,
    unit="torso",
    units="torsos",
    length="torso",
    length_meaning="left shoulder to right hip",
    without_length="no torso",
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
    threshold=0.2,
    settings={"centric": "person"},
    published=(
        Published(
            "PRM, 8 stacks",
            "LSP 1001-2000",
            93.9,
            f"{_PAPER}, trained on LSP, LSP-extended and MPII",
            (98.3, 94.5, 92.2, 88.9, 94.4, 95.0, 93.7),
        ),
    ),
)


def box_metric(skeleton: Skeleton, oks_sigmas: tuple[float, ...] | None = None) -> Metric:
    """Build PCK in units of the person's box, for skeletons without another length.

    A flip pair is one column, the mean of the two, called by the joints' name without the side, or by both names where
    they differ in more than that; any other joint is a column of its own.
    """
    return Metric(
        key="pck-box",
        name="PCK-box",
        skeleton=skeleton,
        unit="longer side of the box",
        units="longer sides of the box",
        length="box_size",
        length_meaning="longer side of the person's box",
        without_length="no box",
        columns=_columns_of(skeleton),
        in_mean=tuple(range(len(skeleton))),
        mean=f"unweighted over {len(skeleton)} joints",
        strict=False,
        threshold=0.05,
        fine=0.02,
        oks_sigmas=oks_sigmas,
    )


METRICS: Mapping[str, Metric] = {"pckh": PCKH, "pck": PCK}
"""Metrics of one skeleton, by key."""


def resolve_metric(value: Metric | str, skeleton: Skeleton | None = None) -> Metric:
    """Return the metric of a key.

    Args:
        value: a key of ``METRICS``, ``"pck-box"`` with a skeleton, or a Metric.
        skeleton: of the joints.

    Raises:
        ValueError: an unknown key.
    """
    if isinstance(value, Metric):
        return value
    if value in METRICS:
        return METRICS[value]
    if value == "pck-box" and skeleton is not None:
        return box_metric(skeleton)
    raise ValueError(f"metric is {value!r}; expected one of {', '.join(METRICS)}, pck-box or a Metric")


def _columns_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Columns of a table, in the joints' order: name and the joints that are averaged."""
    partner = dict([*skeleton.flip_pairs, *(pair[::-1] for pair in skeleton.flip_pairs)])
    bare = [joint.bare for joint in sides_of(skeleton.joints)]
    taken = {joint for index, joint in enumerate(skeleton.joints) if index not in partner}
    columns: dict[str, tuple[int, ...]] = {}
    for index, joint in enumerate(skeleton.joints):
        other = partner.get(index)
        if other is None:
            columns[joint] = (index,)
        elif index < other:
            # Both names where they differ in more than the side, or an unpaired "ear" is beside "left ear".
            named = bool(bare[index]) and bare[index] == bare[other] and bare[index] not in taken
            name = bare[index] if named else f"{joint}/{skeleton.joints[other]}"
            taken.add(name)
            columns[name] = (index, other)
    return columns


def relative_errors(predictions: npt.ArrayLike, ground_truth: npt.ArrayLike, length: npt.ArrayLike) -> Float64Array:
    """Return the distance of every joint to the ground truth, in units of each person's length.

    Args:
        predictions: (N, K, 2) pixels. The error of a prediction that is not finite is infinite.
        ground_truth: (N, K, 2) in the same pixels.
        length: (N,) unit of length of each person (head size, torso), pixels.

    Returns:
        (N, K) errors; NaN where ground truth or length is not finite, or the length not positive.

    Raises:
        ValueError: the shapes do not match.
    """
    predicted = np.asarray(predictions, dtype=np.float64)
    truth = np.asarray(ground_truth, dtype=np.float64)
    unit = np.asarray(length, dtype=np.float64)
    if predicted.ndim != 3 or predicted.shape[2] != 2 or predicted.shape != truth.shape:
        raise ValueError(
            f"predictions has shape {predicted.shape} and ground_truth {truth.shape}; both must be (N, K, 2)"
        )
    if unit.shape != truth.shape[:1]:
        raise ValueError(f"length must have shape ({len(truth)},), one per person, got {unit.shape}")
    usable = np.isfinite(unit) & (unit > 0)
    known = np.isfinite(truth).all(axis=-1) & usable[:, None]
    errors: Float64Array = np.sqrt(np.square(predicted - truth).sum(axis=-1)) / np.where(usable, unit, 1.0)[:, None]
    errors[np.isnan(errors)] = np.inf
    errors[~known] = np.nan
    return errors


def percent_right(
    errors: Float64Array, seen: BoolArray, thresholds: npt.ArrayLike, strict: bool
) -> tuple[Float64Array, Float64Array]:
    """Return the percentage of correct predictions of every joint at every threshold.

    Args:
        errors: (N, K) in units of the metric.
        seen: (N, K), true where a joint counts.
        thresholds: (T,) in the same units.
        strict: error < threshold instead of error <= threshold.

    Returns:
        (T, K) percent, NaN where a joint was never seen, and (T, K) the number of correct predictions.
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


def readings(errors: Float64Array, seen: BoolArray, threshold: float, metric: Metric) -> dict[str, float]:
    """Evaluate errors under all common conventions.

    Args:
        errors: (N, K) in units of the metric.
        seen: (N, K), true where a joint counts.
        threshold: of the first conventions, in the same units.
        metric: whose errors they are.

    Returns:
        Percent by name of the convention, our mean first.
    """
    per_joint, hits = (a[0] for a in percent_right(errors, seen, [threshold], metric.strict))
    chosen, joints = list(metric.in_mean), len(metric.skeleton)
    name = f"{metric.name}@{threshold:g}"
    columns = np.array([mean_of(per_joint[list(c)]) for c in metric.columns.values()])
    result = {
        f"{name}, mean over {len(chosen)} joints, every joint weighs the same": float(mean_of(per_joint[chosen])),
        f"{name}, {len(chosen)} joints pooled, every labeled joint of every person weighs the same": _pooled(
            hits, seen, chosen
        ),
    }
    if len(chosen) < joints:
        result[f"{name}, all {joints} joints pooled"] = _pooled(hits, seen, list(range(joints)))
    if {len(c) for c in metric.columns.values()} != {2}:
        result[f"{name}, mean over the {len(columns)} columns"] = float(mean_of(columns))
    if threshold != metric.fine:
        tight, _ = percent_right(errors, seen, [metric.fine], metric.strict)
        name = f"{metric.name}@{metric.fine:g}, mean over {len(chosen)} joints"
        result[name] = float(mean_of(tight[0, chosen]))
    grid = steps(metric.threshold)
    curve = mean_of(percent_right(errors, seen, grid, metric.strict)[0][:, chosen])
    name = f"area under the {metric.name} curve, thresholds 0 to {metric.threshold:g}"
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
        mean: unweighted mean over the joints of the metric (NaN if none was scored).
        columns: columns of the paper, left and right averaged (NaN if none was scored).
        count: number of people scored.
        settings: the convention, JSON-serializable; ``"left_out"`` counts people not scored, by reason.
        conventions: percent under other conventions, by name.
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
        """Return two lines of text with the columns of the paper, Mean last."""
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
        """Return one line of text per convention, and one for people left out and anomalies."""
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
    """Compute the person-centric PCK of Leeds Sports Pose.

    A joint is correct where error / torso <= ``threshold``, where torso is the distance from left shoulder to right hip
    of the ground truth. Head is the mean of neck and head top; Mean is over the 14 joints.

    Args:
        predictions: (N, 14, 2), x and y in image pixels. NaN counts as wrong.
        ground_truth: (N, 14, 2), in the same pixels.
        visible: (N, 14), true where labeled; None: wherever the truth is finite. People without both torso
            joints, with a torso of length 0 or without any labeled joint are excluded from ``count`` and counted in
            ``settings["left_out"]``.
        threshold: fraction of the torso.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labeled joints outside
            the image are counted in ``settings["joints_outside_image"]``; they are scored nevertheless.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, a threshold that is not positive, or a visible joint that is not finite.
    """
    _, truth, seen = _checked(predictions, ground_truth, visible, threshold, PCK)
    length = torso_length(truth, seen)
    return PCK.score(predictions, truth, seen, length, threshold=threshold, image_size=image_size)


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
    """Compute the PCKh of MPII Human Pose.

    A joint is correct where error / head_size < ``threshold``, strictly. Unlabeled joints are ignored. Mean is the
    unweighted mean over 14 joints, without pelvis and thorax.

    Args:
        predictions: (N, 16, 2), x and y in image pixels. NaN counts as wrong.
        ground_truth: (N, 16, 2), in the same pixels.
        head_size: (N,), 0.6 times the diagonal of the head box, in the same pixels.
        visible: (N, 16), true where labeled; None: wherever the truth is finite. People without any labeled
            joint are excluded from ``count`` and counted in ``settings["left_out"]``.
        threshold: fraction of ``head_size``.
        on_bad_size: for a head size that is not positive and finite, ``"raise"`` ValueError or ``"leave_out"`` the
            person, counted in ``settings["left_out"]``.
        image_size: (N, 2), width and height of each person's image in pixels. With it, labeled joints outside
            the image are counted in ``settings["joints_outside_image"]``; they are scored nevertheless.

    Returns:
        A Score in percent.

    Raises:
        ValueError: wrong shapes, N = 0, a head size or threshold that is not positive, or a visible joint that is
            not finite.
    """
    size = np.asarray(head_size, dtype=np.float64)
    if on_bad_size not in ("raise", "leave_out"):
        raise ValueError(f"on_bad_size must be 'raise' or 'leave_out', got {on_bad_size!r}")
    good = np.isfinite(size) & (size > 0)
    if on_bad_size == "raise" and not good.all():
        worst = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"head_size[{worst}] is {size[worst]:g}; every head size must be positive "
            "(on_bad_size='leave_out' leaves such people out and counts them)"
        )
    return PCKH.score(predictions, ground_truth, visible, size, threshold=threshold, image_size=image_size)


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
    """Compute the PCK of any skeleton: a joint is correct where error / box_size <= ``threshold``.

    Args:
        predictions: (N, K, 2), x and y in image pixels. NaN counts as wrong.
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
    return box_metric(skeleton).score(
        predictions, ground_truth, visible, box_size, threshold=threshold, image_size=image_size
    )


def _checked(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    visible: npt.ArrayLike | None,
    threshold: float,
    metric: Metric,
) -> tuple[Float64Array, Float64Array, BoolArray]:
    predicted = np.asarray(predictions, dtype=np.float64)
    truth = np.asarray(ground_truth, dtype=np.float64)
    joints = len(metric.skeleton)
    for name, array in (("predictions", predicted), ("ground_truth", truth)):
        if array.ndim != 3 or array.shape[1:] != (joints, 2):
            raise ValueError(f"{name} must have shape (N, {joints}, 2), got {array.shape}")
    if len(predicted) != len(truth):
        raise ValueError(
            f"predictions and ground_truth must have as many people, got {len(predicted)} and {len(truth)}"
        )
    if len(truth) == 0:
        raise ValueError("ground_truth must have at least one person, got no people")
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    finite: BoolArray = np.asarray(np.isfinite(truth).all(axis=-1))
    seen = finite if visible is None else np.asarray(visible).astype(bool)
    if seen.shape != truth.shape[:2]:
        raise ValueError(f"visible must have shape {truth.shape[:2]}, got {seen.shape}")
    unknown = np.argwhere(seen & ~finite)
    if len(unknown):
        person, joint = unknown[0]
        raise ValueError(f"ground_truth[{person}, {joint}] is not finite, but visible says that it is labeled")
    return predicted, truth, seen


def _outside(truth: Float64Array, seen: BoolArray, image_size: npt.ArrayLike) -> int:
    size = np.asarray(image_size, dtype=np.float64)
    if size.shape != (len(truth), 2):
        raise ValueError(f"image_size must have shape ({len(truth)}, 2), width and height, got {size.shape}")
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


# Constants of COCO's object keypoint similarity: COCO's own, and CrowdPose's for neck and top of the head.
_OKS_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089, "neck": 0.079, "head": 0.079, "head top": 0.079, "top head": 0.079,
}  # fmt: skip
_USUAL_SIGMA = 0.079
_SHARE_OF_BOX = 0.53  # a person's area over that of the box, on average in COCO


def oks_sigmas(joints: Sequence[str]) -> tuple[float | None, ...]:
    """COCO's constants of the object keypoint similarity for joints of these names; None for joints it has none of."""
    return tuple(_OKS_SIGMAS.get(joint.bare) for joint in sides_of(joints))


def keypoint_similarity(
    joints: npt.ArrayLike,
    others: npt.ArrayLike,
    sigmas: Sequence[float | None],
    *,
    areas: npt.ArrayLike | None = None,
    labeled: npt.ArrayLike | None = None,
) -> Float64Array:
    """Compute COCO's object keypoint similarity (OKS) of every pose with every other.

    The mean over joints of exp(-d^2 / (2 (2 sigma)^2 area)): 1 where two poses are the same, 0.5 where their joints are
    about 1.2 times 2 sigma apart, sigma being how far people who label a joint disagree, in square roots of areas.

    Args:
        joints: (N, K, 2), x and y.
        others: (M, K, 2).
        sigmas: K constants of the joints; None takes that of a shoulder.
        areas: (M,), of the others in square pixels; None: 0.53 of the boxes around their labeled joints, which are
            widened by a tenth of their longer sides all around, since flesh surrounds joints.
        labeled: (M, K), the joints of the others that count; None: all.

    Returns:
        (N, M); 0 for others without a labeled joint.

    Raises:
        ValueError: the shapes do not match.
    """
    a, b = np.asarray(joints, dtype=np.float64), np.asarray(others, dtype=np.float64)
    k = len(sigmas)
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != (k, 2) or b.shape[1:] != (k, 2):
        raise ValueError(f"joints has shape {a.shape} and others {b.shape}; expected (N, {k}, 2) and (M, {k}, 2)")
    known = np.ones(b.shape[:2], dtype=bool) if labeled is None else np.asarray(labeled, dtype=bool)
    if known.shape != b.shape[:2]:
        raise ValueError(f"labeled has shape {known.shape}; expected {b.shape[:2]}")
    size = pose_areas(b, known) if areas is None else np.asarray(areas, dtype=np.float64)
    variance = np.array([(2 * (_USUAL_SIGMA if sigma is None else sigma)) ** 2 for sigma in sigmas])
    distance = ((a[:, None] - b[None]) ** 2).sum(axis=3)
    near = np.exp(-distance / (2 * variance * np.maximum(size, 1e-9)[None, :, None]))
    total: Float64Array = np.where(known[None], near, 0.0).sum(axis=2) / np.maximum(known.sum(axis=1), 1)[None]
    return total


def pose_areas(joints: npt.ArrayLike, labeled: npt.ArrayLike | None = None) -> Float64Array:
    """Areas (N,) of people by their joints (N, K, 2), see `keypoint_similarity`; 0 for people without a joint."""
    points = np.asarray(joints, dtype=np.float64)
    known = np.ones(points.shape[:2], dtype=bool) if labeled is None else np.asarray(labeled, dtype=bool)
    low = np.where(known[..., None], points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(known[..., None], points, -np.inf).max(axis=1, initial=-np.inf)
    sides: Float64Array = np.where(np.any(known, axis=1, keepdims=True), high - low, 0.0)
    sides = sides + 0.2 * sides.max(axis=1, initial=0.0, keepdims=True)
    area: Float64Array = _SHARE_OF_BOX * sides.prod(axis=1)
    return area
