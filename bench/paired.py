"""Paired timing: all forms of an operation in turn, round by round, so that whatever else the machine does falls on
all of them; the ratio is the median over the rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDS = 30


def milliseconds(function: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def compare(
    benchmark: Any, ours: Callable[[], Any], native: dict[str, Callable[[], Any]], rounds: int = ROUNDS
) -> float:
    """Time ours against every native form, print and record the ratio to the best of them in each round."""
    steps = [ours, *native.values()]
    for step in steps:
        step()
    times = [[milliseconds(step) for step in steps] for _ in range(rounds)]
    ours_ms, *native_ms = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(min(others) / own for own, *others in times)
    benchmark.extra_info.update(
        ratio=round(ratio, 2),
        ours_ms=round(ours_ms, 3),
        native_ms={name: round(ms, 3) for name, ms in zip(native, native_ms, strict=True)},
        threads=torch.get_num_threads(),
    )
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    forms = " / ".join(f"{name} {ms:.3f}" for name, ms in zip(native, native_ms, strict=True))
    print(f"\nours {ours_ms:.3f} ms, native {forms} ms, ratio {ratio:.1f}")
    return ratio
