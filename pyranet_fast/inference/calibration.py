"""How far scores can be trusted: the share of right joints among those of about one score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..io import atomic_write
from ..metrics import Float64Array


@dataclass(frozen=True)
class Calibration:
    """Sort joints by their scores into bins of equal counts.

    Attributes:
        scores: (B,) mean score of each bin, ascending.
        right: (B,) share of right joints, 0 to 1.
        count: (B,) joints in each bin.
        ranking: chance that a right joint scores higher than a wrong one (area under the ROC curve): 1 where scores
            tell right from wrong, 0.5 where they say nothing; NaN where there are no wrong or no right ones.
    """

    scores: Float64Array
    right: Float64Array
    count: npt.NDArray[np.int64]
    ranking: float

    def chance(self, score: npt.ArrayLike) -> Float64Array:
        """Share of right joints at a score, between the bins by straight lines, never falling as scores rise."""
        return np.interp(np.asarray(score, dtype=np.float64), self.scores, _rising(self.right, self.count))

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary that is valid JSON."""
        return {
            "scores": self.scores.round(4).tolist(),
            "right": self.right.round(4).tolist(),
            "count": self.count.tolist(),
            "ranking": round(self.ranking, 4) if np.isfinite(self.ranking) else None,
        }

    @classmethod
    def from_dict(cls, content: Any) -> Calibration:
        """What `as_dict` wrote.

        Raises:
            UserError: something else.
        """
        try:
            scores, right = (np.asarray(content[name], dtype=np.float64) for name in ("scores", "right"))
            count = np.asarray(content["count"], dtype=np.int64)
            ranking = float("nan") if content.get("ranking") is None else float(content["ranking"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                "calibration has no lists scores, right and count; evaluate's calibration.json has"
            ) from error
        if not (scores.ndim == 1 and scores.shape == right.shape == count.shape and len(scores)) or not (
            np.isfinite(scores).all() and ((right >= 0) & (right <= 1)).all() and (count > 0).all()
        ):
            raise UserError("calibration must be as many scores as shares between 0 and 1 and counts above 0")
        return cls(scores, right, count, ranking)


def calibrate(scores: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10) -> Calibration:
    """Compare scores with what was right.

    Args:
        scores: (M,) finite.
        right: (M,) true where the joint is right.
        bins: their number; fewer where there are fewer joints.

    Raises:
        ValueError: nothing given, other shapes, scores that are not finite, or ``bins`` below 1.
    """
    values, hits = np.asarray(scores, dtype=np.float64), np.asarray(right).astype(bool)
    if values.ndim != 1 or values.shape != hits.shape or len(values) == 0:
        raise ValueError(f"scores and right must have shape (M,) with M above 0, got {values.shape} and {hits.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite; omit joints without a prediction")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return Calibration(
        scores=np.array([values[part].mean() for part in parts]),
        right=np.array([hits[part].mean() for part in parts]),
        count=np.array([len(part) for part in parts]),
        ranking=ranking(values, hits),
    )


def ranking(values: Float64Array, hits: npt.NDArray[np.bool_]) -> float:
    """Chance that a value of ``hits`` is above one of the others (area under the ROC curve); NaN where one kind lacks.

    Args:
        values: (M,), finite.
        hits: (M,).
    """
    good, bad = np.sort(values[hits]), np.sort(values[~hits])
    if not len(good) or not len(bad):
        return float("nan")
    below = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")  # equal ones count half
    return float(below.mean() / (2 * len(bad)))


def _rising(share: Float64Array, count: npt.NDArray[np.int64]) -> Float64Array:
    """The nearest ascending shares (pool adjacent violators)."""
    blocks: list[tuple[float, int, int]] = []  # share, joints, bins
    for value, joints in zip(share.tolist(), count.tolist(), strict=True):
        blocks.append((value, joints, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n, i), (b, m, j) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m, i + j)]
    return np.repeat([value for value, _, _ in blocks], [bins for _, _, bins in blocks])


def plot_calibration(path: str | Path, calibration: Calibration, title: str = "") -> None:
    """Write a PNG of the share of right joints against the score.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(calibration.scores, 100 * calibration.right, "o-", markersize=4)
    axis.set(xlabel="score of a joint", ylabel="right joints / %", ylim=(0, 100), xlim=(0, None))
    axis.set_title(title.replace("$", r"\$"), fontsize=9)
    axis.grid(alpha=0.3)
    atomic_write(Path(path), lambda file: figure.savefig(file, format="png", dpi=120))
