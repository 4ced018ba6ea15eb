"""`python -m bench.report [FILE ...]`: the README's tables of speed and docs/bench's pictures, out of bench/results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.record import RESULTS, read
from bench.tables import table
from pyranet_fast import cli
from pyranet_fast.errors import UserError

README = Path(__file__).parents[1] / "README.md"
PICTURES = Path(__file__).parents[1] / "docs" / "bench"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


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
    parser.add_argument("files", nargs="*", type=Path, help="(default: bench/results/*.json)")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if README.md has others")
    parser.add_argument("--plots", action="store_true", help="draw the pictures into docs/bench")
    parser.add_argument("--readme", type=Path, default=README, help="another page than README.md")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="another folder than docs/bench")
    arguments = parser.parse_args(argv)
    files = arguments.files or sorted(RESULTS.glob("*.json"))
    if not files:
        raise UserError(f"{RESULTS} holds no *.json; python -m bench.model writes one")
    contents = {path: read(path) for path in files}
    tables = "\n\n".join(text for content in contents.values() if (text := table(content)))
    if arguments.plots:
        from bench.plots import draw

        for path in draw(list(contents.values()), cli.output_folder(arguments.pictures)):
            print(f"written: {path}")
    if arguments.write or arguments.check:
        before = arguments.readme.read_text()
        after = readme_with(before, tables)
        if arguments.write:
            arguments.readme.write_text(after)
        elif before != after:
            print(f"{arguments.readme} has other tables; python -m bench.report --write", file=sys.stderr)
            return 1
    elif not arguments.plots:
        print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
