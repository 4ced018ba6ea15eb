"""`python -m bench.growth`: time and memory as functions of batch size, stacks, levels C and resolution, one at a time.

Around a base point (2 stacks, batch 4, C = 4, 256 px), in eager PyTorch and in ours. Rows carry the work of a forward
in GFLOP: time should grow with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from bench import model, runner
from bench.cases import MODES, Case
from pyranet_fast import cli
from pyranet_fast.models.zoo import resolve_device

AXES = {"batch": (1, 2, 4, 8, 16), "stacks": (1, 2, 4, 8), "levels": (1, 2, 3, 4, 6), "side": (128, 192, 256, 384)}
DEFAULT_FORMS = ("eager channels_last fp32", "eager channels_last bf16", "ours fp32", "ours bf16")


def points(base: Case, axes: dict[str, Sequence[int]]) -> list[Case]:
    """The base and the cases that differ from it along one axis, each once."""
    found = [base]
    for axis, values in axes.items():
        found += [case for value in values if (case := dataclasses.replace(base, **{axis: value})) not in found]  # type: ignore[arg-type]
    return found


def along(rows: Sequence[dict[str, Any]], axis: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Measured rows that differ from the base on this axis alone, in its order, by mode and form."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        at_base = all(row[name] == row["base"][name] for name in AXES if name != axis)
        if at_base and "ms" in row:
            series.setdefault((row["mode"], row["form"]), []).append(row)
    return {key: sorted(found, key=lambda row: row[axis]) for key, found in series.items() if len(found) > 1}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a form and writes the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    for axis, values in AXES.items():
        base = getattr(Case("", 2, 4, 256), axis)
        text = f"along the axis; default: {' '.join(map(str, values))}"
        parser.add_argument(f"--{axis}", nargs="+", type=int, default=list(values), help=text)
        parser.add_argument(f"--base-{axis}", type=int, default=base, help="(default: %(default)s)")
    model.add_flags(parser)
    arguments = parser.parse_args(argv)
    runner.check_positive(parser, arguments)
    runner.limit_isa(arguments.isa)
    device = str(resolve_device(arguments.device))
    kept = runner.set_up(device, arguments.threads, arguments.keep_pages)
    base = {axis: getattr(arguments, f"base_{axis}") for axis in AXES}
    axes = {axis: getattr(arguments, axis) for axis in arguments.axes}
    cases: list[Case] = []
    for mode in arguments.modes:
        start = Case(mode, device=device, features=arguments.features, depth=arguments.depth,
                     base_width=arguments.base_width, **base)  # fmt: skip
        cases += points(start, axes)

    def write(rows: list[dict[str, Any]]) -> None:
        rows = [{**row, "base": base} for row in rows]
        path = runner.write_results(
            "growth", rows, device, name=arguments.name, threads=arguments.threads, keep_pages=kept
        )
        print(f"written: {path}", flush=True)

    forms, options = model.chosen_forms(arguments, DEFAULT_FORMS), model.options_of(arguments, device)
    model.measure_all(cases, forms, options, write=write, budget=arguments.budget)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
