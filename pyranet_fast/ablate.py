"""`python -m pyranet_fast.ablate`: the paper's studies, each by one command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .ablation import contest
from .ablation.contest import contest_table, write_contest
from .ablation.variance import write_variance
from .io import output_folder

# What a contest is about, the title of its pictures, and the command that trains.
CONTESTS = {
    "variants": (
        "PRM-A, B, B*, C, D, plain and wide at one size, trained under one budget (figure 8)",
        "module variants",
        "train",
    ),
    "scales": (
        "PRM-B* with C = 2 to 8 levels, which are of one size, under one budget (figure 9 a-b)",
        "pyramid levels C",
        "train",
    ),
    "initialization": ("PRM-B* with every initialization, under one budget (figure 9 c)", "initialization", "train"),
    "control": (
        "plain and PRM-B* networks without and with variance control, under one budget (figure 9 d)",
        "variance control",
        "train",
    ),
    "recipes": (
        "PRM-B* trained as the flags say, and with one of them changed at a time: what pays on a small budget",
        "recipes of training",
        "train",
    ),
    "classifiers": (
        "WRN-16-2 without and with the pyramid, under one budget (table 3, small)",
        "CIFAR-10 networks",
        "train_classifier",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    own, train_flags = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.ablate",
        description="The paper's studies. Flags after -- are those of train, for every network of a contest.",
    )
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    study = commands.add_parser(
        "variance",
        help="variances of responses and gradients as networks start (figures 5, 6, equation 15)",
        description="Variances of responses and gradients through networks as they start (figures 5 and 6, equation "
        "15): nothing is trained. OUTPUT gets table.md, variance.json and pictures.",
    )
    study.add_argument("--output", default="ablation/variance", help="folder for the results (default: %(default)s)")
    study.add_argument("--seed", type=int, default=0, help="decides weights and inputs (default: %(default)s)")
    for name, (text, _, _) in CONTESTS.items():
        contest = commands.add_parser(name, help=text, description=text + ". OUTPUT gets table.md, results.json and "
                                      "pictures; runs/ holds the trainings. The same command goes on after an "
                                      "interruption.")  # fmt: skip
        contest.add_argument(
            "--output", default=f"ablation/{name}", help="folder for the results (default: %(default)s)"
        )
        contest.add_argument("--seeds", type=int, default=1, help="trainings of every network (default: %(default)s)")
        contest.add_argument(
            "--jobs", type=int, default=1, help="trainings at a time, which share the cores: small networks make "
            "better use of one core each (default: %(default)s)",
        )  # fmt: skip
        contest.add_argument("--only", default="", help="some of the networks, by name, with commas between them")
    arguments = parser.parse_args(own)
    if arguments.study in CONTESTS:
        return _contest(parser, arguments, train_flags)
    if train_flags:
        parser.error(f"{arguments.study} trains nothing: flags after -- are accepted by {', '.join(CONTESTS)}")

    output = output_folder(arguments.output)
    command = f"python -m pyranet_fast.ablate variance --seed {arguments.seed}"
    print(write_variance(output, command, arguments.seed))
    print(f"wrote {output}: table.md, variance.json, branches.png, stacks.png, resnet.png, hourglass.png")
    return 0


def _contest(parser: argparse.ArgumentParser, arguments: argparse.Namespace, train_flags: list[str]) -> int:

    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; a whole number above 0 is accepted")
    if arguments.jobs < 1:
        parser.error(f"--jobs is {arguments.jobs}; a whole number above 0 is accepted")
    _, title, trainer = CONTESTS[arguments.study]
    flags = [*(contest.SMALL if trainer == "train" else contest.SMALL_CLASSIFIER), *train_flags]
    networks = {
        "variants": contest.variants,
        "scales": contest.scales,
        "initialization": contest.initializations,
        "control": contest.control,
        "recipes": contest.recipes,
        "classifiers": contest.classifiers,
    }[arguments.study](flags)
    if arguments.only:
        wanted = [name.strip() for name in arguments.only.split(",")]
        unknown = [name for name in wanted if name not in {c.name for c in networks}]
        if unknown:
            parser.error(f"--only has {unknown[0]!r}; there are {', '.join(c.name for c in networks)}")
        networks = [c for c in networks if c.name in wanted]
    output = output_folder(arguments.output)
    results = contest.hold(networks, Path(output), flags, arguments.seeds, trainer, arguments.jobs)
    again = ["--seeds", str(arguments.seeds), *(["--only", arguments.only] if arguments.only else [])]
    again += ["--", *train_flags] if train_flags else []
    command = f"python -m pyranet_fast.ablate {arguments.study} {shlex.join(again)}"
    files = write_contest(results, output, title, command)
    print(contest_table(results))
    print(f"wrote {output}: {', '.join(file.name for file in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
