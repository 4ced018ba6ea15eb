"""CUDA graphs: kernels recorded once and replayed with a single launch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..pyranet import check_image

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
            side, current = self._stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                result = function()
            current.wait_stream(side)
        return result

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """One graph with memory of its own, which lives as long as what is returned."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            # The stream by name: torch has one for all captures of a process, on the device of the first, and what runs
            # on another device would not be recorded. "global" would forbid what other threads do meanwhile: a loader's
            # pins memory.
            with torch.cuda.graph(graph, stream=self._stream(), capture_error_mode="thread_local"):
                result = function()
        return graph.replay, result

    def _stream(self) -> torch.cuda.Stream:
        if self._side is None:
            self._side = torch.cuda.Stream()
        return self._side


_WARM_UPS = 2


class Predicts(Protocol):
    """What is asked of a network for predictions, as `optimize_for_inference` makes it."""

    multiple: int

    @property
    def config(self) -> dict[str, object]:
        """As `PyraNet.config`."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """As `PyraNet.forward`."""


class GraphedInference(nn.Module):
    """Inference network whose kernels are launched as one CUDA graph.

    The first input of a shape and dtype runs twice and is recorded; later ones are copied to the graph's input and
    replay it. The returned score maps are copies, unaffected by the next call. Not thread-safe. The `ops.backend` of
    the recording is kept, autocast has no effect, and moving the module to another device or dtype discards its
    graphs.

    Args:
        network: result of `optimize_for_inference`.
        shapes: number of graphs kept, each with the memory of its maps; the least recently used is discarded.
        capture: factory of recorders for a device.

    Raises:
        ValueError: ``shapes`` is below 1.
    """

    def __init__(
        self, network: Predicts, shapes: int = 8, capture: Callable[[torch.device], Capture] = CudaCapture
    ) -> None:
        super().__init__()
        if shapes < 1:
            raise ValueError(f"shapes must be at least 1, got {shapes}")
        self.network, self.shapes, self._capture = network, shapes, capture
        self._graphs: OrderedDict[Any, tuple[Tensor, Callable[[], None], list[Tensor]]] = OrderedDict()
        self.eval()

    @property
    def config(self) -> dict[str, object]:
        """As `PyraNet.config`."""
        return self.network.config

    def forward(self, image: Tensor) -> list[Tensor]:
        """As `PyraNet.forward`, for images on a CUDA device; the maps are float32.

        Raises:
            TypeError, ValueError: the input is invalid; the message says what was got.
        """
        check_image(image, self.network.multiple)
        if image.device.type != "cuda" and self._capture is CudaCapture:
            raise ValueError(f"image must be on a CUDA device with graph=True, got {image.device}")
        if len(image) == 0:
            return self.network(image)
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            key = (image.device, image.dtype, tuple(image.shape))
            if key not in self._graphs:
                while len(self._graphs) >= self.shapes:
                    self._graphs.popitem(last=False)
                self._graphs[key] = self._record(image)
            self._graphs.move_to_end(key)
            static, replay, maps = self._graphs[key]
            static.copy_(image, non_blocking=True)
            replay()
            return [m.clone() for m in maps]

    def _record(self, image: Tensor) -> tuple[Tensor, Callable[[], None], list[Tensor]]:
        static = torch.empty(image.shape, dtype=image.dtype, device=image.device).copy_(image)
        capture = self._capture(image.device)
        for _ in range(_WARM_UPS):
            capture.warm_up(lambda: self.network(static))
        return static, *capture.record(lambda: self.network(static))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._graphs.clear()  # they read the weights' old memory
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": OrderedDict()}  # a graph cannot be copied
