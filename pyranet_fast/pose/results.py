"""The files of an evaluation: metrics.json, tables, curves, predictions, the worst of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..atomic import atomic_write
from ..data.base import PeopleSource
from ..errors import UserError
from .box_metric import box_convention
from .calibration import calibrate, plot_calibration
from .conventions import CONVENTIONS, Convention
from .curves import pck_curve
from .export_predictions import write_coco_json, write_hdf5, write_mpii_mat
from .metrics import Score
from .tables import COLUMNS, Row, plot_curves, published_beside, row_of, table
from .worst import people_errors, worst_page

_ENDINGS = {"text": "txt", "markdown": "md", "latex": "tex"}


def write_metrics(
    folder: Path, score: Score, name: str, data: str, note: str = "", *, published: bool = True
) -> tuple[str, list[Path]]:
    """Write metrics.json, and the table as table.txt, .md and .tex.

    Args:
        folder: where the files go.
        score: what is written.
        name: of the method, in the table.
        data: the people scored, in the table.
        note: under the table.
        published: put published rows of the metric beside it.

    Returns:
        The text to print, and the files.
    """
    text = json.dumps(score.as_dict(), indent=2, allow_nan=False)
    files = [folder / "metrics.json"]
    atomic_write(files[0], lambda file: file.write(text.encode()))
    if not score.columns.keys() <= set(COLUMNS):  # a skeleton of the user's own: nothing published stands beside it
        return f"{score.table()}\n{score.readings()}", files
    rows: list[Row] = [row_of(score, name, data, note)]
    rows += published_beside(score.metric) if published else []
    for form, ending in _ENDINGS.items():
        shown = table(rows, form)  # type: ignore[arg-type]
        files.append(folder / f"table.{ending}")
        atomic_write(files[-1], lambda file, shown=shown: file.write(f"{shown}\n".encode()))
    return f"{table(rows)}\n\n{score.readings()}", files


def write_curves(folder: Path, errors: npt.ArrayLike, convention: Convention, name: str, data: str) -> list[Path]:
    """Write curves.json and curves.png of errors (N, K) in units of the metric."""
    if not np.isfinite(np.asarray(errors)).any():
        return []
    curve = pck_curve(errors, convention=convention)
    files = [folder / "curves.json", folder / "curves.png"]
    text = json.dumps(curve.as_dict(), allow_nan=False)
    atomic_write(files[0], lambda file: file.write(text.encode()))
    plot_curves(files[1], {name: curve}, title=data)
    return files


def write_predictions(
    folder: Path,
    people: PeopleSource,
    predictions: npt.NDArray[np.float32],
    also: Sequence[str] = (),
    attrs: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write predictions.h5 and the further formats asked for.

    Args:
        folder: where the files go.
        people: whose predictions they are.
        predictions: (N, K, 3), x and y in the pixels of ``people.image(i)``, score; NaN where there is none. The
            files get the pixels of the published images.
        also: ``"coco"`` writes COCO's list of results, coco_results.json; ``"mpii"`` the layout of MPII's
            evaluation server, mpii_pred.mat.
        attrs: what predictions.h5 says of its making.

    Raises:
        UserError: ``"mpii"`` for people whose numbers in MPII's list are not known.
    """
    points, scores = predictions[..., :2].astype(np.float64), predictions[..., 2]
    for index in np.flatnonzero(np.isfinite(points).any(axis=(1, 2))):
        points[index] = people.to_original(int(index), points[index])
    files = [folder / "predictions.h5"]
    write_hdf5(files[0], points, scores, skeleton=people.skeleton, attrs={k: str(v) for k, v in (attrs or {}).items()})
    if "coco" in also:
        files.append(folder / "coco_results.json")
        write_coco_json(files[-1], points, scores, [people.image_id(i) for i in range(len(people))])
    if "mpii" in also:
        numbers = mpii_numbers(people)
        files.append(folder / "mpii_pred.mat")
        write_mpii_mat(files[-1], points, numbers[:, 0], numbers[:, 1])
    return files


def mpii_numbers(people: PeopleSource) -> npt.NDArray[np.int64]:
    """Places of people in MPII's list, (N, 2): image and person, from 1; UserError where they are not known."""
    numbers = getattr(people, "numbers", None)
    if numbers is None:
        raise UserError(f"{people.name}: the places of these people in MPII's list are not known; write coco instead")
    return np.asarray(numbers, dtype=np.int64)


def write_calibration(
    folder: Path, scores: npt.ArrayLike, errors: npt.ArrayLike, convention: Convention, title: str
) -> list[Path]:
    """Write calibration.json and calibration.png: the share of right joints by score, of errors (N, K) and scores."""
    values, away = np.asarray(scores, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    known = np.isfinite(values) & ~np.isnan(away)
    if not known.any():
        return []
    right = away < convention.usual if convention.strict else away <= convention.usual
    found = calibrate(values[known], right[known])
    files = [folder / "calibration.json", folder / "calibration.png"]
    text = json.dumps({"metric": convention.metric, "threshold": convention.usual, **found.as_dict()})
    atomic_write(files[0], lambda file: file.write(text.encode()))
    plot_calibration(files[1], found, title)
    return files


def write_worst(
    folder: Path, people: PeopleSource, predictions: npt.NDArray[np.float32], name: str, data: str, count: int
) -> list[Path]:
    """Write the curves of predictions, their calibration, and the page of the ``count`` worst."""
    errors = people_errors(people, predictions)
    errors[np.isnan(predictions).all(axis=(1, 2))] = np.nan  # unreadable images, which no score counts
    convention = CONVENTIONS.get(people.metric) or box_convention(people.skeleton)
    files = write_curves(folder, errors, convention, name, data)
    files += write_calibration(folder, predictions[..., 2], errors, convention, f"{name}, {data}")
    if count and not np.isnan(errors).all():
        worst_page(folder, people, predictions, errors, count)
        files.append(folder / "worst.html")
    return files
