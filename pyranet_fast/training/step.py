"""One step of training: forward, loss, backward, optimizer; kernel by kernel, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..models.optimized.graphs import Capture

logger = logging.getLogger("pyranet_fast")

WARM_UPS = 3
"""Steps with batches of one shape before they are recorded. They train like any other."""


class HasLoss(Protocol):
    """What a step asks of a task."""

    device: torch.device

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Loss, accuracy in [0, 1] and number of samples of a batch."""


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where it is a tensor: a graph reads it from there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Step:
    """Updates the weights by one batch after the other, kernel by kernel."""

    def __init__(self, task: HasLoss, optimizer: torch.optim.Optimizer) -> None:
        self.task, self.optimizer = task, optimizer

    def run(self, batch: dict[str, Tensor], rate: float) -> tuple[Tensor, Tensor, int]:
        """Forward, backward and optimizer: the weights have changed when it returns.

        Args:
            batch: what `Task.batches` gives.
            rate: learning rate of this step.

        Returns:
            Loss and accuracy of the batch before the update, and its number of samples. The next step may overwrite
            the tensors.
        """
        set_learning_rate(self.optimizer, rate)
        return self._update(batch)

    def _update(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        # Without gradients of before: those that a recording makes lie in its own memory, written by each replay.
        self.optimizer.zero_grad(set_to_none=True)
        loss, accuracy, samples = self.task.loss(batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), accuracy, samples


class GraphedStep(Step):
    """The same step recorded once and replayed on buffers that batches are copied into.

    Batches of another shape run eagerly, as a last, smaller one of an epoch would; after `WARM_UPS` of them in a row
    they are recorded in place of the others (``--early-size`` changes the shape for good).

    Args:
        task: its model is on a CUDA device, and its loss neither waits for the device nor sends to it.
        optimizer: capturable, its learning rates tensors on the device.
        capture: what records.
    """

    def __init__(self, task: HasLoss, optimizer: torch.optim.Optimizer, capture: Capture) -> None:
        super().__init__(task, optimizer)
        self.capture = capture
        self._last: object = None
        self._in_a_row = 0
        self._recorded: object = None
        self._static: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None
        self._results: tuple[Tensor, Tensor, int] | None = None

    def run(self, batch: dict[str, Tensor], rate: float) -> tuple[Tensor, Tensor, int]:
        """As `Step.run`, by a replay where the batch has the recorded shape."""
        set_learning_rate(self.optimizer, rate)
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in batch.items()}
        self._in_a_row = self._in_a_row + 1 if shapes == self._last else 1
        self._last = shapes
        if shapes != self._recorded:
            if self._in_a_row <= WARM_UPS:
                return self.capture.warm_up(lambda: self._update(batch))
            self._record(batch)
            self._recorded = shapes
        for name, tensor in batch.items():
            self._static[name].copy_(tensor, non_blocking=True)
        assert self._replay is not None and self._results is not None
        self._replay()
        return self._results

    def _record(self, batch: dict[str, Tensor]) -> None:
        self._replay = self._results = None  # the memory of the graph before
        self._static = {name: t.to(self.task.device, copy=True) for name, t in batch.items()}
        self._replay, self._results = self.capture.record(lambda: self._update(self._static))
        sizes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        logger.debug(f"recorded the step as a CUDA graph for {sizes}")
