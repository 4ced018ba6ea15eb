"""Choice of float32 or bfloat16 by measuring which is faster on this machine for this network, in under two seconds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import UserError

SWITCH = "PYRANET_FAST_PRECISION"
"""Variable of the environment: what auto means, ``"fp32"`` or ``"bf16"``, instead of measuring."""
AUTO = "auto"
CHOICES = (AUTO, "fp32", "bf16")
"""What ``--precision`` takes. float16 is not among them: its range is too small to train in."""
NAMES = {"fp32": "float32", "bf16": "bfloat16"}

BUDGET = 1.5
"""Seconds that measuring may take; one pass of each precision is made in any case."""
_WORTHWHILE = 0.95  # bfloat16 is chosen where it takes at most this share of the time: it is less exact
_BY_FAR = 0.1  # further than this from the share that decides, a time needs few repeats
_PASS = 0.12  # seconds of a pass that is long enough to be timed


@dataclass(frozen=True)
class Choice:
    """A precision and why it was chosen.

    Attributes:
        precision: ``"fp32"`` or ``"bf16"``.
        seconds: the times it was chosen by, of both precisions; empty where nothing was measured.
        what: what took them, or the reason.
    """

    precision: str
    seconds: dict[str, float]
    what: str

    def __str__(self) -> str:
        if not self.seconds:
            return f"{NAMES[self.precision]}, since {self.what}"
        shown = " and ".join(f"{1000 * seconds:.3g} ms in {NAMES[name]}" for name, seconds in self.seconds.items())
        return f"{NAMES[self.precision]}, since {self.what} takes {shown}"


def fast_precision(device: torch.device | str = "cpu") -> Choice:
    """The faster precision of a single 3x3 convolution, in about a tenth of a second: processors without products in
    bfloat16 convert every operand, and take up to several times as long."""
    where = torch.device(device)
    attempts = {name: _convolution(where, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    # One thread and many repeats, of which a few are not disturbed by other programs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _choice(_best_times(attempts, where, repeats=100, clear=10, budget=BUDGET / 8), "a 3x3 convolution")
    finally:
        torch.set_num_threads(threads)


def choose_precision(
    attempt: Callable[[str, int], None], batch: int, what: str, device: torch.device | str = "cpu"
) -> Choice:
    """The faster precision of a network: by one convolution where that is clear, else by passes of the network.

    Args:
        attempt: ``attempt(precision, n)`` makes one pass or step with n samples.
        batch: samples a pass has in earnest; fewer are timed where the network is slow.
        what: what is timed, such as ``"a step"``, for the reason given.
        device: where the network is.

    Raises:
        UserError: the variable ``PYRANET_FAST_PRECISION`` has another value than ``fp32`` and ``bf16``.
    """
    where = torch.device(device)
    if asked := os.environ.get(SWITCH):
        if asked not in NAMES:
            raise UserError(f"{SWITCH} must be {' or '.join(NAMES)}, got {asked!r}")
        return Choice(asked, {}, f"{SWITCH} is {asked}")
    first = fast_precision(where)
    if first.precision == "fp32":  # no network of them gains
        return first
    started = time.perf_counter()
    for name in NAMES:  # weights are packed, and code is made, in the first pass
        attempt(name, 1)
    seconds = min(_timed(lambda: attempt("fp32", 1), where) for _ in range(2))
    samples = max(1, min(batch, int(_PASS / seconds)))
    left = BUDGET - (time.perf_counter() - started)
    passes = {name: lambda name=name: attempt(name, samples) for name in NAMES}
    return _choice(_best_times(passes, where, repeats=10, clear=3, budget=left), f"{what} of {samples}")


def _convolution(device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    x = torch.ones(2, 64, 32, 32, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            F.conv2d(x, weight, padding=1)

    return run


def _best_times(
    attempts: Mapping[str, Callable[[], None]], device: torch.device, *, repeats: int, clear: int, budget: float
) -> dict[str, float]:
    """The shortest time of each, taken in turns after a first one that does not count.

    Ends after a number of repeats, when the budget is spent, or when the same one was faster by far in ``clear``
    turns in a row: more would only make a short command longer.
    """
    started = time.perf_counter()
    for attempt in attempts.values():
        attempt()
    best = dict.fromkeys(attempts, math.inf)
    turns = won = 0
    winner: str | None = None
    while turns < 1 or (turns < repeats and won < clear and time.perf_counter() - started < budget):
        times = {name: _timed(attempt, device) for name, attempt in attempts.items()}
        best = {name: min(best[name], times[name]) for name in times}
        turns += 1
        ratio = best["bf16"] / best["fp32"] / _WORTHWHILE
        before, winner = winner, "bf16" if ratio < 1 - _BY_FAR else "fp32" if ratio > 1 + _BY_FAR else None
        won = 0 if winner is None else won + 1 if winner == before else 1
    return best


def _timed(attempt: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    attempt()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _choice(seconds: dict[str, float], what: str) -> Choice:
    faster = "bf16" if seconds["bf16"] <= _WORTHWHILE * seconds["fp32"] else "fp32"
    return Choice(faster, seconds, what)
