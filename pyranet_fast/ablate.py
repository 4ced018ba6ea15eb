"""`python -m pyranet_fast.ablate`: reproduces the studies of the paper."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from . import cli
from .ablation.contest import CONTESTS, contest_table, read_results, train_all, write_contest
from .ablation.variance import write_variance
from .io import output_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    own, train_flags = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.ablate",
        description="Reproduce a study of the paper. Flags after -- are passed to train for every network.",
    )
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    study = commands.add_parser(
        "variance",
        help="Measure the variance of responses and gradients at initialization (figures 5 and 6, equation 15)",
        description="Measure the variance of responses and gradients at initialization, without training (figures 5 "
        "and 6, equation 15). Writes table.md, variance.json and plots to OUTPUT.",
    )
    study.add_argument("--output", default="ablation/variance", help="folder for the results (default: %(default)s)")
    study.add_argument("--seed", type=int, default=0, help="random seed of weights and inputs (default: %(default)s)")
    cli.add_verbosity(study)
    for name, contest in CONTESTS.items():
        one = commands.add_parser(
            name,
            help=contest.about,
            description=contest.about + ". Writes table.md, results.json and plots to OUTPUT, and the training "
            "runs to OUTPUT/runs. Rerun the same command to resume.",
        )
        one.add_argument("--output", default=f"ablation/{name}", help="folder for the results (default: %(default)s)")
        one.add_argument("--seeds", type=int, default=1, help="training runs per network (default: %(default)s)")
        one.add_argument(
            "--jobs",
            type=int,
            default=1,
            help="parallel training runs, which share the cores; small networks train best on one core each "
            "(default: %(default)s)",
        )
        one.add_argument("--only", default="", help="comma-separated names of the networks to train (default: all)")
        cli.add_verbosity(one)
    arguments = cli.parse_arguments(parser, own)
    if arguments.study in CONTESTS:
        return _contest(parser, arguments, train_flags)
    if train_flags:
        parser.error(f"{arguments.study} trains no network; only {', '.join(CONTESTS)} take flags after --")
    output = output_folder(arguments.output)
    command = f"python -m pyranet_fast.ablate variance --seed {arguments.seed}"
    print(write_variance(output, command, arguments.seed))
    print(f"wrote {output}: table.md, variance.json, branches.png, stacks.png, resnet.png, hourglass.png")
    return 0


def _contest(parser: argparse.ArgumentParser, arguments: argparse.Namespace, train_flags: list[str]) -> int:
    for name in ("seeds", "jobs"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be a positive integer, got {getattr(arguments, name)}")
    contest = CONTESTS[arguments.study]
    flags = [*contest.flags, *train_flags]
    networks = contest.contestants(flags)
    if arguments.only:
        wanted = [name.strip() for name in arguments.only.split(",")]
        names = [network.name for network in networks]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            parser.error(f"--only has {unknown[0]!r}; there are {', '.join(names)}")
        networks = [network for network in networks if network.name in wanted]
    output = output_folder(arguments.output)
    train_all(networks, output, flags, arguments.seeds, contest.command, arguments.jobs)
    results = read_results(networks, output, arguments.seeds)
    again = ["--seeds", str(arguments.seeds), *(["--only", arguments.only] if arguments.only else [])]
    again += ["--", *train_flags] if train_flags else []
    command = f"python -m pyranet_fast.ablate {arguments.study} {shlex.join(again)}"
    files = write_contest(results, output, contest.title, command)
    print(contest_table(results))
    print(f"wrote {output}: {', '.join(file.name for file in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
