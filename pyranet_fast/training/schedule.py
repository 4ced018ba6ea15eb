"""Learning rate over a run."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, *, base: float, schedule: str, warmup: int = 0) -> float:
    """The rate of a step (0-based) in a run of ``total`` steps.

    ``"step"``: the paper's, divided by 10 at 75 % and again at 85 % (epochs 150 and 170 of 200).
    ``"cosine"``: half a cosine to 0. Both rise linearly over the first ``warmup`` steps.
    """
    if schedule == "step":
        rate = base * (0.01 if step >= 0.85 * total else 0.1 if step >= 0.75 * total else 1.0)
    else:
        rate = base * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
