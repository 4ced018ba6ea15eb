"""`python -m bench.compare A.json B.json`: two files of results as ratios, row by row."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import KEYS, read
from pyranet_fast import cli


def times(content: dict[str, Any]) -> dict[tuple[Any, ...], float]:
    """Milliseconds of every row that has them, by case and form (model) or by operator and shape (bench.gpu)."""
    found: dict[tuple[Any, ...], float] = {}
    for row in content["rows"]:
        if isinstance(row.get("ms"), int | float):
            found[tuple(row.get(key) for key in KEYS)] = float(row["ms"])
        elif isinstance(row.get("ms"), dict):
            case = (row["operator"], *row["shape"], row["dtype"], row["layout"], row["direction"])
            found.update({(*case, form): float(ms) for form, ms in row["ms"].items()})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 where a row is slower by more than the threshold."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="share that counts as slower (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    first, second = read(arguments.before), read(arguments.after)
    if first["machine"] != second["machine"]:
        print(f"note: other machines: {first['machine']} and {second['machine']}", file=sys.stderr)
    before, after = times(first), times(second)
    slower = 0
    for case, ms in before.items():
        name = ", ".join(str(part) for part in case if part is not None)
        if case not in after:
            print(f"{name}: only in {arguments.before}")
            continue
        ratio = after[case] / ms
        flag = "  SLOWER" if ratio > 1 + arguments.threshold else ""
        slower += bool(flag)
        print(f"{name}: {ms:g} -> {after[case]:g} ms, x{ratio:.3f}{flag}")
    for case in after.keys() - before.keys():
        print(f"{', '.join(str(part) for part in case if part is not None)}: only in {arguments.after}")
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
