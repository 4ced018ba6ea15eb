"""Learning rate schedules, moving average of the weights, and optimizer state in checkpoints."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

STEPS = {
    "step": ((0.85, 0.01), (0.75, 0.1)),
    "wrn": ((0.8, 0.008), (0.6, 0.04), (0.3, 0.2)),
    "resnext": ((0.75, 0.01), (0.5, 0.1)),
}
"""Schedules with steps: from which share of the run on the base rate is multiplied by what, the last first."""


def learning_rate(step: int, total: int, *, base: float, schedule: str, warmup: int = 0) -> float:
    """Return the learning rate of a step (0-based) in a run of ``total`` steps.

    ``"step"``: the paper's, divided by 10 at 75 % and again at 85 % (epochs 150 and 170 of 200).
    ``"wrn"``: Wide ResNet's, times 0.2 at 30, 60 and 80 % (epochs 60, 120 and 160 of 200). ``"resnext"``:
    ResNeXt's, divided by 10 at 50 and 75 % (epochs 150 and 225 of 300). ``"cosine"``: half a cosine to 0. All
    warm up linearly over the first ``warmup`` steps.
    """
    if schedule in STEPS:
        rate = base * next((factor for share, factor in STEPS[schedule] if step >= share * total), 1.0)
    else:
        rate = base * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate


class MovingAverage:
    """Exponential moving average of a model: average += (1 - d) (weights - average), d = min(decay, (1+n)/(10+n)).

    The rising decay makes the average useful from the first hundred steps on. Floating-point buffers are averaged too,
    integers copied. A few operations on lists update all tensors; the lists are built once, so parameters and buffers
    must not be replaced.

    Args:
        model: the model.
        decay: d after many updates.
        share: 1 - d as a tensor on the model's device, if a CUDA graph records `follow`.

    Attributes:
        module: the average.
        count: number of updates.
    """

    def __init__(self, model: nn.Module, decay: float, share: Tensor | None = None) -> None:
        self.module, self.decay, self.count = copy.deepcopy(model), decay, 0
        self._share: Tensor | float = 1.0 if share is None else share
        self._lists: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        pairs = zip(
            itertools.chain(self.module.parameters(), self.module.buffers()),
            itertools.chain(model.parameters(), model.buffers()),
            strict=True,
        )
        for average, current in pairs:
            averages, currents = self._lists.setdefault((average.device, average.dtype), ([], []))
            averages.append(average)
            currents.append(current)

    def update(self) -> None:
        """Update the average after a step."""
        self.advance()
        self.follow()

    def advance(self) -> None:
        """Host part of an update: count it and set the step size of `follow`."""
        keep = min(self.decay, (1 + self.count) / (10 + self.count))
        if isinstance(self._share, Tensor):
            self._share.fill_(1 - keep)
        else:
            self._share = 1 - keep
        self.count += 1

    @torch.no_grad()
    def follow(self) -> None:
        """Device part of an update; the first one copies."""
        for (_, dtype), (averages, currents) in self._lists.items():
            if self.count == 1 or not dtype.is_floating_point:
                torch._foreach_copy_(averages, currents)
            elif isinstance(self._share, Tensor):  # of lists there is no lerp by a tensor on the device
                moves = torch._foreach_sub(currents, averages)
                torch._foreach_mul_(moves, self._share)
                torch._foreach_add_(averages, moves)
            else:
                torch._foreach_lerp_(averages, currents, self._share)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state dict for checkpoints, equal for graphed and eager steps.

    Learning rates are numbers, and ``capturable`` is off.
    """
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    for group in groups:
        if "capturable" in group:
            group["capturable"] = False
    return {**state, "param_groups": groups}


def checked_step(step: Any, state: dict[str, Any]) -> int:
    """Return the step of a checkpoint, checked against that of its optimizer.

    Raises:
        UserError: not a number of steps, or a different one.
    """
    if type(step) is not int or step < 0:
        raise UserError(f"its training has made {step!r} steps; expected a whole number of at least 0")
    made = {float(of["step"]) for of in state["state"].values() if "step" in of}
    if made and max(made) != step:
        raise UserError(f"its training is at step {step}, but its optimizer at {max(made):g}; it is damaged")
    return step


def checked_updates(count: Any) -> int:
    """Return the number of moving average updates of a checkpoint.

    Raises:
        UserError: not a number of updates.
    """
    if type(count) is not int or count < 0:
        raise UserError(f"its moving average has made {count!r} updates; expected a whole number of at least 0")
    return count


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Reject a loaded state whose shapes differ from the parameters', which PyTorch does not check.

    Raises:
        UserError: wrong shape, or not finite.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    continue
                if value.numel() != 1 and value.shape != parameter.shape:
                    raise UserError(
                        f"its optimizer has {name} of shape {tuple(value.shape)} for a parameter of shape "
                        f"{tuple(parameter.shape)}; it is damaged"
                    )
                if not value.isfinite().all():
                    raise UserError(f"its optimizer has {name} that is not finite; it is damaged")


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the result of `optimizer_state` into an eager or capturable optimizer, which stays as it is."""
    groups = []
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        rate = own["lr"]
        if isinstance(rate, Tensor):
            rate.fill_(float(saved["lr"]))
        else:
            rate = float(saved["lr"])
        kind = {"capturable": own["capturable"]} if "capturable" in own else {}
        groups.append({**saved, "lr": rate, **kind})
    optimizer.load_state_dict({**state, "param_groups": groups})
