"""`python -m bench.report [FILE ...]`: the README's tables of the network, all tables and pictures in docs/bench.

A case that several files have is in the README once, from the one with the most forms. Everything comes out of
bench/results, and nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import RESULTS, read, without_form
from bench.tables import table
from pyranet_fast import cli
from pyranet_fast.errors import UserError
from pyranet_fast.io import output_folder

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "bench" / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def readme_with(text: str, tables: str) -> str:
    """The README with the tables between its two marks.

    Raises:
        UserError: it has no marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md needs {BEGIN} and {END}, once each and in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n{tables}\n" + text[text.index(END) :]


def once(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files with each case of a device in one of them, that with the most forms timed: a README shows it once."""
    forms: dict[Any, Counter[int]] = {}
    for number, content in enumerate(contents):
        for row in content["rows"]:
            forms.setdefault(without_form(row), Counter())[number] += "ms" in row
    chosen = {case: max(sorted(counts), key=lambda number: counts[number]) for case, counts in forms.items()}
    return [
        {**content, "rows": [row for row in content["rows"] if chosen[without_form(row)] == number]}
        for number, content in enumerate(contents)
    ]


def page_of(contents: Sequence[dict[str, Any]], pictures: Sequence[Path]) -> str:
    """Every table and picture of all files."""
    blocks = ["# Speed\n\nWritten by `python -m bench.report --write` out of `bench/results`; do not edit."]
    blocks += [text for content in contents if (text := table(content))]
    blocks += [f"![{path.stem}]({path.name})" for path in pictures]
    return "\n\n".join(blocks) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="(default: bench/results/*.json)")
    parser.add_argument("--write", action="store_true", help="put them into README.md and docs/bench")
    parser.add_argument("--check", action="store_true", help="exit with 1 if README.md has others")
    parser.add_argument("--readme", type=Path, default=README, help="another page than README.md")
    parser.add_argument("--page", type=Path, default=PAGE, help="another page than docs/bench/README.md")
    arguments = parser.parse_args(argv)
    files = arguments.files or sorted(RESULTS.glob("*.json"), key=lambda path: path.stem)
    if not files:
        raise UserError(f"{RESULTS} holds no *.json; python -m bench.model writes one")
    contents = [read(path) for path in files]
    if not arguments.write and not arguments.check:
        print("\n\n".join(text for content in contents if (text := table(content))))
        return 0
    before = arguments.readme.read_text()
    in_short = (table(content, short=True) for content in once(contents))
    after = readme_with(before, "\n\n".join(text for text in in_short if text))
    if not arguments.write:
        if before != after:
            print(f"{arguments.readme} has other tables; python -m bench.report --write", file=sys.stderr)
        return int(before != after)
    from bench.plots import draw  # matplotlib takes a while

    arguments.readme.write_text(after)
    pictures = draw(
        {path.stem: content for path, content in zip(files, contents, strict=True)},
        output_folder(arguments.page.parent),
    )
    arguments.page.write_text(page_of(contents, pictures))
    for path in (arguments.readme, arguments.page, *pictures):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
