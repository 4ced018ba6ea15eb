"""Time of several forms in turn, round by round, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Step = Callable[[], Any]
LEAST = 3  # rounds, whatever the time


def synchronise(device: str) -> None:
    """Wait for the GPU, if that is where the work is."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(step: Step, device: str, calls: int = 1) -> float:
    """Time of a call; the GPU's work is done when the clock stops."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def calls_for(step: Step, device: str, target: float = 0.01) -> int:
    """Calls that take about ``target`` seconds together, at most 100: short steps are timed in batches."""
    return max(1, min(100, int(target / max(1e-6, seconds(step, device)))))


def in_rounds(
    steps: Mapping[str, Step],
    rounds: int,
    device: str,
    *,
    calls: Mapping[str, int] | None = None,
    until: float | None = None,
) -> dict[str, list[float]]:
    """Seconds of every form in every round; after ``until`` (of time.perf_counter) only the first 3 rounds begin."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(rounds):
        if until is not None and done >= LEAST and time.perf_counter() > until:
            break
        for name, step in steps.items():
            times[name].append(seconds(step, device, calls[name] if calls else 1))
    return times


def figure(value: float, digits: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and quartiles in ms, and of how many rounds."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else list(times) * 3
    return {"ms": figure(middle * 1e3), "p25": figure(low * 1e3), "p75": figure(high * 1e3), "rounds": len(times)}


def median_ratio(other: Sequence[float], own: Sequence[float]) -> float:
    """Median over rounds of other / own."""
    return figure(statistics.median(a / b for a, b in zip(other, own, strict=True)), 3)


def best(times: Mapping[str, Sequence[float]], among: Sequence[str]) -> str | None:
    """The form of the smallest median; None where there is none."""
    present = [name for name in among if times.get(name)]
    return min(present, key=lambda name: statistics.median(times[name]), default=None)


def copy_of(moved: int, device: str) -> Step:
    """A copy that reads and writes ``moved`` bytes in all: the ceiling of an operator that moves as many."""
    source = torch.zeros(max(1, moved // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
