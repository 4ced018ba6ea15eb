"""`python -m bench.report [FILE ...]`: the README's tables of speed, out of bench/results/model-*.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import RESULTS
from pyranet_fast import cli
from pyranet_fast.errors import UserError

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
KEYS = ("mode", "stacks", "batch", "side", "device", "form")


def read(path: Path) -> dict[str, Any]:
    """A file of results.

    Raises:
        UserError: it is missing or of another kind.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no file of results: {error}") from error
    if not isinstance(content, dict) or not {"machine", "commit", "rows"} <= set(content):
        raise UserError(f"{path} is no file of results: it has no machine, commit and rows")
    return content


def cases(content: dict[str, Any]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by case: everything but the form."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        if "form" in row:
            found.setdefault(tuple(row.get(key) for key in KEYS[:-1]), []).append(row)
    return found


def table(content: dict[str, Any]) -> str:
    """Markdown of one file: a table a case, fastest first; what has no number says why."""
    lines = [f"{content['machine']}; commit {content['commit']}; `{content['command']}`:"]
    for (mode, stacks, batch, side, _), rows in cases(content).items():
        lines += [
            "",
            f"| {mode}, {stacks} stacks, {side} px, batch {batch} | ms (quartiles) | images/s | of the best plain form "
            "| first call |",
            "|---|---:|---:|---:|---:|",
        ]
        for row in sorted(rows, key=lambda r: r.get("ms", float("inf"))):
            if "ms" not in row:
                lines.append(f"| {row['form']} | {row.get('failed', 'not measured')} | | | |")
                continue
            name = f"**{row['form']}**" if row["form"].startswith("ours") else row["form"]
            ratio = row.get("times_the_best_plain")
            lines.append(
                f"| {name} | {row['ms']:.0f} ({row['p25']:.0f}–{row['p75']:.0f}) | {row['images_per_s']:.1f} "
                f"| {'' if ratio is None else f'{ratio:.2f}×'} | {row['first_s']:.1f} s |"
            )
    return "\n".join(lines)


def readme_with(text: str, tables: str) -> str:
    """The README with the tables between its two marks.

    Raises:
        UserError: it has no marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md needs {BEGIN} and {END}, once each and in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n{tables}\n" + text[text.index(END) :]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="(default: bench/results/model-*.json)")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if README.md has others")
    arguments = parser.parse_args(argv)
    files = arguments.files or sorted(RESULTS.glob("model-*.json"))
    if not files:
        raise UserError(f"{RESULTS} holds no model-*.json; python -m bench.model writes one")
    tables = "\n\n".join(table(read(path)) for path in files)
    if not arguments.write and not arguments.check:
        print(tables)
        return 0
    before = README.read_text()
    after = readme_with(before, tables)
    if arguments.write:
        README.write_text(after)
    elif before != after:
        print("README.md has other tables; python -m bench.report --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
