"""Sources of batch norm statistics: all processes, or one more pass over the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..ops.checks import wide_dtype


class SynchronizableNorm(_NormBase):
    """A batch norm that can take its statistics over all processes, see `synchronize_batch_norms_`.

    Attributes:
        synchronized: whether training does so, where there are several processes.
    """

    synchronized = False

    @property
    def synchronizes(self) -> bool:
        """Whether the next forward pass takes the statistics of all processes."""
        if not (self.synchronized and self.training):
            return False
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"input must have shape (N, C, H, W), got {tuple(input.shape)}")

    def synchronized_norm(self, x: Tensor) -> Tensor:
        """batch_norm(x) with the statistics of all processes' x, (N, C, H, W) with C the same in all of them."""
        self._check_input_dim(x)
        y, mean, var, count = _SynchronizedNorm.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            momentum = self.momentum
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches
                assert self.num_batches_tracked is not None
                momentum = 1 / float(self.num_batches_tracked)
            with torch.no_grad():
                unbiased = var * (count / (count - 1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return y


class _SynchronizedNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias; mean, (biased) variance and number of values of all processes.

    One gathering of 2 C + 1 numbers forward, one sum of 2 C backward. The gradient of x is that of the sum of all
    processes' losses; weight and bias get this process's part, which is averaged with every other parameter's.
    Plain PyTorch, since its own kernels for this serve GPUs only.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = wide_dtype(x)
        values = x.to(wide)
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        # In float64: shares are merged by Chan's formula, whose differences of means are squared.
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])]).double()
        shares = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, own)
        table = torch.stack(shares)
        means, variances, counts = table[:, : len(mean)], table[:, len(mean) : -1], table[:, -1:]
        count = counts.sum()
        weights = counts / count
        total = (weights * means).sum(0)
        var = (weights * (variances + (means - total).square())).sum(0).to(wide)
        mean = total.to(wide)

        inverse = torch.rsqrt(var + eps)
        scale = inverse if weight is None else inverse * weight.to(wide)
        shift = -mean * scale if bias is None else bias.to(wide) - mean * scale
        y = torch.addcmul(_by_channel(shift), values, _by_channel(scale)).to(x.dtype)
        ctx.save_for_backward(x, weight, bias, mean, inverse, count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, count = ctx.saved_tensors
        values, g = x.to(mean.dtype), grad.to(mean.dtype)
        own = torch.stack([g.sum((0, 2, 3)), (g * (values - _by_channel(mean))).sum((0, 2, 3)) * inverse])
        gradients = [
            own[place].to(vector.dtype) if vector is not None else None for place, vector in ((1, weight), (0, bias))
        ]
        if not ctx.needs_input_grad[0]:
            return None, *gradients, None
        sums = own.to(torch.float64, copy=True)
        dist.all_reduce(sums)
        of_y, of_normalized = (sums / count).to(mean.dtype)
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        # scale * (g - of_y - (x - mean) * inverse * of_normalized), in two passes
        slope = scale * inverse * of_normalized
        grad_x = torch.addcmul(_by_channel(mean * slope - scale * of_y), values, _by_channel(-slope))
        grad_x.addcmul_(g, _by_channel(scale))
        return grad_x.to(x.dtype), *gradients, None


def _by_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def synchronize_batch_norms_(model: nn.Module, enabled: bool = True) -> int:
    """Make the batch norms of a network use the statistics of the entire batch in distributed training.

    Training by the processes of ``torch.distributed`` then equals training by one process on their joint batch, running
    statistics included. Evaluation, and training by one process, do not change. Every norm synchronizes all processes.
    For ``nn.BatchNorm2d`` use ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, which ignores `BatchNormReLU`.

    Args:
        model: a network of this package, or any that contains its norms; changed in place.
        enabled: False undoes it.

    Returns:
        The number of norms.

    Raises:
        ValueError: the model has no such norm.
    """
    norms = [m for m in model.modules() if isinstance(m, SynchronizableNorm)]
    if not norms:
        raise ValueError(
            f"model must have batch norms of this package, got a {type(model).__name__} without any; for other batch "
            "norms use torch.nn.SyncBatchNorm.convert_sync_batchnorm"
        )
    for norm in norms:
        norm.synchronized = enabled
    return len(norms)


@torch.no_grad()
def update_bn(loader: Iterable[Any], model: nn.Module, device: torch.device | str | None = None) -> None:
    """Set the running statistics of all batch norms to their mean over the batches of a loader, in training mode.

    Replaces ``torch.optim.swa_utils.update_bn``, for averaged weights; that function finds norms by class and misses
    `BatchNormReLU`.

    Args:
        loader: yields batches: tensors, or lists or tuples whose first element is the model input.
        model: its norms are updated; its mode is kept.
        device: device to move inputs to.
    """
    norms = [m for m in model.modules() if isinstance(m, SynchronizableNorm | nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = {module: module.training for module in model.modules()}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    try:
        for batch in loader:
            image = batch[0] if isinstance(batch, list | tuple) else batch
            model(image if device is None else image.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
