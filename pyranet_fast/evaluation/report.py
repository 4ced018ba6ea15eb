"""Output files of an evaluation: metrics.json, tables with published results, curves and predictions."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..data.dataset import PeopleSource
from ..errors import UserError
from ..inference.calibration import calibrate, plot_calibration
from ..io import atomic_write
from ..metrics import PCKH, Metric, Published, Score
from .curves import Curve, pck_curve
from .prediction_writer import write_coco_json, write_hdf5, write_mpii_mat
from .worst_page import people_errors, worst_page

COLUMNS = tuple(PCKH.columns)
"""The paper's columns, of PCK and PCKh alike."""
FORMATS = ("text", "markdown", "latex", "html")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: method or checkpoint.
        metric: with its threshold, such as ``"PCKh@0.5"``.
        data: the people it was measured on, such as ``"MPII test"``: rows of different data are told apart.
        mean: percent.
        columns: percent by column; what is absent or NaN is shown as a dash.
        published: taken from a publication, not measured here.
        note: what a reader must know: training data, scales, convention; for a published row its source.
    """

    name: str
    metric: str
    data: str
    mean: float
    columns: Mapping[str, float] = field(default_factory=dict)
    published: bool = False
    note: str = ""


def row_of(score: Score, name: str, data: str, note: str = "") -> Row:
    """The row of a score measured here.

    Args:
        score: from ``pck``, ``pckh`` or ``score_files``.
        name: method or checkpoint.
        data: the people scored, such as ``"LSP 1001-1500"``.
        note: what a reader must know: training data, scales.
    """
    left_out = sum(score.settings.get("left_out", {}).values())
    parts = [note, f"{score.count} people", f"{left_out} left out" if left_out else ""]
    return Row(name, score.metric, data, score.mean, dict(score.columns), False, ", ".join(p for p in parts if p))


def published_beside(metric: Metric, data: str | None = None) -> list[Row]:
    """Published rows of a metric, of the given data alone where ``data`` is not None."""
    return [_published_row(metric, figure) for figure in metric.published if data in (None, figure.data)]


def _published_row(metric: Metric, figure: Published) -> Row:
    columns = dict(zip(metric.columns, figure.columns, strict=True)) if figure.columns else {}
    return Row(figure.name, metric.at(), figure.data, figure.mean, columns, True, figure.note)


def results_table(
    rows: Sequence[Row],
    format: Literal["text", "markdown", "latex", "html"] = "text",
    columns: Sequence[str] = COLUMNS,
) -> str:
    """A table in a metric's columns, the mean last, followed by a numbered note for every row that has one.

    Published rows say so beside their name. Where rows are of different metrics or people, a sentence under the
    table says that they cannot be compared.

    Args:
        rows: in the order in which they appear; at least one.
        format: ``"text"`` (aligned), ``"markdown"``, ``"latex"`` (a tabular) or ``"html"`` (a table element).
        columns: names in their order; the paper's unless said otherwise.

    Raises:
        ValueError: no rows, another format, or a row with a column that is not in ``columns``.
    """
    if not rows:
        raise ValueError("rows is empty; a table needs at least one row")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    for row in rows:
        unknown = sorted(row.columns.keys() - set(columns))
        if unknown:
            raise ValueError(f"columns of row {row.name!r} must be among {', '.join(columns)}, got {unknown[0]!r}")
    notes: list[str] = []
    lines = [["Method", "Metric", "People", *columns, "Mean"]]
    for row in rows:
        name = f"{row.name} (published)" if row.published else row.name
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            name += f" [{notes.index(row.note) + 1}]"
        values = [*(row.columns.get(column, math.nan) for column in columns), row.mean]
        # Published figures have one decimal; more would pretend.
        digits = 1 if row.published else 2
        cells = [f"{value:.{digits}f}" if math.isfinite(value) else "-" for value in values]
        lines.append([name, row.metric, row.data, *cells])
    below = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    warning = _comparable(rows)
    if warning:
        below.append(warning)
    return {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}[format](lines, below)


def _comparable(rows: Sequence[Row]) -> str:
    kinds = list(dict.fromkeys((row.metric, row.data) for row in rows))
    if len(kinds) == 1:
        return ""
    named = "; ".join(f"{metric} on {data}" for metric, data in kinds)
    return f"Rows of different people or metrics ({named}) stand side by side here and cannot be compared as they are."


def _text(lines: list[list[str]], below: list[str]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    shown.insert(1, "-" * len(shown[0]))
    return "\n".join([*shown, *([""] if below else []), *below])


def _markdown(lines: list[list[str]], below: list[str]) -> str:
    def safe(text: str) -> str:
        for mark in "\\|*_`<>[]":
            text = text.replace(mark, "\\" + mark)
        return text

    shown = ["| " + " | ".join(safe(cell) for cell in line) + " |" for line in lines]
    shown.insert(1, "|" + "|".join("---" if i < 3 else "---:" for i in range(len(lines[0]))) + "|")
    # A blank line after each, or Markdown joins them into one paragraph.
    return "\n".join([*shown, *(part for line in below for part in ("", safe(line)))])


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _latex(lines: list[list[str]], below: list[str]) -> str:
    def safe(text: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in text)

    # A bracket after \\ would be read as its argument, so a line starts with an empty group.
    shown = ["{}" + " & ".join("--" if cell == "-" else safe(cell) for cell in line) + r" \\" for line in lines]
    shown = [r"\begin{tabular}{lll" + "r" * (len(lines[0]) - 3) + "}", r"\hline", shown[0], r"\hline", *shown[1:]]
    return "\n".join([*shown, r"\hline", r"\end{tabular}", *(f"\n\\noindent {safe(line)}" for line in below)])


def _html(lines: list[list[str]], below: list[str]) -> str:
    def row(line: list[str], kind: str) -> str:
        return "".join(
            f"<{kind}{'' if i < 3 else ' class=number'}>{html.escape(cell)}</{kind}>" for i, cell in enumerate(line)
        )

    body = "".join(f"<tr>{row(line, 'td')}</tr>\n" for line in lines[1:])
    notes = "".join(f"<p class=notes>{html.escape(line)}</p>\n" for line in below)
    return f"<table>\n<thead><tr>{row(lines[0], 'th')}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n{notes}"


def plot_curves(path: str | Path, curves: Mapping[str, Curve], *, column: str | None = None, title: str = "") -> None:
    """Write a PNG of curves over the threshold.

    Args:
        path: a ``.png`` file.
        curves: by the name in the legend; at least one, all of one metric.
        column: one of the paper's columns; None is the mean.
        title: above the picture.

    Raises:
        ValueError: no curves, curves of different metrics, a column that one lacks, or another suffix.
        OSError: the file cannot be written.
    """
    if not curves:
        raise ValueError("curves must not be empty")
    metrics = sorted({curve.metric for curve in curves.values()})
    if len(metrics) > 1:
        raise ValueError(f"curves are of {' and '.join(metrics)}; expected curves of one metric")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must be a file name ending in .png, got {str(path)!r}")
    for name, curve in curves.items():
        if column is not None and column not in curve.columns:
            raise ValueError(f"column is {column!r}; curve {name!r} has {', '.join(curve.columns)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    styles = ("-", "--", "-.", ":")  # told apart without color too
    for number, (name, curve) in enumerate(curves.items()):
        values = curve.mean if column is None else curve.columns[column]
        # Names that begin with an underscore would be left out of the legend, and $ would start a formula.
        label = ("\u200b" + name if name.startswith("_") else name).replace("$", r"\$")
        axis.plot(curve.thresholds, values, styles[number % len(styles)], linewidth=1.8, label=label)
    unit = next(iter(curves.values())).unit
    axis.set(xlabel=f"threshold / {unit}", ylabel=f"{metrics[0]} / %, {column or 'mean'}", ylim=(0, 100))
    axis.set_xlim(0, max(float(curve.thresholds[-1]) for curve in curves.values()))
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(loc="best")
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=120)
    atomic_write(Path(path), lambda file: file.write(memory.getvalue()))


_ENDINGS = {"text": "txt", "markdown": "md", "latex": "tex"}


def write_metrics(
    folder: Path, metric: Metric, score: Score, name: str, data: str, note: str = ""
) -> tuple[str, list[Path]]:
    """Write metrics.json, and the table as table.txt, .md and .tex.

    Args:
        folder: where the files go.
        metric: of the score.
        score: what is written.
        name: of the method, in the table.
        data: the people scored, in the table.
        note: under the table.

    Returns:
        The text to print, and the files.
    """
    text = json.dumps(score.as_dict(), indent=2, allow_nan=False)
    files = [folder / "metrics.json"]
    atomic_write(files[0], lambda file: file.write(text.encode()))
    rows: list[Row] = [row_of(score, name, data, note)]
    rows += published_beside(metric)
    columns = tuple(metric.columns)
    for form, ending in _ENDINGS.items():
        shown = results_table(rows, form, columns)  # type: ignore[arg-type]
        files.append(folder / f"table.{ending}")
        atomic_write(files[-1], lambda file, shown=shown: file.write(f"{shown}\n".encode()))
    return f"{results_table(rows, columns=columns)}\n\n{score.readings()}", files


def write_curves(folder: Path, errors: npt.ArrayLike, metric: Metric, name: str, data: str) -> list[Path]:
    """Write curves.json and curves.png of errors (N, K) in units of the metric."""
    if not np.isfinite(np.asarray(errors)).any():
        return []
    curve = pck_curve(errors, metric=metric)
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
    points, scores = published_points(people, predictions), predictions[..., 2]
    files = [folder / "predictions.h5"]
    write_hdf5(files[0], points, scores, skeleton=people.skeleton, attrs={k: str(v) for k, v in (attrs or {}).items()})
    if "coco" in also:
        files.append(folder / "coco_results.json")
        records = [people.record(i) for i in range(len(people))]
        write_coco_json(
            files[-1],
            points,
            scores,
            [record.image_id for record in records],
            category_id=[record.category_id for record in records],
            annotation_ids=[record.annotation_id for record in records],
        )
    if "mpii" in also:
        numbers = mpii_numbers(people)
        files.append(folder / "mpii_pred.mat")
        write_mpii_mat(files[-1], points, numbers[:, 0], numbers[:, 1])
    return files


def published_points(people: PeopleSource, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Predictions (N, K, 2 or 3) in the pixels of ``people.image(i)`` as (N, K, 2) in those of the published images."""
    points = predictions[..., :2].astype(np.float64)
    for index in np.flatnonzero(np.isfinite(points).any(axis=(1, 2))):
        points[index] = people.to_original(int(index), points[index])
    return points


def mpii_numbers(people: PeopleSource) -> npt.NDArray[np.int64]:
    """Places of people in MPII's list, (N, 2): image and person, from 1; UserError where they are not known."""
    places = [people.record(index).place for index in range(len(people))]
    if None in places:
        raise UserError(f"{people.name}: the places of these people in MPII's list are not known; write coco instead")
    return np.array(places, dtype=np.int64)


def write_calibration(
    folder: Path, scores: npt.ArrayLike, errors: npt.ArrayLike, metric: Metric, title: str
) -> list[Path]:
    """Write calibration.json and calibration.png: the share of right joints by score, of errors (N, K) and scores."""
    values, away = np.asarray(scores, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    known = np.isfinite(values) & ~np.isnan(away)
    if not known.any():
        return []
    found = calibrate(values[known], metric.right(away[known]))
    files = [folder / "calibration.json", folder / "calibration.png"]
    text = json.dumps({"metric": metric.name, "threshold": metric.threshold, **found.as_dict()})
    atomic_write(files[0], lambda file: file.write(text.encode()))
    plot_calibration(files[1], found, title)
    return files


def write_worst(
    folder: Path, people: PeopleSource, predictions: npt.NDArray[np.float32], name: str, data: str, count: int
) -> list[Path]:
    """Write the curves of predictions, their calibration, and the page of the ``count`` worst."""
    errors = people_errors(people, predictions)
    errors[np.isnan(predictions).all(axis=(1, 2))] = np.nan  # unreadable images, which no score counts
    files = write_curves(folder, errors, people.metric, name, data)
    files += write_calibration(folder, predictions[..., 2], errors, people.metric, f"{name}, {data}")
    if count and not np.isnan(errors).all():
        worst_page(folder, people, predictions, errors, count)
        files.append(folder / "worst.html")
    return files
