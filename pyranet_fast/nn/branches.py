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
identity skip: a term of an         arrives as one branch                  the addition counts as one reader
addition that others read too
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

*An identity skip is one branch.* In x + P(x) the next layer reads two branches, x and P(x), however many responses x
itself is the sum of; and of what makes x, one reader is P and one the addition. That is the count of section 4.1, whose
networks normalise what every branch reads. Without any normalisation it is too small: x is a sum of L + 1 responses
after L units, and their variance then grows by half with every unit. ``skips="sum"`` follows skips to their end
instead, L + 1 branches forwards and backwards, and keeps such a network bounded. In a network with normalisation it
would do harm: what the normalised branches add does not shrink with x, so counts that shrink x (its responses have many
readers) make the gradients of the branches explode (8 stacks of PRM-B*, measured: by 10^9 from the last to the first).

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
        handles.append(module.register_forward_pre_hook(lambda m, x, name=name: running.append(name)))
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


def count_branches(
    model: nn.Module, example_input: Tensor | tuple[Any, ...], *, skips: str = "branch"
) -> list[CallSite]:
    """C_i and C_o of every use of a convolution or linear layer, in the order in which they run.

    Args:
        model: any module that ``torch.export`` can trace. Neither its weights nor its mode are changed.
        example_input: what it is called with, a tensor or a tuple of arguments, on the model's device.
        skips: an identity skip is one ``"branch"``, or the ``"sum"`` of all that it carries.

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
        return GraphCounter(program, follow_skips=skips == "sum").run()
