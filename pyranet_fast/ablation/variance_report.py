"""Tables and pictures of `pyranet_fast.ablation.variance`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from . import variance
from .contest_report import new_figure
from .variance import Trace

LABELS = {"xavier": "Xavier", "kaiming": "MSR (Kaiming)", "torch": "PyTorch's own", "paper": "equation 15"}


def growth(values: list[float]) -> float:
    """The factor of one step from the first value to the last, as a geometric mean."""
    return (values[-1] / values[0]) ** (1 / (len(values) - 1))


def measure(seed: int = 0) -> dict[str, dict[str, Trace]]:
    """All studies, by name and by network."""
    return {
        "branches": {rule: variance.stacks_of_branches(rule, seed=seed) for rule in variance.RULES},
        "resnet": {"ResNet-112": variance.residual_network(seed=seed)},
        "hourglass": {
            "identity skips": variance.hourglass_sums(False, seed=seed),
            "variance control": variance.hourglass_sums(True, seed=seed),
        },
        "stacks": {rule: variance.stacked_hourglasses(rule, seed=seed) for rule in ("torch", *variance.RULES)},
    }


def tables(found: dict[str, dict[str, Trace]]) -> str:
    """Markdown of what was measured."""
    lines = [
        "20 modules of 4 parallel 1x1 convolutions without batch norm, 512 channels, mean of 8 networks; factor of one "
        "module (geometric mean), lowest and highest variance relative to the first module (gradients: the last):",
        "",
        "| initialisation | forward, a module | range | backward, a module | range |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, one in found["branches"].items():
        gradients = one.gradients[::-1]
        cells = []
        for values in (one.responses, gradients):
            relative = [v / values[0] for v in values]
            cells += [f"× {growth(values):.2f}", f"{min(relative):.2g}–{max(relative):.2g}"]
        lines.append(f"| {LABELS[rule]} | {' | '.join(cells)} |")
    unit = found["resnet"]["ResNet-112"].responses
    third = len(unit) // 3
    lines += ["", "A pre-activation ResNet-112 as it starts, three groups of 18 units (figure 5):", ""]
    lines += ["| group | variance after its first unit | after its last |", "|---|---:|---:|"]
    lines += [f"| {g + 1} | {unit[g * third]:.2f} | {unit[(g + 1) * third - 1]:.2f} |" for g in range(3)]
    names = next(iter(found["hourglass"].values())).names
    lines += ["", "Sums of the two branches in a plain hourglass (figure 6), innermost first:", ""]
    lines += [f"| skips | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines += [f"| {k} | {' | '.join(f'{v:.2f}' for v in t.responses)} |" for k, t in found["hourglass"].items()]
    lines += [
        "",
        "Outputs of the hourglasses in 8 stacks of PRM-B* (with batch norm, 64 features), first and last stack:",
        "",
        "| initialisation | response, stack 1 | stack 8 | gradient, stack 8 | stack 1 |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, t in found["stacks"].items():
        r, g = t.responses, t.gradients
        lines.append(f"| {LABELS[rule]} | {r[0]:.2f} | {r[-1]:.2f} | {g[-1]:.3f} | {g[0]:.3g} |")
    return "\n".join(lines)


def write(folder: Path, command: str, seed: int = 0) -> str:
    """Measure, write variance.json, table.md and four pictures into ``folder``; returns the tables."""
    found = measure(seed)
    text = tables(found)
    content = {"command": command, **{k: {n: dataclasses.asdict(t) for n, t in v.items()} for k, v in found.items()}}
    atomic_write(folder / "variance.json", lambda file: file.write(json.dumps(content, indent=1).encode()))
    atomic_write(folder / "table.md", lambda file: file.write(f"{text}\n\nMade by `{command}`.\n".encode()))
    _draw_lines(found["branches"], folder / "branches.png", "4 branches a module, no batch norm", "module")
    _draw_lines(found["stacks"], folder / "stacks.png", "8 stacks of PRM-B*, outputs of the hourglasses", "stack")
    _draw_resnet(found["resnet"]["ResNet-112"], folder / "resnet.png")
    _draw_hourglass(found["hourglass"], folder / "hourglass.png")
    return text


def _draw_lines(traces: dict[str, Trace], path: Path, title: str, place: str) -> None:
    """Responses forwards and gradients backwards, a line for each initialisation."""
    figure, axes = new_figure(title, columns=2)
    styles = ("-", "--", "-.", ":")
    for (rule, one), style in zip(traces.items(), styles, strict=False):
        steps = range(1, len(one.names) + 1)
        for axis, values in zip(axes, (one.responses, one.gradients), strict=True):
            axis.plot(steps, values, style, label=LABELS[rule])
    for axis, what in zip(axes, ("responses", "gradients"), strict=True):
        axis.set_xticks(steps if len(steps) < 10 else steps[::2])
        axis.set(xlabel=place, ylabel=f"variance of {what}", yscale="log")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _draw_resnet(one: Trace, path: Path) -> None:
    figure, (axis,) = new_figure("ResNet-112 as it starts: variance after every unit")
    colours = ["tab:orange" if name.endswith("1x1") else "tab:blue" for name in one.names]
    axis.bar(range(1, len(colours) + 1), one.responses, color=colours)
    axis.set(xlabel="unit (orange: a 1x1 instead of the identity skip)", ylabel="variance")
    figure.savefig(path, dpi=110)


def _draw_hourglass(traces: dict[str, Trace], path: Path) -> None:
    figure, (axis,) = new_figure("sums of two branches in a plain hourglass")
    names: list[Any] = next(iter(traces.values())).names
    for shift, (label, one) in enumerate(traces.items()):
        axis.bar([i + 0.4 * shift for i in range(len(names))], one.responses, width=0.4, label=label)
    axis.set(xticks=[i + 0.2 for i in range(len(names))], xticklabels=names, ylabel="variance")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
