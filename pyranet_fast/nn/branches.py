"""How many branches are summed into every layer of a network, and to how many its output goes: C_i and C_o.

The network is traced once (``torch.export``, evaluation mode) and its graph of operations is run twice on counts
instead of values: forwards for C_i, backwards for C_o. The two are the same rule read in two directions, and it is
the rule by which independent terms of equal variance add up:

==================================  =====================================  =====================================
operation                           C_i, forwards                          C_o, backwards
==================================  =====================================  =====================================
input of the model                  1                                      -
convolution, linear layer           recorded; its output starts at 1       recorded; it counts as 1 for its input
addition, subtraction (in place     the counts of the terms are added      every term gets the count of the sum
too), sum over an axis
a value used several times          every use gets its count               the counts of its uses are added
output of the model                 -                                      1: the loss is a branch too
identity skip                       no operation: its count arrives at     its uses count at the other end
                                    the addition, beside the other's
concatenation, stack                every channel keeps its own count      every input gets its own channels' counts
split, chunk, slice, select,        the counts move with the channels      the same, backwards
view, flatten, permute, flip ...
pooling, resizing, mean over axes   mean over positions: passes through    passes through, at every position
`ops.upsample_sum`                  an addition of the resized maps, and of ``base``
batch, group and layer norm         passes through                         passes through
ReLU and every other operation of   passes through                         passes through
one activation that keeps its shape
addition of, product with, a        passes through                         passes through
parameter, buffer or number
padding                             of space: passes through; of channels with zeros: these count 0
anything else of two activations    an error that names the module and the operation
(products, matmul, where, ...)
==================================  =====================================  =====================================

What is recorded for a layer is the mean over the channels it reads or writes. For C_i that is exact: the variance of a
response is the sum over the n_i terms that it adds, and a channel of count c brings c times the variance.

Two decisions need their reason.

*Identity paths are followed to their end.* In x + P(x) after a layer that makes x, the next layer reads two branches;
after L such units it reads L + 1, since x is by then a sum of L + 1 responses, and the first response goes to L + 1
readers. Counting the identity as one branch, whatever it carries, would call a sum of 50 responses "2" and leave the
variance of a stack of units growing with a power of its depth; followed to the end it stays bounded
(``python -m pyranet_fast.ablate variance``).

*Normalisation does not reset the count.* Equation 15 is derived without normalisation. Forwards a norm would make every
count 1, and equation 15 would be without effect in the network that the paper states it for, where sums of branches
are always followed by BN-ReLU-1x1. Backwards it does not stop the sum of gradients either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import backend
from .branch_rules import CallSite, GraphCounter
from .pyramid import PooledPyramid


@contextmanager
def _for_tracing(model: nn.Module) -> Iterator[list[str]]:
    """Evaluation mode, operators in plain PyTorch, no canvas; yields the names of the modules that are running."""
    training = {module: module.training for module in model.modules()}
    canvases = [m for m in model.modules() if isinstance(m, PooledPyramid) and m.canvas]
    running: list[str] = []
    handles = []

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, x, name=name: running.append(name)))  # type: ignore[misc]
        handles.append(module.register_forward_hook(leave))
    model.eval()
    for pyramid in canvases:
        pyramid.canvas = False  # the same values; in the graph, an addition of maps instead of copies into a canvas
    try:
        with backend("reference"):
            yield running
    finally:
        for handle in handles:
            handle.remove()
        for pyramid in canvases:
            pyramid.canvas = True
        for module, mode in training.items():
            module.training = mode


def count_branches(model: nn.Module, example_input: Tensor | tuple[Any, ...]) -> list[CallSite]:
    """C_i and C_o of every use of a convolution or linear layer, in the order in which they run.

    Args:
        model: any module that ``torch.export`` can trace. Neither its weights nor its mode are changed.
        example_input: what it is called with, a tensor or a tuple of arguments, on the model's device.

    Raises:
        ValueError: the model cannot be traced, or holds an operation whose branches cannot be counted; the
            sentence names the module.
    """
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    with _for_tracing(model) as running:
        try:
            program = torch.export.export(model, arguments, strict=False)
        except Exception as error:
            where = next((name for name in reversed(running) if name), "the model itself")
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"branches cannot be counted: torch.export cannot trace {where} "
                f"({type(error).__name__}: {lines[0]}); accepted are models whose flow does not depend on data"
            ) from error
    with torch.enable_grad():
        return GraphCounter(program).run()
