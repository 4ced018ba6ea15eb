"""Table and pictures of a contest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from .contest import Result


def table(results: Sequence[Result]) -> str:
    """Markdown, best first; the spread is from the lowest to the highest of the seeds."""
    metric = results[0].metric
    lines = [
        f"| network | {metric} | lowest–highest | params | GFLOPs | images/s | peak MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(results, key=lambda r: -r.mean):
        spread = f"{min(r.scores):.2f}–{max(r.scores):.2f}" if len(r.scores) > 1 else "one seed"
        lines.append(
            f"| {r.name} | {r.mean:.2f} | {spread} | {r.params / 1e6:.4f} M | {r.flops / 1e9:.4f} "
            f"| {r.images_per_second:.0f} | {r.peak_megabytes:.0f} |"
        )
    return "\n".join(lines)


def write(results: Sequence[Result], folder: Path, title: str, command: str) -> list[Path]:
    """Write results.json, table.md and two pictures: scores over size and over epochs."""
    content = {"command": command, "results": [dataclasses.asdict(r) for r in results]}
    text, rows = json.dumps(content, indent=1), table(results)
    files = [folder / name for name in ("results.json", "table.md", "scores.png", "curves.png")]
    atomic_write(files[0], lambda file: file.write(text.encode()))
    atomic_write(files[1], lambda file: file.write(f"{rows}\n\nMade by `{command}`.\n".encode()))
    _draw_scores(results, files[2], title)
    _draw_curves(results, files[3], title)
    return files


def new_figure(title: str, columns: int = 1) -> tuple[Any, list[Any]]:
    """A titled matplotlib figure without a display, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 + 4.4 * columns, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    figure.suptitle(title)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def _draw_scores(results: Sequence[Result], path: Path, title: str) -> None:
    """A bar for each network, with every seed as a point."""
    figure, (axis,) = new_figure(title)
    names = [r.name for r in results]
    axis.bar(names, [r.mean for r in results], color="tab:blue", alpha=0.6)
    for place, r in enumerate(results):
        axis.plot([place] * len(r.scores), r.scores, "k.")
    if len(names) > 8:
        axis.tick_params("x", rotation=90)
    everything = [score for r in results for score in r.scores]
    low, high = min(everything), max(everything)
    margin = max(1.0, 0.3 * (high - low))
    axis.set(ylabel=f"{results[0].metric} / %", ylim=(max(0.0, low - margin), high + margin))
    figure.savefig(path, dpi=110)


def _draw_curves(results: Sequence[Result], path: Path, title: str) -> None:
    """Validation of the first seed over the epochs."""
    figure, (axis,) = new_figure(title)
    styles = ("-", "--", "-.", ":")  # told apart without colour too
    for number, r in enumerate(results):
        epochs, scores = zip(*r.curves[0], strict=True)
        axis.plot(epochs, scores, styles[number % 4], marker="o", markersize=3, label=r.name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="epoch", ylabel=f"{results[0].metric} / %, validation")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
