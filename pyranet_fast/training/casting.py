"""Casts all weights, and their gradients back, in one kernel each, where autocast would cast them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_CAST = (nn.Conv2d, nn.Linear)


class CastWeights:
    """Copies of convolution weights in the compute precision, used inside `applied`.

    Model, optimizer and checkpoints keep the original weights. Results and gradients are bitwise those of autocast.

    Args:
        model: model of one process, not compiled, whose parameters are not replaced.
        dtype: compute dtype.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        copies: dict[nn.Parameter, nn.Parameter] = {}
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for module in model.modules():
            if not isinstance(module, _CAST):
                continue
            for name, own in module._parameters.items():
                if own is None or own.dtype == dtype or not own.requires_grad:
                    continue
                copy = copies.setdefault(own, nn.Parameter(torch.empty_like(own, dtype=dtype)))
                self._places.append((module, name, own, copy))
        self._own: list[Tensor] = list(copies)
        self._copies: list[Tensor] = list(copies.values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the copies in forward and backward passes within the context, then set the gradients of the weights."""
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._own)
        for copy in self._copies:
            copy.grad = None
        try:
            for module, name, _, copy in self._places:
                module._parameters[name] = copy
            yield
        finally:
            for module, name, own, _ in self._places:
                module._parameters[name] = own
        made = [(own, copy.grad) for own, copy in zip(self._own, self._copies, strict=True) if copy.grad is not None]
        gradients: list[Tensor] = [torch.empty_like(own) for own, _ in made]
        with torch.no_grad():
            torch._foreach_copy_(gradients, [gradient for _, gradient in made])
        for (weight, _), gradient in zip(made, gradients, strict=True):
            weight.grad = gradient
