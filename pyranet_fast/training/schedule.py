"""Learning rate over a run."""

from __future__ import annotations

import math

STEPS = {
    "step": ((0.85, 0.01), (0.75, 0.1)),
    "wrn": ((0.8, 0.008), (0.6, 0.04), (0.3, 0.2)),
    "resnext": ((0.75, 0.01), (0.5, 0.1)),
}
"""Schedules with steps: from which share of the run on the base rate is multiplied by what, the last first."""


def learning_rate(step: int, total: int, *, base: float, schedule: str, warmup: int = 0) -> float:
    """The rate of a step (0-based) in a run of ``total`` steps.

    ``"step"``: the paper's for poses, divided by 10 at 75 % and again at 85 % (epochs 150 and 170 of 200).
    ``"wrn"``: Wide ResNet's, times 0.2 at 30, 60 and 80 % (epochs 60, 120 and 160 of 200). ``"resnext"``:
    ResNeXt's, divided by 10 at 50 and 75 % (epochs 150 and 225 of 300). ``"cosine"``: half a cosine to 0. All
    rise linearly over the first ``warmup`` steps.
    """
    if schedule in STEPS:
        rate = base * next((factor for share, factor in STEPS[schedule] if step >= share * total), 1.0)
    else:
        rate = base * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
