"""One training step, kernel by kernel or as one CUDA graph: forward, loss, backward, optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..models.biases import left_out
from ..models.optimized.graphs import Capture
from . import distributed
from .casting import CastWeights
from .optim import MovingAverage

logger = logging.getLogger("pyranet_fast")
Note = TypeVar("Note")

WARM_UPS = 3
"""Steps with batches of one shape before they are recorded. They train like any other."""


class HasLoss(Protocol):
    """Interface of a task for training steps."""

    device: torch.device

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Return loss, accuracy in [0, 1] and number of samples of a batch."""


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place for tensors that a CUDA graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Step:
    """Training step on one batch, kernel by kernel.

    Args:
        task: its model and loss.
        optimizer: of the model's parameters.
        average: moving average of the weights, or None.
        casts: casts of the weights for the loss, or None.
        without_bias: convolutions whose biases have no effect and are omitted, see `models.biases`.
    """

    def __init__(
        self,
        task: HasLoss,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None = None,
        casts: CastWeights | None = None,
        without_bias: Sequence[nn.Conv2d] = (),
    ) -> None:
        self.task, self.optimizer, self.average, self.casts = task, optimizer, average, casts
        self.without_bias = without_bias

    def run(self, batch: dict[str, Tensor], rate: float) -> tuple[Tensor, Tensor, int]:
        """Run forward, backward, optimizer and average, which updates the weights.

        Args:
            batch: batch of `Task.batches`.
            rate: learning rate of this step.

        Returns:
            Loss and accuracy of the batch before the update, and its number of samples. The next step may overwrite
            the tensors.
        """
        self._prepare(rate)
        return self._update(batch)

    def _prepare(self, rate: float) -> None:
        """What the host does for an update."""
        set_learning_rate(self.optimizer, rate)
        if self.average is not None:
            self.average.advance()

    def _update(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        # Without gradients of before: those that a recording makes lie in its own memory, written by each replay.
        self.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            if self.casts is not None:
                stack.enter_context(self.casts.applied())
            stack.enter_context(left_out(self.without_bias))
            loss, accuracy, samples = self.task.loss(batch)
            loss.backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.follow()
        return loss.detach(), accuracy, samples


class GraphedStep(Step):
    """Training step recorded once as a CUDA graph and replayed on fixed input buffers.

    Batches of another shape run eagerly; after `WARM_UPS` of them in a row they are recorded instead (``--early-size``
    changes the shape permanently).

    Args:
        task: its model is on a CUDA device, and its loss neither waits for the device nor sends to it.
        optimizer: capturable, its learning rates tensors on the device.
        capture: what records.
        average: its share a tensor on the device; or None.
        casts, without_bias: as `Step` takes them.
    """

    def __init__(
        self,
        task: HasLoss,
        optimizer: torch.optim.Optimizer,
        capture: Capture,
        average: MovingAverage | None = None,
        casts: CastWeights | None = None,
        without_bias: Sequence[nn.Conv2d] = (),
    ) -> None:
        super().__init__(task, optimizer, average, casts, without_bias)
        self.capture = capture
        self._last: object = None
        self._in_a_row = 0
        self._recorded: object = None
        self._static: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None
        self._results: tuple[Tensor, Tensor, int] | None = None

    def run(self, batch: dict[str, Tensor], rate: float) -> tuple[Tensor, Tensor, int]:
        """Run as `Step.run`, replaying the graph for batches of the recorded shape."""
        self._prepare(rate)
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


class Figures(NamedTuple):
    """Values read from a step: means over the processes, and whether any of them requests a stop."""

    loss: float
    accuracy: float
    stopping: bool


class FigureReader(Generic[Note]):
    """Reads the values of steps, on the CPU immediately, on CUDA while the next step runs.

    Waiting for a loss leaves a GPU idle until the host launches the next step. So values are copied to pinned memory
    after their step and read after the next launch.

    Args:
        device: device of the values.
        late: whether to read them one step later; None: on CUDA.
    """

    def __init__(self, device: torch.device, late: bool | None = None) -> None:
        self.device, self.late = device, device.type == "cuda" if late is None else late
        self._pending: tuple[Note, Callable[[], list[float]]] | None = None
        self._pinned: Tensor | None = None

    def put(self, loss: Tensor, accuracy: Tensor, stopping: bool, note: Note) -> list[tuple[Note, Figures]]:
        """Add the values of a step; return those available now, each with its note."""
        if not self.late:
            return [(note, _figures(distributed.mean(loss, accuracy, stopping, device=self.device)))]
        ready = self.rest()
        values = distributed.mean_on_device(loss, accuracy, stopping, device=self.device)
        self._pending = note, self._send(values)
        return ready

    def rest(self) -> list[tuple[Note, Figures]]:
        """Return all remaining values."""
        if self._pending is None:
            return []
        note, receive = self._pending
        self._pending = None
        return [(note, _figures(receive()))]

    def _send(self, values: Tensor) -> Callable[[], list[float]]:
        if not values.is_cuda:
            return values.tolist
        if self._pinned is None:
            self._pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned, sent = self._pinned, torch.cuda.Event()
        pinned.copy_(values, non_blocking=True)
        sent.record(torch.cuda.current_stream(values.device))

        def receive() -> list[float]:
            sent.synchronize()
            return pinned.tolist()

        return receive


def _figures(values: list[float]) -> Figures:
    loss, accuracy, stopping = values
    return Figures(loss, accuracy, stopping > 0)
