"""Reads changed files in children that may die, and tells what became of each."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import resource
import signal
import struct
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pyranet_fast.errors import UserError

from .formats import FORMATS, Format

SECONDS = 20  # of processor time; of the clock ten times as many, since others may have the cores
MEMORY = 3 << 30
Make = Callable[[int], bytes]
READ, REFUSED, RAW, NAMELESS = 1, 2, 3, 4
_MEANS = {RAW: "raw error", NAMELESS: "sentence without the file's name"}


@dataclass
class Outcome:
    """What became of one format's changed files.

    Attributes:
        name: of the format.
        read, refused: how many were read, and how many were refused with a sentence.
        failures: seed and what happened.
        files: of the failures, their bytes.
    """

    name: str
    read: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def fail(self, seed: int, what: str, content: bytes) -> None:
        """Note a failure."""
        self.failures.append((seed, what))
        self.files.append(content)


def changed(name: str, data: bytes, seed: int) -> bytes:
    """The file of a seed."""
    return FORMATS[name].change(data, random.Random(f"{name} {seed}"))


def attempt(form: Format, path: Path) -> tuple[int, str]:
    """Read a file: what became of it, and the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except UserError as error:
        text = str(error)
        if any(part in text for part in (str(path), path.name, str(path.parent))):
            return REFUSED, text
        return NAMELESS, text
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return RAW, f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
    return READ, ""


def _child(form: Format, make: Make, path: Path, seeds: Sequence[int], told: mmap.mmap, pipe: int) -> None:
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)
    devnull = os.open(os.devnull, os.O_WRONLY)  # libraries' own words on damaged files
    os.dup2(devnull, 1), os.dup2(devnull, 2)
    with contextlib.suppress(OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    gc.freeze()
    for at, seed in enumerate(seeds):
        told[:8] = struct.pack("q", at)
        path.write_bytes(make(seed))
        signal.setitimer(signal.ITIMER_PROF, SECONDS), signal.alarm(10 * SECONDS)
        what, error = attempt(form, path)
        signal.setitimer(signal.ITIMER_PROF, 0), signal.alarm(0)
        text = error.encode("utf-8", "replace")[:2000]
        os.write(pipe, struct.pack("qqq", at, what, len(text)) + text)


def run(name: str, seeds: Sequence[int], folder: Path | None = None, files: Sequence[bytes] | None = None) -> Outcome:
    """Read the changed files of some seeds, in as few children as live through them.

    Args:
        name: of a format.
        seeds: one for each file.
        folder: an empty one.
        files: what is read instead of changed files, one for each seed, which counts from 0.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            return run(name, seeds, Path(made), files)
    form, outcome = FORMATS[name], Outcome(name)
    path = form.write(folder)
    data = path.read_bytes()
    what, error = attempt(form, path)
    assert what == READ, f"{name}: the valid file is not read: {error}"

    def make(seed: int) -> bytes:
        return changed(name, data, seed) if files is None else files[seed]

    told = mmap.mmap(-1, 8)
    left = list(seeds)
    while left:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reads)
                _child(form, make, path, left, told, writes)
                os._exit(0)
            except BaseException:
                os._exit(99)
        os.close(writes)
        with os.fdopen(reads, "rb") as file:
            while head := file.read(24):
                number, what, length = struct.unpack("qqq", head)
                error = file.read(length).decode("utf-8", "replace")
                outcome.read += what == READ
                outcome.refused += what == REFUSED
                if what in _MEANS:
                    outcome.fail(left[number], f"{_MEANS[what]}: {error}", make(left[number]))
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        at = struct.unpack("q", told[:])[0]
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        how = f"signal {number}" if number else f"exit {status:#x}"
        outcome.fail(
            left[at], f"hang of {SECONDS} s" if number in (signal.SIGALRM, signal.SIGPROF) else how, make(left[at])
        )
        left = left[at + 1 :]
    return outcome
