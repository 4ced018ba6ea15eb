"""`python -m tests.faults`: commands killed at random moments and run again, and a table of what became of them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .commands import COMMANDS
from .kills import SIGNALS, Kill, Killer, Outcome

_COLUMNS = ("command", "kills", *SIGNALS, "killed at once", "stopped", "done before", "resumed", "failures", "seconds")


def main() -> int:
    """Print the table; 1 where a second run failed, lost something, or left other bits than an undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many, over all commands (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first kill; each has its own (default: %(default)s)"
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--keep", default=None, metavar="DIR", help="keep the folders of kills that fail here")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    seconds = dict.fromkeys(options.commands, 0.0)
    with tempfile.TemporaryDirectory() as made:
        killer = Killer(Path(made))
        for seed in range(options.seed, options.seed + options.kills):
            kill = Kill.of(seed, options.commands)
            started = time.monotonic()
            outcome = killer.run(kill)
            seconds[kill.command] += time.monotonic() - started
            outcomes.append(outcome)
            folder = killer.folder / f"kill {seed}"
            for failure in outcome.failures:
                print(f"{kill}: {failure}", file=sys.stderr, flush=True)
            if outcome.failures and options.keep:
                shutil.copytree(folder, Path(options.keep) / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder)
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
    for command in options.commands:
        mine = [outcome for outcome in outcomes if outcome.kill.command == command]
        ended = [sum(o.ended == how for o in mine) for how in ("killed", "stopped", "done")]
        signals = [sum(o.kill.how == how for o in mine) for how in SIGNALS]
        failed = sum(bool(o.failures) for o in mine)
        row = [command, len(mine), *signals, *ended, sum(o.resumed for o in mine), failed, f"{seconds[command]:.0f}"]
        print(f"| {' | '.join(map(str, row))} |")
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} kills left the bits of an undisturbed run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
