"""Number of parameters and FLOPs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class Complexity:
    """Result of `complexity`.

    ``params``: number of parameters, shared ones once. ``flops``: FLOPs of one forward pass, 2 per multiply-add, in
    convolution and linear layers.
    """

    params: int
    flops: int


def complexity(model: nn.Module, input_shape: Sequence[int]) -> Complexity:
    """Count the parameters of a model and the FLOPs of one forward pass, as in the paper.

    A multiply-add is 2 FLOPs; only convolution and linear modules count, without biases, norms, activations,
    pooling and additions. The model runs once in evaluation mode on the meta device, or on zeros on its own
    device if an operation does not support the meta device. It is not changed.

    Args:
        model: any module that takes one tensor.
        input_shape: such as (1, 3, 256, 256). FLOPs are those of the entire batch.
    """
    if len(input_shape) == 0 or any(int(size) != size or size < 0 for size in input_shape):
        raise ValueError(f"input_shape must be integers such as (1, 3, 256, 256), got {tuple(input_shape)}")
    shape = tuple(int(size) for size in input_shape)
    params = sum(p.numel() for p in model.parameters())
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            flops = _count(model, shape)
    finally:
        for module, mode in training.items():
            module.training = mode
    return Complexity(params, flops)


def _count(model: nn.Module, shape: tuple[int, ...]) -> int:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    first = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    on_meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    image = torch.empty(shape, dtype=first.dtype, device="meta")
    try:
        with _Counter(model) as counter:
            torch.func.functional_call(model, on_meta, (image,))
    except (NotImplementedError, RuntimeError):
        with _Counter(model) as counter:
            model(torch.zeros(shape, dtype=first.dtype, device=first.device))
    return counter.flops


class _Counter:
    """Adds up the FLOPs of the counted layers while it is entered; a layer called twice counts twice."""

    def __init__(self, model: nn.Module) -> None:
        self.flops = 0
        self._layers = [m for m in model.modules() if isinstance(m, _COUNTED)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _Counter:
        self._handles = [layer.register_forward_hook(self._hook) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            multiply_adds = output.numel() * layer.in_features
        elif isinstance(layer, _TRANSPOSED):
            # Every input element meets the whole kernel of every output channel of its group.
            multiply_adds = inputs[0].numel() * prod(layer.kernel_size) * layer.out_channels // layer.groups
        else:
            assert isinstance(layer, _CONVOLUTIONS)
            multiply_adds = output.numel() * prod(layer.kernel_size) * layer.in_channels // layer.groups
        self.flops += 2 * multiply_adds
