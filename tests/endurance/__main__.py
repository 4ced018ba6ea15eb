"""`python -m tests.endurance`: training and prediction for many minutes; their memory and open files must stay flat."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.commands import predict_arguments, track_arguments, train_arguments, write_data

from .samples import MEGABYTES, TOLERANCE, WARM_UP, Sample, judge, sample, write

PEOPLE = {"train": 240, "val": 8}
# The command is called again and again in one process, which closes what it opens or shows it.
_AGAIN = """
import sys
from pyranet_fast import cli, predict

while True:
    assert cli.run(predict.main, sys.argv[1:]) == 0
"""


def commands(data: Path) -> dict[str, tuple[list[str], str]]:
    """What runs, for ever if it is let, and the file that is there once it has done its work for the first time."""
    return {
        "train": (["-m", "pyranet_fast.train", *train_arguments(data, "--epochs", "1000000")], "out/log.csv"),
        "predict over a folder": (["-c", _AGAIN, *predict_arguments(data)], "out/predictions.json"),
        "predict a video": (["-c", _AGAIN, *track_arguments(data)], "out/walk_pose.mp4"),
    }


def watch(arguments: list[str], folder: Path, sign: str, seconds: float, every: float) -> list[Sample]:
    """Run Python in a folder, and for some seconds after the file ``sign`` is there look at it every so often.

    Raises:
        RuntimeError: it ended by itself.
    """
    found: list[Sample] = []
    started = None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=log, stderr=log)
        try:
            while started is None or time.monotonic() - started < seconds:
                time.sleep(every)
                if started is None and (folder / sign).exists():
                    started = time.monotonic()
                if process.poll() is not None:
                    raise RuntimeError(f"ended with {process.returncode}: {(folder / 'log').read_text()[-500:]}")
                if started is not None:
                    found.append(sample(process.pid, time.monotonic() - started))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return found


def main() -> int:
    """Print the table and write the plot; 1 where something grows."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance",
        description=f"{__doc__} The first {WARM_UP:.0%} of the time are warm-up; after it the line through the "
        f"resident memory may rise by {TOLERANCE:.0%} or {MEGABYTES:.0f} MB, and the open files by one.",
    )
    parser.add_argument("--minutes", type=float, default=60, help="of each command (default: %(default)s)")
    parser.add_argument("--every", type=float, default=1, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--output", default="build/endurance", metavar="DIR", help="(default: %(default)s)")
    names = list(commands(Path()))
    parser.add_argument("--commands", nargs="+", choices=names, default=names, metavar="NAME")
    options = parser.parse_args()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    samples, grown = {}, []
    print(
        "| command | minutes | samples | MB | growth, MB | open files | flat |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as made:
        data = Path(made)
        write_data(data, PEOPLE)
        for name in options.commands:
            arguments, sign = commands(data)[name]
            folder = data / name.replace(" ", "_")
            folder.mkdir()
            samples[name] = watch(arguments, folder, sign, 60 * options.minutes, options.every)
            found = judge(samples[name])
            print(
                f"| {name} | {samples[name][-1].seconds / 60:.1f} | {len(samples[name])} | {found.megabytes:.0f} | "
                f"{found.growth:+.1f} | {found.files[0]}, then {found.files[1]} | {'yes' if found.flat else 'NO'} |",
                flush=True,
            )
            grown += [] if found.flat else [name]
            write(samples, output)
    print(f"wrote {output / 'samples.csv'} and samples.png")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
