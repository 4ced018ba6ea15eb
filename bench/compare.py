"""`python -m bench.compare A.json B.json`: compare two result files, row by row, as cost ratios."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import runner
from pyranet_fast import cli

# What is compared: the first of these that a row has, and its unit.
QUANTITIES = (("ms", "ms"), ("people_per_s", "people/s"))


def label(row: dict[str, Any]) -> str:
    """A row's case and form in words."""
    usual = [key for key, value in runner.USUAL_NETWORK.items() if row.get(key) == value]
    hidden = (*runner.MEASURED, "part", "base", *usual)
    parts = [f"{key} {value}" for key, value in row.items() if key not in hidden and key not in ("form", "mode")]
    return ", ".join([row["part"], *([row["mode"]] if "mode" in row else []), *parts, row["form"]])


def cost(row: dict[str, Any]) -> tuple[float, float, str] | None:
    """What a row costs (less is better), its figure and the figure's unit; None for a row without a figure."""
    for key, unit in QUANTITIES:
        if row.get(key, 0) > 0:
            value = float(row[key])
            return (value if key == "ms" else 1 / value), value, unit
    return None


def compare(
    first: dict[str, Any], second: dict[str, Any], threshold: float, names: tuple[str, str]
) -> tuple[list[str], int]:
    """A line for every row, and how many became slower by more than the threshold or lost their number."""
    before, after = ({runner.row_key(row): row for row in content["rows"]} for content in (first, second))
    lines, worse = [], 0
    for key, row in before.items():
        name, old = label(row), cost(row)
        if key not in after:
            lines.append(f"{name}: only in {names[0]}")
            continue
        new = cost(after[key])
        if new is None:
            if old is not None:
                worse += 1
                lines.append(
                    f"{name}: {old[1]:g} {old[2]} -> no number: {after[key].get('failed', 'not measured')}  LOST"
                )
            continue
        if old is None:
            lines.append(f"{name}: no number -> {new[1]:g} {new[2]}")
            continue
        ratio = new[0] / old[0]
        slower = ratio > 1 + threshold
        worse += slower
        lines.append(f"{name}: {old[1]:g} -> {new[1]:g} {new[2]}, x{ratio:.3f}{'  SLOWER' if slower else ''}")
    lines += [f"{label(row)}: only in {names[1]}" for key, row in after.items() if key not in before]
    return lines, worse


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line a row; returns 1 where a row is slower by more than the threshold or has lost its number."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="fraction that counts as a regression (default: %(default)s)"
    )
    parser.add_argument("--ours", action="store_true", help="compare only forms of this package")
    arguments = parser.parse_args(argv)
    if not arguments.threshold >= 0:
        parser.error(f"--threshold must be at least 0, got {arguments.threshold}")
    first, second = runner.read_results(arguments.before), runner.read_results(arguments.after)
    if first["machine"] != second["machine"]:
        print(f"note: other machines: {first['machine']} and {second['machine']}", file=sys.stderr)
    if arguments.ours:
        for content in (first, second):
            content["rows"] = [r for r in content["rows"] if r["part"] == "pipeline" or r["form"].startswith("ours")]
    lines, worse = compare(first, second, arguments.threshold, (str(arguments.before), str(arguments.after)))
    print("\n".join(lines))
    if worse:
        print(
            f"{worse} of {len(lines)} rows are slower by more than {arguments.threshold:.0%}, or lost", file=sys.stderr
        )
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
