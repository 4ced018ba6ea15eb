"""CUDA graphs: work recorded once and replayed whole, without launching its kernels one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Capture(Protocol):
    """How work is recorded. `CudaCapture` is the real one; tests have one that records nothing."""

    def warm_up(self, function: Callable[[], T]) -> T:
        """Run ``function`` as it will be recorded: libraries choose their kernels, memory and states are made."""

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record ``function`` without running it; gives what replays it, and its results, which each replay fills."""


class CudaCapture:
    """Records on a CUDA device.

    Random numbers from the device's default generator differ in each replay: ``torch.cuda.graph`` registers it, and a
    replay moves its offset on as running would have.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side: torch.cuda.Stream | None = None

    def warm_up(self, function: Callable[[], T]) -> T:
        """On a stream of its own, as what is to be captured has to be: the default stream cannot be captured."""
        with torch.cuda.device(self.device):
            if self._side is None:
                self._side = torch.cuda.Stream()
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                result = function()
            current.wait_stream(self._side)
        return result

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """One graph with memory of its own, which lives as long as what is returned."""
        graph = torch.cuda.CUDAGraph()
        # "global" would forbid what other threads do meanwhile: a loader's pins memory.
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result
