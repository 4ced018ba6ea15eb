"""Biases without effect: the next batch norm subtracts whatever constant a convolution adds to a channel.

In a `PyraNet` these are all biases but those of the score maps: every reader of the residual stream starts with a norm,
and pooling, upsampling and sums pass constants through. In training such a bias costs one pass over the map, its
gradient another, and that gradient is pure rounding error, which an optimizer with normalized steps (RMSprop, Adam)
turns into a random walk. So `train` sets these biases to zero, moves their values into the running means, which leaves
evaluation unchanged, and does not train them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn

from ..nn.hourglass import Hourglass
from ..nn.layers import BatchNormReLU
from ..nn.pyramid import DilatedPyramid, PooledPyramid, PyramidResidualModule
from ..nn.residual import BNReLUConv, ResidualUnit
from .pyranet import PyraNet, Stack, Stem


@torch.no_grad()
def absorb_biases_(network: nn.Module) -> list[nn.Conv2d]:
    """Set biases without effect to zero and freeze them.

    The running means of the norms absorb them, so evaluation does not change.

    Args:
        network: a `PyraNet`; it is changed in place. Of any other network, and of one with a part that is not of this
            package, nothing changes.

    Returns:
        The convolutions whose biases are zero now, and which may run without them (`left_out`).
    """
    walk = _Walk()
    try:
        walk.network(network)
    except _ForeignPartError:
        return []
    for norm, shift in walk.shifts:
        if norm.running_mean is not None:
            norm.running_mean -= shift.to(norm.running_mean)
    for conv in walk.convolutions:
        assert conv.bias is not None
        conv.bias.zero_()
        conv.bias.requires_grad_(False)
    return walk.convolutions


@contextmanager
def left_out(convolutions: Iterable[nn.Conv2d]) -> Iterator[None]:
    """Inside, these convolutions run without their biases, which are zero."""
    biases = [(conv, conv._parameters["bias"]) for conv in convolutions]
    try:
        for conv, _ in biases:
            conv._parameters["bias"] = None
        yield
    finally:
        for conv, bias in biases:
            conv._parameters["bias"] = bias


class _ForeignPartError(Exception):
    """A module whose effect on a constant is not known."""


Shift = Tensor | None
"""(C,), what biases have added to every pixel of a map of C channels; None: nothing."""


def _sum(*shifts: Shift) -> Shift:
    return reduce(lambda a, b: a if b is None else b if a is None else a + b, shifts)


class _Walk:
    """Follows constants through a network, from the biases that add them to the norms that take them away.

    Attributes:
        convolutions: whose biases end in norms.
        shifts: norms and the constants (C,) in what they read.
    """

    def __init__(self) -> None:
        self.convolutions: list[nn.Conv2d] = []
        self.shifts: list[tuple[BatchNormReLU, Tensor]] = []

    def network(self, network: nn.Module) -> None:
        if type(network) is not PyraNet:
            raise _ForeignPartError
        x = self.stem(network.stem)
        for stack in network.stacks:
            x = self.stack(stack, x)

    def stem(self, stem: nn.Module) -> Shift:
        if type(stem) is not Stem:
            raise _ForeignPartError
        self.norm(stem.bn, self.convolution(stem.conv))
        return self.unit(stem.unit3, self.unit(stem.unit2, self.unit(stem.unit1, None)))

    def stack(self, stack: nn.Module, x: Shift) -> Shift:
        if type(stack) is not Stack:
            raise _ForeignPartError
        self.norm(stack.bn, self.block(stack.features, self.hourglass(stack.hourglass, x)))
        if stack.from_features is None or stack.from_score is None:
            return x
        return _sum(x, self.convolution(stack.from_features), self.convolution(stack.from_score))

    def hourglass(self, hourglass: nn.Module, x: Shift) -> Shift:
        if type(hourglass) is not Hourglass:
            return self.unit(hourglass, x)
        low = self.hourglass(hourglass.low2, self.unit(hourglass.low1, x))
        return _sum(self.unit(hourglass.low3, low), self.unit(hourglass.up1, x))

    def unit(self, unit: nn.Module, x: Shift) -> Shift:
        if type(unit) is ResidualUnit:
            branches: Shift = self.block(unit.filter, self.block(unit.reduce, x))
        elif type(unit) is PyramidResidualModule:
            branches = _sum(self.block(unit.filter, self.block(unit.reduce, x)), self.pyramid(unit.pyramid, x))
        else:
            raise _ForeignPartError
        skip = x if isinstance(unit.skip, nn.Identity) else self.block(unit.skip, x)
        return _sum(self.block(unit.expand, branches), skip)

    def pyramid(self, pyramid: nn.Module, x: Shift) -> Shift:
        if type(pyramid) is DilatedPyramid:
            self.norm(pyramid.bn, self.block(pyramid.reduce, x))
            return self.block(pyramid.expand, _sum(*map(self.convolution, pyramid.filters)))
        if type(pyramid) is not PooledPyramid:
            raise _ForeignPartError
        self.norm(pyramid.preactivation, x)
        for conv, norm in zip(pyramid.reduce, pyramid.bn, strict=True):
            self.norm(norm, self.convolution(conv))
        filters = [self.convolution(conv) for conv in pyramid.filters]
        levels = [filters[level % len(filters)] for level in range(pyramid.levels)]
        return self.block(pyramid.expand, torch.cat(levels) if pyramid.concatenate else _sum(*levels))

    def block(self, block: nn.Module, x: Shift) -> Tensor:
        if type(block) is not BNReLUConv:
            raise _ForeignPartError
        self.norm(block.bn, x)
        return self.convolution(block.conv)

    def norm(self, norm: nn.Module, x: Shift) -> None:
        if isinstance(norm, BatchNormReLU):
            if x is not None:
                self.shifts.append((norm, x))
        elif x is not None or type(norm) is not nn.Identity:
            raise _ForeignPartError

    def convolution(self, conv: nn.Module) -> Tensor:
        if not isinstance(conv, nn.Conv2d) or not isinstance(conv._parameters.get("bias"), nn.Parameter):
            raise _ForeignPartError
        self.convolutions.append(conv)
        return conv.bias.detach().clone()  # type: ignore[union-attr]
