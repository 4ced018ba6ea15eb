"""report.html: one self-contained page per training run: curves, table, images, settings, speed, warnings."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import torch

from ..data.dataset import Image
from ..data.image_io import encode_image
from ..errors import one_line
from ..evaluation.curves import Curve
from ..evaluation.report import Row, results_table
from ..io import atomic_write
from ..ops import available_backends
from ..ops.cpu.policy import cpu_isa, cpu_name
from .config import RunConfig, flag_of
from .distributed import world_size
from .logging import peak_megabytes

FILE = "report.html"
_TEMPLATE = Path(__file__).with_name("report.html")
_GROUPS = {"best": "Best", "typical": "Typical", "worst": "Worst"}
_POINTS = 500  # of a curve: more cannot be told apart on a screen
_WARNINGS = 40
_QUALITY = 85  # of JPEG
_OVER_THRESHOLD = " over the threshold"  # end of the title of that chart


@dataclass(frozen=True)
class Example:
    """A validation sample with its prediction.

    Attributes:
        group: ``"best"``, ``"typical"`` or ``"worst"``.
        picture: (H, W, 3) uint8 RGB.
        caption: one line of text.
    """

    group: str
    picture: Image
    caption: str


@dataclass(frozen=True)
class Findings:
    """Validation results of a task for the report.

    Attributes:
        rows: rows of the table: the result, then published ones.
        columns: columns of the table, in order.
        examples: example images.
        curve: accuracy over the threshold, for poses.
        convention: convention of the validation, such as ``"single scale, no flip"``.
        legend: legend of the colors in images, as HTML.
    """

    rows: Sequence[Row] = ()
    columns: Sequence[str] = ()
    examples: Sequence[Example] = ()
    curve: Curve | None = None
    convention: str = ""
    legend: str = ""


class WarningLog(logging.Handler):
    """Collects logged warnings, each once, in order of first appearance."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = one_line(record.getMessage())
        if line not in self.lines:
            self.lines.append(line)


@contextmanager
def kept_warnings() -> Iterator[WarningLog]:
    """Collect warnings of the package's logger within the context."""
    log = WarningLog()
    logger = logging.getLogger("pyranet_fast")
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)


@dataclass
class Report:
    """HTML report of a training run, rewritten after each epoch and when training ends or is stopped.

    Images are those of the last validation.

    Attributes:
        folder: folder of report.html.
        config: options of the training.
        device: of the network.
        facts: description of the run by name: data, network, parameters.
        warnings: collected by `kept_warnings`.
        findings: of the last validation.
    """

    folder: Path
    config: RunConfig
    device: torch.device
    facts: Mapping[str, str]
    warnings: WarningLog = field(default_factory=WarningLog)
    findings: Findings = field(default_factory=Findings)
    _examples: str = ""

    def show(self, findings: Findings) -> None:
        """Set the results of a validation."""
        self.findings, self._examples = findings, _example_lists(findings.examples, findings.legend)

    def write(self, rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any], status: str) -> Path:
        """Write the page atomically.

        Args:
            rows: rows of log.csv, one per epoch.
            results: of the last validation.
            status: status of the run, one sentence.

        Returns:
            Its path.
        """
        path = self.folder / FILE
        # A training that was resumed has no findings before its first validation: the page keeps those that it has.
        before = _Page.read(path) if results and not self._examples else _Page()
        c, found = self.config, self.findings
        title = f"{getattr(c, 'variant', getattr(c, 'model', 'network'))} on {getattr(c, 'dataset', 'data')}"
        text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=html.escape(title),
            status=html.escape(status),
            tiles=_tiles(rows, results),
            warnings=_list_of_warnings([*_findings_in(rows), *self.warnings.lines]),
            charts=_json({"charts": _charts(rows, results, found.curve, before.curve)}),
            table=before.results or _results(found),
            examples=self._examples or before.examples or _example_lists(()),
            settings=_settings(c),
            machine=_definitions({**self.facts, **self._machine(), **_speed(rows, self.device)}),
        )
        atomic_write(path, lambda file: file.write(text.encode()))
        return path

    def _machine(self) -> dict[str, str]:
        on_gpu = self.device.type == "cuda"
        isa = cpu_isa()
        processes = f", {world_size()} processes" if world_size() > 1 else ""
        return {
            "device": (torch.cuda.get_device_name(self.device) if on_gpu else "CPU") + processes,
            "processor": f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads in an operator",
            "kernels": ", ".join(available_backends()) + (f" ({isa} on the CPU)" if isa else ""),
            "precision": self.config.precision,
            "torch": str(torch.__version__),
        }


# --- sections ---


def _tiles(rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """The figures that are read first."""
    shown: list[tuple[str, str, str]] = []
    if results.get("mean") is not None:
        shown.append((f"{results['mean']:.2f}", str(results.get("metric", "validation")), "last validation"))
    scored = _series(rows, "validation")
    if len(scored) > 1:
        epoch, best = max(scored, key=lambda point: (point[1], -point[0]))
        shown.append((f"{best:.2f}", "best validation", f"epoch {epoch:g}"))
    if rows:
        last = rows[-1]
        shown.append((f"{float(last['loss']):.4g}", "training loss", f"epoch {int(last['epoch'])}"))
        rate = statistics.median(float(row["images_per_second"]) for row in rows)
        shown.append((f"{rate:.3g}", "images a second", "median epoch, training alone"))
        shown.append((_duration(sum(float(row["seconds"]) for row in rows)), "of training", "without validations"))
    return "".join(
        f"<li><strong>{html.escape(value)}</strong><span>{html.escape(name)}</span><small>{html.escape(note)}</small></li>"
        for value, name, note in shown
    )


def _findings_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures themselves warn of."""
    found = []
    waits = [float(row["data_wait"]) for row in rows]
    if waits and statistics.median(waits) > 0.2:
        found.append(
            f"training waits for data {statistics.median(waits):.0%} of its time: use more --workers, or data.pack"
        )
    scored = _series(rows, "validation")
    if len(scored) > 2:
        epoch, best = max(scored, key=lambda point: point[1])
        if best - scored[-1][1] > 1:
            found.append(f"the last validation, {scored[-1][1]:.2f}, is below that of epoch {epoch:g}, {best:.2f}")
    losses = _series(rows, "loss")
    if len(losses) > 2 and losses[-1][1] >= losses[0][1]:
        found.append("the training loss has not fallen since the first epoch: try a lower --lr, or --warmup")
    return found


def _list_of_warnings(lines: Sequence[str]) -> str:
    if not lines:
        return "<p>None.</p>"
    shown = list(lines[:_WARNINGS])
    if len(lines) > _WARNINGS:
        shown.append(f"and {len(lines) - _WARNINGS} more")
    return "<ul class=warnings>" + "".join(f"<li>{html.escape(line[:500])}</li>" for line in shown) + "</ul>"


def _charts(
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    curve: Curve | None,
    curve_before: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """What the page's script draws; x and y of each series are numbers."""

    def chart(title: str, x: str, unit: str, series: Mapping[str, list[tuple[float, float]]], **more: Any) -> None:
        lines = [{"name": name, "points": _thinned(points)} for name, points in series.items() if points]
        if lines:
            charts.append({"title": title, "x": x, "unit": unit, "series": lines, **more})

    charts: list[dict[str, Any]] = []
    chart("Loss", "epoch", "", {"training loss": _series(rows, "loss")}, log=True)
    percent = {
        "training accuracy": _series(rows, "accuracy", 100),
        f"validation, {results.get('metric', 'mean')}": _series(rows, "validation"),
    }
    chart("Accuracy", "epoch", "%", percent)
    if curve is not None:
        over = {"mean": curve.mean, **curve.columns}
        columns = {
            name: [(float(x), float(y)) for x, y in zip(curve.thresholds, ys, strict=True) if math.isfinite(y)]
            for name, ys in over.items()
        }
        chart(curve.metric + _OVER_THRESHOLD, f"threshold / {curve.unit}", "%", columns)
    elif curve_before is not None:
        charts.append(curve_before)
    chart("Throughput", "epoch", "images/s", {"images a second": _series(rows, "images_per_second")}, zero=True)
    chart("Time spent waiting for data", "epoch", "%", {"data wait": _series(rows, "data_wait", 100)}, zero=True)
    chart("Learning rate", "epoch", "", {"learning rate": _series(rows, "lr")}, log=True)
    return charts


def _series(rows: Sequence[Mapping[str, Any]], name: str, factor: float = 1) -> list[tuple[float, float]]:
    """Epoch and value, where there is a finite one; rows of log.csv hold text."""
    points = [(float(row["epoch"]), factor * float(row[name])) for row in rows if row.get(name) not in (None, "")]
    return [point for point in points if math.isfinite(point[1])]


def _thinned(points: list[tuple[float, float]]) -> list[list[float]]:
    """At most `_POINTS` of them, the last one among them, with six digits."""
    step = max(1, math.ceil(len(points) / _POINTS))
    kept = points[::-1][::step][::-1]
    return [[float(f"{x:.6g}"), float(f"{y:.6g}")] for x, y in kept]


def _results(found: Findings) -> str:
    if not found.rows:
        return "<p>No validation results yet.</p>"
    convention = f"<p>Here: {html.escape(found.convention)}.</p>" if found.convention else ""
    return _marked("results", convention + results_table(found.rows, "html", found.columns))


def _example_lists(examples: Sequence[Example], legend: str = "") -> str:
    """The pictures, in the page itself."""
    parts = []
    for group, title in _GROUPS.items():
        items = []
        for example in examples:
            if example.group == group:
                data = base64.b64encode(encode_image(example.picture, ".jpg", quality=_QUALITY)).decode()
                text = html.escape(example.caption, quote=True)
                picture = f'<img src="data:image/jpeg;base64,{data}" alt="{text}">'
                items.append(f"<li><figure>{picture}<figcaption>{text}</figcaption></figure></li>")
        if items:
            parts.append(f"<h3>{title}</h3><ul class=examples>{''.join(items)}</ul>")
    shown = "\n".join([f"<p>{legend}</p>" if legend else "", *parts]) if parts else "<p>No images yet.</p>"
    return _marked("examples", shown)


@dataclass(frozen=True)
class _Page:
    """What a report that was written before shows of its last validation.

    Attributes:
        results: table, as HTML.
        examples: images, as HTML.
        curve: chart of the accuracy over the threshold.
    """

    results: str = ""
    examples: str = ""
    curve: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> _Page:
        """Nothing where there is no report, or none of this version."""
        try:
            text = path.read_text(encoding="utf-8")
            results, examples = (_part(text, name) for name in ("results", "examples"))
            data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
            charts = json.loads(data[1])["charts"] if data else []
            curve = next((chart for chart in charts if chart["title"].endswith(_OVER_THRESHOLD)), None)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return cls()
        return cls(results, examples, curve)


def _marked(name: str, text: str) -> str:
    return f"<!-- {name} -->{text}<!-- end of {name} -->"


def _part(page: str, name: str) -> str:
    found = re.search(re.escape(_marked(name, "%")).replace("%", ".*?"), page, re.DOTALL)
    return found[0] if found else ""


def _settings(config: RunConfig) -> str:
    """Every option as its flag; those that are not the default stand out."""
    lines = []
    for option in sorted(config.options(), key=lambda option: option.name):
        value, default = getattr(config, option.name), option.default
        changed = default is not dataclasses.MISSING and value != default
        name, shown = html.escape(flag_of(option.name)), html.escape(str(value))
        lines.append(f"<tr><th>{name}</th><td>{f'<strong>{shown}</strong>' if changed else shown}</td></tr>")
    return f"<table class=pairs><tbody>{''.join(lines)}</tbody></table>"


def _definitions(pairs: Mapping[str, str]) -> str:
    lines = (f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in pairs.items())
    return f"<table class=pairs><tbody>{''.join(lines)}</tbody></table>"


def _speed(rows: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, str]:
    if not rows:
        return {}
    rates = [float(row["images_per_second"]) for row in rows]
    waits = [float(row["data_wait"]) for row in rows]
    where = "GPU memory of tensors" if device.type == "cuda" else "memory of the process"
    return {
        "images a second": f"{statistics.median(rates):.1f} (median epoch; {min(rates):.1f} to {max(rates):.1f})",
        "data wait": f"{statistics.median(waits):.1%} of the time (median epoch)",
        f"peak {where}": f"{peak_megabytes(device):.0f} MB",
    }


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
