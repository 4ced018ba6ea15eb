"""`python -m tests.fuzz`: many changed files of each format, and a table of what became of them."""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path

from .formats import FORMATS
from .harness import run


def main() -> int:
    """Print the table; 1 where anything but reading and refusing happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="of each format (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the first file (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="NAME")
    parser.add_argument("--keep", default=None, metavar="DIR", help="write the files that fail here, as FORMAT/SEED.gz")
    options = parser.parse_args()
    print(
        "| format | files | read | refused in a sentence | failures | seconds |\n|---|---|---|---|---|---|", flush=True
    )
    failed = 0
    for name in options.formats:
        before = time.perf_counter()
        outcome = run(name, range(options.first, options.first + options.files))
        seconds = time.perf_counter() - before
        print(
            f"| {name} | {options.files} | {outcome.read} | {outcome.refused} | {len(outcome.failures)} | "
            f"{seconds:.0f} |",
            flush=True,
        )
        for seed, what in outcome.failures[:20]:
            print(f"  {name}, seed {seed}: {what}", file=sys.stderr, flush=True)
        failed += len(outcome.failures)
        if options.keep and outcome.failures:
            folder = Path(options.keep) / name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            for (seed, _), content in zip(outcome.failures, outcome.files, strict=True):
                (folder / f"{seed}.gz").write_bytes(gzip.compress(content, mtime=0))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
