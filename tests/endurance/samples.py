"""Memory and open files of a process over time, and whether they are flat."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WARM_UP = 1 / 3
"""Share of the time that is not looked at: caches fill, allocators find their size."""
TOLERANCE = 0.03
"""Memory may grow by this share of itself over the rest of the time, on the line through all samples."""
MEGABYTES = 16.0
"""Or by this much, whatever it is: small processes have pages that come and go."""


@dataclass(frozen=True)
class Sample:
    """A process at a moment: seconds since its start, resident megabytes, open files."""

    seconds: float
    megabytes: float
    files: int


def sample(process: int, seconds: float) -> Sample:
    """Look at a process and its children (loader processes)."""
    pids = [process, *_children(process)]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Sample(seconds, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files)


def _children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@dataclass(frozen=True)
class Verdict:
    """What the samples after the warm-up come to.

    Attributes:
        megabytes: mean.
        growth: megabytes, on the line through them.
        files: most open files in their first and in their second half.
    """

    megabytes: float
    growth: float
    files: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Whether neither memory nor open files grow."""
        return self.growth <= max(TOLERANCE * self.megabytes, MEGABYTES) and self.files[1] <= self.files[0] + 1


def judge(samples: list[Sample]) -> Verdict:
    """The verdict on a process.

    Raises:
        ValueError: fewer than 12 samples, which say nothing.
    """
    if len(samples) < 12:
        raise ValueError(f"there are {len(samples)} samples; expected at least 12")
    rest = samples[round(WARM_UP * len(samples)) :]
    seconds, megabytes = (np.array([getattr(s, name) for s in rest]) for name in ("seconds", "megabytes"))
    slope = float(np.polyfit(seconds, megabytes, 1)[0])
    half = len(rest) // 2
    files = max(s.files for s in rest[:half]), max(s.files for s in rest[half:])
    return Verdict(float(megabytes.mean()), slope * float(seconds[-1] - seconds[0]), files)


def write(samples: dict[str, list[Sample]], folder: Path) -> None:
    """Write samples.csv and samples.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("command", "seconds", "megabytes", "files"))
        writer.writerows((name, s.seconds, s.megabytes, s.files) for name, of in samples.items() for s in of)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, of in samples.items():
        minutes = [s.seconds / 60 for s in of]
        left.plot(minutes, [s.megabytes for s in of], label=name)
        right.plot(minutes, [s.files for s in of], label=name)
    left.set(xlabel="minutes", ylabel="resident megabytes", ylim=(0, None))
    right.set(xlabel="minutes", ylabel="open files", ylim=(0, None))
    left.legend(), left.grid(alpha=0.3), right.grid(alpha=0.3)
    figure.savefig(folder / "samples.png", dpi=110)
