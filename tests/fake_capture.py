"""Stands in for CUDA graphs on the CPU: what is recorded does not run, and a replay fills the recording's results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class FakeCapture:
    """Undoes what recording does to a model, an optimizer and the generator, as nothing runs while a graph records."""

    def __init__(self, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer
        self.log: list[str] = []

    def warm_up(self, function: Callable[[], Any]) -> Any:
        self.log.append("warm up")
        return function()

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.log.append("record")
        tensors = list(self.model.state_dict().values()) if self.model is not None else []
        if self.optimizer is not None:
            tensors += [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        before, random = [t.clone() for t in tensors], torch.get_rng_state()
        results = function()
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(random)
        kept = [t for t in tree_leaves(results) if isinstance(t, Tensor)]
        for tensor in kept:
            tensor.fill_(float("nan"))

        def replay() -> None:
            self.log.append("replay")
            made = [t for t in tree_leaves(function()) if isinstance(t, Tensor)]
            for tensor, value in zip(kept, made, strict=True):
                tensor.copy_(value)

        return replay, results
