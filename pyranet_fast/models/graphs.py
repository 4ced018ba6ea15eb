"""Predictions by CUDA graphs: one graph for each shape of input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..cuda_graphs import Capture, CudaCapture
from .pyranet import check_image

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
    """A network for predictions whose kernels are launched as one CUDA graph.

    The first images of a shape and dtype run twice and are recorded; all further ones are copied into the graph's input
    and replay it. The score maps that are returned are copies: the next call does not change them. Not for several
    threads at once. The `ops.backend` of the recording stays, autocast has no effect, and moving the module to another
    device or dtype forgets its graphs.

    Args:
        network: what `optimize_for_inference` makes.
        shapes: how many graphs are kept, each with the memory of its maps; the one that was not used for longest goes.
        capture: makes what records for a device.

    Raises:
        ValueError: ``shapes`` is below 1.
    """

    def __init__(
        self, network: Predicts, shapes: int = 8, capture: Callable[[torch.device], Capture] = CudaCapture
    ) -> None:
        super().__init__()
        if shapes < 1:
            raise ValueError(f"shapes is {shapes}; at least 1 is accepted")
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
            TypeError, ValueError: the input is not as described; the sentence names what was got.
        """
        check_image(image, self.network.multiple)
        if image.device.type != "cuda" and self._capture is CudaCapture:
            raise ValueError(f"image is on {image.device}; with graph=True an image on a CUDA device is accepted")
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
