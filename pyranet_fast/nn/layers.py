"""Layers with faster CPU implementations: batch norm with ReLU, 1x1 and 3x3 convolutions.

Parameters and results are those of PyTorch's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import batch_norm_relu
from ..ops.cpu import batch_norm_relu as shared
from ..ops.cpu import pointwise, policy, winograd
from .batch_statistics import SynchronizableNorm

_GLOBAL_HOOKS: list[dict[int, Any]] = [
    getattr(torch.nn.modules.module, f"_global_{kind}_hooks")
    for kind in ("forward", "forward_pre", "backward", "backward_pre")
]


def observed(*modules: nn.Module) -> bool:
    """Whether skipping the call of a module would be noticed: it has hooks, or a ``forward`` of its own."""
    for hooks in _GLOBAL_HOOKS:
        if hooks:
            return True
    for m in modules:
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
            return True
        if "forward" in m.__dict__:
            return True
    return False


def opens(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether what a module of these kinds does may be done without calling it.

    Not where it is observed, nor where it is something else: a wrapper, or a subclass that computes something else.
    """
    return isinstance(module, kinds) and type(module).forward in [k.forward for k in kinds] and not observed(module)


def add_(y: Tensor, other: Tensor, *, of: nn.Module) -> Tensor:
    """y + other in y's memory, unless a hook observes y, the output of the module ``of`` or of the last in it.

    In a fresh output of a convolution, which no backward needs, the sum takes no new memory; but what a forward hook
    has kept must not change, and what passes through a backward hook cannot.
    """
    if observed(of, *of.children()):
        return (y + other).to(y.dtype)
    y += other
    return y


class BatchNorm(SynchronizableNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that can use the statistics of all processes, see `synchronize_batch_norms_`."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and layout."""
        return self.synchronized_norm(input) if self.synchronizes else super().forward(input)


class BatchNormReLU(SynchronizableNorm):
    """Compute relu(batch_norm(x)), with the arguments and state dict of ``nn.BatchNorm2d``.

    It does not subclass ``nn.BatchNorm2d``, since functions that replace norms by class, such as
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, would drop the ReLU; use `synchronize_batch_norms_` and
    `update_bn` instead.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and layout."""
        if self.synchronizes:
            return F.relu(self.synchronized_norm(input), inplace=True)
        if self.training and self.momentum is not None:
            return batch_norm_relu(
                input, self.weight, self.bias, self.running_mean, self.running_var, self.num_batches_tracked,
                momentum=self.momentum, eps=self.eps,
            )  # fmt: skip
        # In place is safe: batch norm keeps its input for the backward, not its output.
        return F.relu(nn.BatchNorm2d.forward(self, input), inplace=True)  # type: ignore[arg-type]

    @property
    def foldable(self) -> bool:
        """Whether the statistics are fixed, so that the norm is y = x * scale + shift."""
        return not self.training and self.running_mean is not None

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (C,) of the norm with its running statistics, at least in float32.

        Raises:
            RuntimeError: the module is in training mode or has no running statistics.
        """
        if not self.foldable or self.running_mean is None or self.running_var is None:
            raise RuntimeError("a batch norm folds only in evaluation and with running statistics")
        wide = torch.promote_types(self.running_var.dtype, torch.float32)
        scale = torch.rsqrt(self.running_var.to(wide) + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(wide)
        shift = -self.running_mean.to(wide) * scale
        if self.bias is not None:
            shift = shift + self.bias.to(wide)
        return scale, shift


def folds(norm: nn.Module) -> bool:
    """Whether a norm may be done as y = relu(x * scale + shift) without calling it, see `BatchNormReLU.folded`."""
    return opens(norm, BatchNormReLU) and bool(norm.foldable)


def norms_of(x: Tensor, norms: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor]]:
    """What the branches of a unit read: every norm (or ``nn.Identity``) of x, in the fewest passes.

    In training the `BatchNormReLU` among them share statistics and passes (`ops.cpu.batch_norm_relu`), unless a hook
    would notice that they are not called.

    Returns:
        x for the identity skip, to be used instead of x, and the outputs in the order of ``norms``.
    """
    own = [norm for norm in norms if isinstance(norm, BatchNormReLU)]
    first = own[0] if own else None
    if (
        first is None
        or any(not n.training or n.momentum is None or n.eps != first.eps or n.synchronizes for n in own)
        or not all(opens(n, BatchNormReLU, nn.Identity) for n in norms)
    ):
        return x, [norm(x) for norm in norms]
    weights, biases = [n.weight for n in own], [n.bias for n in own]  # read once: they may be computed
    averages = (v for n in own for v in (n.running_mean, n.running_var))
    if not policy.supports_shared_batch_norm_relu(x, *weights, *biases, *averages):
        return x, [norm(x) for norm in norms]
    x, made, mean, var = shared.shared_batch_norm_relu(x, weights, biases, first.eps)
    count = x.numel() // x.shape[1]
    for norm in own:
        shared.update_averages_(
            norm.running_mean, norm.running_var, norm.num_batches_tracked, mean, var, norm.momentum, count
        )
    outputs = iter(made)
    return x, [next(outputs) if isinstance(norm, BatchNormReLU) else x for norm in norms]


class Conv1x1(nn.Conv2d):
    """``nn.Conv2d`` of 1x1, as a matrix product where the map is small (`ops.cpu.pointwise`)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        weight = self.weight  # read once: a parametrization computes it, and may change its state
        if policy.trains_with_pointwise(input, weight):
            return pointwise.conv1x1(input, weight, self.bias)
        return self._conv_forward(input, weight, self.bias)


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d`` of 3x3, stride 1, padding 1, in fewer products where there is a kernel (`ops.cpu.winograd`).

    Where autocast has chosen a lower precision, on other devices and in graphs it is ``nn.Conv2d``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        weight = self.weight  # read once, see Conv1x1
        if policy.trains_with_winograd(input, weight):
            return winograd.differentiable_conv3x3(input, weight, self.bias)
        return self._conv_forward(input, weight, self.bias)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution of odd kernel size with "same" padding and a bias."""
    if kernel == 1:
        return Conv1x1(inputs, outputs)
    if kernel == 3:
        return Conv3x3(inputs, outputs)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
