"""Runs a command in a child that is killed, runs it again to the end, and compares what it leaves.

A child is a fork of this process, which has imported everything: the kill hits the command, not the start of an
interpreter. Half of the kills come at a share of the time that the undisturbed command took; the others at one of its
file operations (open, rename, remove, …) in the folder of its results, counted, which is the same moment each time.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch

from pyranet_fast import cli
from pyranet_fast.evaluation import evaluator
from pyranet_fast.models.zoo import load_checkpoint

from .commands import COMMANDS, write_data
from .results import differences

SIGNALS = {"SIGKILL": (signal.SIGKILL,), "SIGTERM": (signal.SIGTERM,), "SIGTERM twice": (signal.SIGTERM,) * 2}
SECONDS = 600  # that no command takes
_OPERATIONS = ("open", "os.", "shutil.", "tempfile.", "fcntl.")
_RESUMED = re.compile(
    r"resumed from \S+ at step (\d+) of|(\d+) (?:of \d+ people were done before|pictures are done already)"
)


@dataclass(frozen=True)
class Kill:
    """When and how a command is killed; a seed has one.

    Attributes:
        seed: of everything else.
        command: a name in `COMMANDS`.
        how: a name in `SIGNALS`.
        at_operation: whether ``share`` is of the file operations rather than of the time.
        share: in [0, 1).
        between: between the two signals, seconds or file operations.
    """

    seed: int
    command: str
    how: str
    at_operation: bool
    share: float
    between: float

    @classmethod
    def of(cls, seed: int, commands: list[str]) -> Kill:
        """The kill of a seed; neighboring seeds go through the commands."""
        draw = random.Random(f"kill {seed}")
        return cls(
            seed,
            commands[seed % len(commands)],
            draw.choice(list(SIGNALS)),
            draw.random() < 0.5,
            draw.random(),
            draw.choice((0.0, 0.02, 0.1, 0.5)),
        )

    def __str__(self) -> str:
        moment = "of its file operations" if self.at_operation else "of its time"
        return f"seed {self.seed}: {self.command}, {self.how} after {self.share:.1%} {moment}"


@dataclass
class Undisturbed:
    """A command that was left alone: its folder, its seconds, its file operations."""

    folder: Path
    seconds: float
    operations: int


@dataclass
class Outcome:
    """What became of a kill.

    Attributes:
        kill: which.
        ended: "killed" by the signal, "stopped" in order with what it had, or "done" before the signal came.
        resumed: whether the second run went on from what the first one had saved.
        failures: everything that is not as promised.
    """

    kill: Kill
    ended: str = ""
    resumed: bool = False
    failures: list[str] = field(default_factory=list)


class Killer:
    """Runs and kills the commands in a folder.

    Args:
        folder: an empty one, for the data and the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.data.mkdir()
        torch.set_num_threads(1)  # threads do not survive a fork
        cv2.setNumThreads(0)
        write_data(self.data)
        self._undisturbed: dict[str, Undisturbed] = {}

    def undisturbed(self, command: str) -> Undisturbed:
        """The command left alone; it is run once."""
        if command not in self._undisturbed:
            folder = self.folder / f"undisturbed {command}"
            started = time.monotonic()
            child, told = self._start(command, folder)
            status = _wait(child)
            seconds = time.monotonic() - started
            assert status == 0, f"{command}: exit {status} left alone: {_log(folder)}"
            self._undisturbed[command] = Undisturbed(folder, seconds, int(told()))
        return self._undisturbed[command]

    def run(self, kill: Kill) -> Outcome:
        """Kill a command, run it again to the end, and compare."""
        left_alone = self.undisturbed(kill.command)
        folder = self.folder / f"kill {kill.seed}"
        outcome = Outcome(kill)
        status = self._killed(kill, left_alone, folder)
        log = _log(folder)
        (folder / "killed.log").write_text(log)  # the second run writes another; --keep keeps both
        outcome.ended = {0: "done", cli.INTERRUPTED: "stopped"}.get(status, "killed")
        expected = {0, -SIGNALS[kill.how][0]} | ({cli.INTERRUPTED} if kill.how != "SIGKILL" else set())
        if status not in expected:
            outcome.failures.append(f"the killed run ended with {status}: {_last(log)}")
        if "Traceback" in log:
            outcome.failures.append(f"the killed run printed a traceback: {_last(log)}")
        saved = self._saved(kill.command, folder)

        child, _ = self._start(kill.command, folder)
        status = _wait(child)
        log = _log(folder)
        if status != 0:
            outcome.failures.append(f"the second run ended with {status}: {_last(log)}")
        found = _RESUMED.search(log)
        step = int(next(group for group in found.groups() if group)) if found else None
        outcome.resumed = step is not None
        if saved is not None and step != saved:
            outcome.failures.append(f"step {saved} was saved, and the second run went on from {step}")
        outcome.failures += differences(folder / "out", left_alone.folder / "out")
        return outcome

    def _saved(self, command: str, folder: Path) -> int | None:
        """The step of the checkpoint that a killed training has left."""
        last = folder / "out" / "last.pt"
        return int(load_checkpoint(last).training["step"]) if command.startswith("train") and last.exists() else None

    def _killed(self, kill: Kill, left_alone: Undisturbed, folder: Path) -> int:
        signals = SIGNALS[kill.how]
        if kill.at_operation:
            first = 1 + int(kill.share * left_alone.operations)
            moments = [first, first + 1 + int(10 * kill.between)]
            child, _ = self._start(kill.command, folder, dict(zip(moments, signals, strict=False)))
        else:
            child, _ = self._start(kill.command, folder)
            time.sleep(kill.share * left_alone.seconds)
            for number, one in enumerate(signals):
                time.sleep(kill.between if number else 0)
                if _ended(child):
                    break
                os.kill(child, one)
        return _wait(child)

    def _start(
        self, command: str, folder: Path, moments: dict[int, signal.Signals] | None = None
    ) -> tuple[int, Callable[[], str]]:
        """Run a command in a child; at its n-th file operation it gets the signal of ``moments``, if there is one.

        Returns:
            Its process id, and what tells the number of its file operations once it has ended.
        """
        folder.mkdir(exist_ok=True)
        counted = folder / "operations"
        child = os.fork()
        if child:
            return child, counted.read_text
        status = 70
        try:
            os.chdir(folder)
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1)  # pytest has put others there
            evaluator.SECONDS = 0.0  # a state after each batch
            operations = _watch(str(folder / "out"), moments or {})
            status = cli.run(COMMANDS[command].main, COMMANDS[command].arguments(self.data))
            counted.write_text(str(operations()))
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)


def _watch(folder: str, moments: dict[int, signal.Signals]) -> Callable[[], int]:
    """Count this process's file operations in a folder from now on, and send it the signals that are due."""
    count, process, lock = [0], os.getpid(), threading.Lock()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if not event.startswith(_OPERATIONS) or event in ("os.listdir", "os.scandir"):
            return
        paths = [os.fsdecode(path) for path in arguments if isinstance(path, str | bytes | os.PathLike)]
        if event != "fcntl.flock" and not any(
            path.startswith((folder, "out/")) or path == "out" for path in map(str, paths)
        ):
            return
        if os.getpid() != process:
            return
        with lock:
            count[0] += 1
            due = moments.get(count[0])
        if due is not None:
            os.kill(process, due)

    sys.addaudithook(hook)
    return lambda: count[0]


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait(child: int) -> int:
    """The exit status of a child, negative for a signal; one that hangs is killed, and told by the status -9."""
    limit = time.monotonic() + SECONDS
    while not _ended(child):
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace") if (folder / "log").exists() else ""


def _last(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1][:300] if lines else "nothing printed"
