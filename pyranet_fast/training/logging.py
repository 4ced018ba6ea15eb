"""Training logs: metrics of an epoch, log.csv, TensorBoard events, curves.png, summary.json."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch

from ..io import atomic_write


class Meter:
    """Sums over the steps of an epoch; loss and accuracy are also smoothed for the bar."""

    def __init__(self) -> None:
        self.steps = self.samples = 0
        self.loss = self.accuracy = self.waited = 0.0
        self.recent: tuple[float, float] | None = None
        self.started = time.perf_counter()

    def add(self, loss: float, accuracy: float, samples: int, waited: float) -> None:
        """Add a step; ``waited`` is the wait for its batch, in seconds."""
        self.steps += 1
        self.samples += samples
        self.loss += loss
        self.accuracy += accuracy
        self.waited += waited
        old = self.recent or (loss, accuracy)
        self.recent = (0.95 * old[0] + 0.05 * loss, 0.95 * old[1] + 0.05 * accuracy)

    def row(self) -> dict[str, float]:
        """Return the metrics of the epoch."""
        seconds = time.perf_counter() - self.started
        steps = max(1, self.steps)
        return {
            "loss": self.loss / steps,
            "accuracy": self.accuracy / steps,
            "images_per_second": self.samples / seconds,
            "data_wait": self.waited / seconds,
            "seconds": seconds,
        }

    def state(self) -> dict[str, float]:
        """Return the state for `resumed`."""
        sums = {name: float(getattr(self, name)) for name in ("steps", "samples", "loss", "accuracy", "waited")}
        return {**sums, "seconds": time.perf_counter() - self.started}

    @classmethod
    def resumed(cls, state: dict[str, float] | None) -> Meter:
        """Return the meter of a partially finished epoch; None: a new one."""
        meter = cls()
        if state is not None:
            meter.steps, meter.samples = int(state["steps"]), int(state["samples"])
            meter.loss, meter.accuracy, meter.waited = state["loss"], state["accuracy"], state["waited"]
            meter.started -= state["seconds"]
        return meter

    def __str__(self) -> str:
        loss, accuracy = self.recent or (0.0, 0.0)
        rate = self.samples / max(1e-9, time.perf_counter() - self.started)
        return f"loss {loss:.4f}, accuracy {accuracy:.0%}, {rate:.0f} img/s"


class LossGrowth:
    """Detects a diverging loss before it is NaN: its running mean, over some 20 steps, is far above its minimum.

    Warns once, and not for losses that shrink or fluctuate around a mean.
    """

    FACTOR = 10.0

    def __init__(self) -> None:
        self.mean = self.lowest = math.inf
        self.steps = 0
        self.warned = False

    def add(self, loss: float, step: int) -> str:
        """Add the loss of a step; return a warning, or nothing."""
        self.mean = loss if self.steps == 0 else 0.95 * self.mean + 0.05 * loss
        self.steps += 1
        self.lowest = min(self.lowest, self.mean)
        if self.warned or self.mean <= self.FACTOR * self.lowest:
            return ""
        self.warned = True
        return (
            f"the loss grows: its mean was {self.lowest:.3g} and is {self.mean:.3g} at step {step}; training diverges"
        )


COLUMNS = (
    "epoch", "step", "lr", "loss", "accuracy", "validation", "images_per_second", "data_wait", "seconds",
)  # fmt: skip


class RunLog:
    """Writes one row per epoch; a resumed run drops the rows after its checkpoint and continues.

    Args:
        folder: folder of log.csv, tensorboard/, curves.png and summary.json; created if missing.
        step: number of finished steps: earlier rows up to it are kept.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.csv"
        if step and path.exists():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step if step else None)

    def write(self, row: dict[str, Any], results: dict[str, Any]) -> None:
        """Add an epoch.

        Args:
            row: the values of `COLUMNS`; ``validation`` is None if the epoch was not validated.
            results: of the last validation.
        """
        self.rows.append(row)
        temporary = self.folder / ".log.csv.part"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.folder / "log.csv")
        for name in ("loss", "accuracy", "lr", "images_per_second", "data_wait"):
            self._events.add_scalar(f"train/{name}", row[name], row["step"])
        if row["validation"] is not None:
            self._events.add_scalar("validation/mean", row["validation"], row["step"])
            for name, value in results.get("columns", {}).items():
                self._events.add_scalar(f"validation/{name}", value, row["step"])
        self._events.flush()
        draw_curves(self.rows, self.folder / "curves.png")

    def close(self, summary: dict[str, Any]) -> None:
        """Close the event file and write the results to summary.json."""
        self._events.close()
        text = json.dumps(summary, indent=2)
        atomic_write(self.folder / "summary.json", lambda file: file.write(text.encode()))


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot loss, accuracy and validation over the epochs as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [int(row["epoch"]) for row in rows]
    marker = "o" if len(rows) == 1 else None
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [float(row["loss"]) for row in rows], marker=marker, color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(epochs, [100 * float(row["accuracy"]) for row in rows], marker=marker, label="training accuracy")
    scored = [
        (e, float(r["validation"])) for e, r in zip(epochs, rows, strict=True) if r["validation"] not in (None, "")
    ]
    if scored:
        right.plot(*zip(*scored, strict=True), marker=marker, label="validation score")
    right.set(xlabel="epoch", ylabel="%", ylim=(0, 100))
    right.legend(loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def peak_megabytes(device: torch.device) -> float:
    """Return the peak memory so far: of tensors on a GPU, of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
