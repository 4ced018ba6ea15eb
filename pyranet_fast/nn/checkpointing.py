"""Activation checkpointing: activations inside a block are recomputed in the backward pass instead of stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from ..ops import dispatch

T = TypeVar("T")


class Recomputing(nn.Module):
    """A block that can keep its inputs only and run a second time when the backward comes to it.

    A subclass draws its random numbers first and gives them to `recomputed` among the inputs: both runs then read the
    same ones, the state of the generator is touched once, and a CUDA graph can hold all of it.

    Attributes:
        recompute: whether training does so; see `checkpoint_activations_`.
    """

    recompute = False

    def recomputed(self, function: Callable[..., T], *inputs: Tensor | None) -> T:
        """``function(*inputs)``, a part of this block that has no randomness of its own."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return function(*inputs)
        if torch.compiler.is_compiling():  # a compiler splits off the updates of buffers: it repeats values only
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)

        chosen = dispatch.chosen()

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _second_run(self, chosen)

        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _second_run(module: nn.Module, chosen: str | None) -> Iterator[None]:
    """On the first run's backend: the backward of a GPU has a thread, and so a choice, of its own."""
    with dispatch.backend(chosen), statistics_left_alone(module):
        yield


@contextmanager
def statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training move scratch memory: the first run has moved their statistics already.

    They need some, since what PyTorch's norm keeps for its backward is counted, and it keeps the statistics too.
    """
    norms = [m for m in module.modules() if isinstance(m, _NormBase)]
    before = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({k: torch.empty_like(t) for k, t in norm._buffers.items() if t is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers.update(buffers)


def checkpoint_activations_(model: nn.Module, enabled: bool = True) -> int:
    """Recompute the activations of each block in the backward pass: less memory for one more forward pass.

    Blocks are the residual units and, in `models.PyraNet`, the head of each hourglass. Gradients and running statistics
    stay bitwise the same and use the backend of the forward pass. Evaluation and ``torch.no_grad`` do not change.

    Args:
        model: a network of this package, or any that contains its units; changed in place.
        enabled: False undoes it.

    Returns:
        The number of blocks.

    Raises:
        ValueError: the model has no such block.
    """
    blocks = [m for m in model.modules() if isinstance(m, Recomputing)]
    if not blocks:
        raise ValueError(f"model must have residual units, got a {type(model).__name__} without any")
    for block in blocks:
        block.recompute = enabled
    return len(blocks)
