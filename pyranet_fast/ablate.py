"""`python -m pyranet_fast.ablate`: the paper's studies, each by one command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    own, train_flags = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.ablate",
        description="The paper's studies. Flags after -- are those of train, for every network of a contest.",
    )
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, text in (
        ("variants", "PRM-A, B, B*, C, D, plain and wide at one size, trained under one budget (figure 8)"),
        ("scales", "PRM-B* with C = 2 to 8 levels, which are of one size, under one budget (figure 9 a-b)"),
    ):
        contest = commands.add_parser(name, help=text, description=text + ". OUTPUT gets table.md, results.json and "
                                      "pictures; runs/ holds the trainings. The same command goes on after an "
                                      "interruption.")  # fmt: skip
        contest.add_argument("--output", default=f"ablation/{name}", help="folder for the results")
        contest.add_argument("--seeds", type=int, default=1, help="trainings of every network (default: %(default)s)")
        contest.add_argument("--only", default="", help="some of the networks, by name, with commas between them")
    arguments = parser.parse_args(own)
    if arguments.study in ("variants", "scales"):
        return _contest(parser, arguments, train_flags)
    raise AssertionError(arguments.study)


def _contest(parser: argparse.ArgumentParser, arguments: argparse.Namespace, train_flags: list[str]) -> int:
    from .ablation import contest, contest_report

    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; a whole number above 0 is accepted")
    flags = [*contest.SMALL, *train_flags]
    networks = contest.variants(flags) if arguments.study == "variants" else contest.scales(flags)
    if arguments.only:
        wanted = [name.strip() for name in arguments.only.split(",")]
        unknown = [name for name in wanted if name not in {c.name for c in networks}]
        if unknown:
            parser.error(f"--only has {unknown[0]!r}; there are {', '.join(c.name for c in networks)}")
        networks = [c for c in networks if c.name in wanted]
    output = cli.output_folder(arguments.output)
    results = contest.hold(networks, Path(output), flags, arguments.seeds)
    again = ["--seeds", str(arguments.seeds), *(["--only", arguments.only] if arguments.only else [])]
    again += ["--", *train_flags] if train_flags else []
    command = f"python -m pyranet_fast.ablate {arguments.study} {shlex.join(again)}"
    title = "module variants" if arguments.study == "variants" else "pyramid levels C"
    files = contest_report.write(results, output, title, command)
    print(contest_report.table(results))
    print(f"wrote {output}: {', '.join(file.name for file in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
