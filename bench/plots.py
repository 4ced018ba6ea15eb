"""Pictures of results: throughput by batch, growth of time and memory, operators under the ceiling of a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.growth import AXES, along

TITLES = {"batch": "batch", "stacks": "stacks", "levels": "pyramid levels C", "side": "resolution, px"}


def _figure(title: str, columns: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.6 * columns + 2.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.split(", torch")[0], fontsize=9)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, list(axes)


def throughput(content: dict[str, Any]) -> Figure | None:
    """Images a second by batch, of inference and training."""
    series = along([row for row in content["rows"] if row["part"] == "growth"], "batch")
    if not series:  # no growth was measured: the batches of bench.model
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in content["rows"]:
            if row["part"] == "model" and "images_per_s" in row:
                found.setdefault((row["mode"], f"{row['form']}, {row['stacks']} stacks"), []).append(row)
        series = {key: rows for key, rows in found.items() if len({row["batch"] for row in rows}) > 1}
    if not series:
        return None
    modes = sorted({mode for mode, _ in series})
    figure, axes = _figure(content["machine"], len(modes))
    for axis, mode in zip(axes, modes, strict=True):
        for (of, form), found in series.items():
            if of == mode:
                axis.plot([r["batch"] for r in found], [r["images_per_s"] for r in found], **_style(form))
        axis.set(title=mode, xlabel="batch", ylabel="images a second", ylim=(0, None))
        axis.set_xticks(sorted({row["batch"] for found in series.values() for row in found}))
    _legend(axes[-1])
    return figure


def growth(content: dict[str, Any], axis_name: str) -> Figure | None:
    """Time and memory along an axis; the broken line is what the arithmetic alone would take, from the base's time."""
    rows = [row for row in content["rows"] if row["part"] == "growth"]
    series = along(rows, axis_name)
    if not series:
        return None
    modes = sorted({mode for mode, _ in series})
    figure, axes = _figure(content["machine"], 2 * len(modes))
    for number, mode in enumerate(modes):
        times, memory = axes[2 * number : 2 * number + 2]
        for (of, form), found in series.items():
            if of != mode:
                continue
            at = [row[axis_name] for row in found]
            line = times.plot(at, [row["ms"] for row in found], **_style(form))[0]
            base = min(found, key=lambda row: abs(row[axis_name] - row["base"][axis_name]))
            if all(row.get("GFLOP") for row in found):
                work = [row["GFLOP"] / base["GFLOP"] * base["ms"] for row in found]
                times.plot(at, work, linestyle=":", color=line.get_color(), linewidth=1)
            known = [row for row in found if "peak_MB" in row]
            memory.plot([row[axis_name] for row in known], [row["peak_MB"] for row in known], **_style(form))
        times.set(title=f"{mode}: time (dotted: by GFLOP)", ylabel="ms")
        memory.set(title=f"{mode}: most memory", ylabel="MB")
        for axis in (times, memory):
            axis.set(xlabel=TITLES[axis_name], ylim=(0, None))
    _legend(axes[-1])
    return figure


def roofline(content: dict[str, Any]) -> Figure | None:
    """Bytes a second of every operator's case by its bytes, beside a copy of as many."""
    rows = [row for row in content["rows"] if row["part"] == "operators" and "GB_per_s" in row]
    if not any(row["form"].startswith("ours") for row in rows):
        return None
    figure, (axis,) = _figure(content["machine"], 1)
    copies = sorted((row["MB"], row["GB_per_s"]) for row in rows if row["form"] == "copy")
    if copies:
        axis.plot(*zip(*copies, strict=True), ".", color="0.7", markersize=3, label="copy")
    names = sorted({row["operator"] for row in rows})
    for number, name in enumerate(names):
        of = [row for row in rows if row["operator"] == name]
        for forms, marker in (("ours", "o"), ("eager", "x")):
            points = [(row["MB"], row["GB_per_s"]) for row in of if row["form"].startswith(forms)]
            if points:
                label = f"{name}, {forms}"
                axis.plot(*zip(*points, strict=True), marker, color=f"C{number}", markersize=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="MB that must move", ylabel="GB a second")
    _legend(axis)
    return figure


def _legend(axis: Any) -> None:
    """Beside the last plot, where it hides nothing."""
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _style(form: str) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4, "label": form, "linewidth": 2 if form.startswith("ours") else 1}


def draw(contents: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Every picture that the files have rows for; ``contents`` by the files' names, which the pictures bear too."""
    written = []
    for name, content in contents.items():
        figures = {"throughput": throughput(content), "roofline": roofline(content)}
        figures |= {f"growth-{axis}": growth(content, axis) for axis in AXES}
        for kind, figure in figures.items():
            if figure is not None:
                path = folder / f"{name}-{kind}.png"
                figure.savefig(path, dpi=110)
                written.append(path)
    return written
