"""An optimiser's state as checkpoints hold it: the same whether or not it ran in a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state dict with learning rates as numbers, and without the mark of an optimiser for graphs."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    for group in groups:
        if "capturable" in group:
            group["capturable"] = False
    return {**state, "param_groups": groups}


def load_plain_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put the state back into an optimiser of either kind, which stays of its kind."""
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
