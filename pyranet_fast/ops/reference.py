"""The operators in plain PyTorch: reference and fallback of every kernel.

Arguments are checked by the public functions; shapes and meaning are documented there. Everything here is
differentiable by PyTorch's own autograd.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fractional_max_pool_pyramid(
    x: Tensor,
    output_sizes: Sequence[tuple[int, int]],
    samples: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> list[Tensor]:
    """One `fractional_max_pool2d` a level, after y = relu(x * scale + shift)."""
    # Windows are computed in x's precision by PyTorch: bfloat16 starts would be wrong, so low precision goes
    # through float32 (a maximum is exact, so nothing is lost).
    y = affine_relu(x, scale, shift, relu)
    wide = y.dtype
    n, c = x.shape[:2]
    levels = []
    for u, (h, w) in zip(samples, output_sizes, strict=True):
        u = u.to(wide).expand(n, c, 2)
        levels.append(F.fractional_max_pool2d(y, 2, output_size=(h, w), _random_samples=u).to(x.dtype))
    return levels


def window_starts(u: Tensor, size: int, out: int) -> Tensor:
    """First pixel (..., out) of every window along an axis, by samples (...) in the precision of the maps."""
    u = torch.where(u >= 0, u, 0).clamp_max(1).unsqueeze(-1)
    alpha = (u.new_full((), size - 2) / (out - 1)) if out > 1 else u.new_zeros(())
    steps = torch.arange(out, dtype=u.dtype, device=u.device)
    first = ((steps + u) * alpha).int() - (u * alpha).int()
    return torch.where(steps == out - 1, size - 2, first.clamp(0, size - 2)).long()


def affine_relu(x: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool) -> Tensor:
    """A folded batch norm and a ReLU, each where wanted, in float32 (float64 for float64)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide)
    if scale is not None:
        y = y * scale.to(wide).view(1, -1, 1, 1)
    if shift is not None:
        y = y + shift.to(wide).view(1, -1, 1, 1)
    return F.relu(y) if relu else y


def upsample_sum(
    maps: Sequence[Tensor], size: tuple[int, int], base: Tensor | None = None, align_corners: bool = True
) -> Tensor:
    """Sum of bilinear interpolations, accumulated in float32 (float64 for float64), rounded once."""
    dtype = maps[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    total = None if base is None else base.to(wide)
    for level in maps:
        up = F.interpolate(level.to(wide), size=size, mode="bilinear", align_corners=align_corners)
        total = up if total is None else total + up
    assert total is not None
    return total.to(dtype)


def heatmap_argmax(heatmaps: Tensor, quarter: bool = False) -> tuple[Tensor, Tensor]:
    """Position and value of every map's maximum."""
    n, k, h, w = heatmaps.shape
    flat = heatmaps.flatten(2)
    values = flat.detach().float() if heatmaps.dtype != torch.float64 else flat.detach()
    # The lowest index of the maximum, NaN first: torch.max does not promise which of several it returns.
    is_nan = values.isnan()
    top = torch.where(is_nan, torch.full_like(values, float("inf")), values).amax(2, keepdim=True)
    best = torch.where(is_nan.any(2, keepdim=True), is_nan, values == top)
    index = best.to(torch.uint8).argmax(2)
    position = torch.arange(h * w, device=heatmaps.device).expand(n, k, h * w)
    index = torch.where(best, position, h * w).amin(2)
    y, x = index // w, index % w
    coords = torch.stack((x, y), 2).to(torch.float32)
    if quarter:
        zero = torch.zeros((), device=heatmaps.device)

        def step(ahead: Tensor, behind: Tensor, inside: Tensor) -> Tensor:
            a = values.gather(2, ahead.unsqueeze(2)).squeeze(2)
            b = values.gather(2, behind.unsqueeze(2)).squeeze(2)
            move = (a > b).float() - (a < b).float()
            return torch.where(inside, 0.25 * move, zero)

        in_x = (x > 0) & (x < w - 1)
        in_y = (y > 0) & (y < h - 1)
        right, left = torch.where(in_x, index + 1, index), torch.where(in_x, index - 1, index)
        below, above = torch.where(in_y, index + w, index), torch.where(in_y, index - w, index)
        coords = coords + torch.stack((step(right, left, in_x), step(below, above, in_y)), 2)
    scores = flat.gather(2, index.unsqueeze(2)).squeeze(2)
    return coords, scores


def mirrored_mean(heatmaps: Tensor, mirrored: Tensor, swap: Tensor | Sequence[int]) -> Tensor:
    """Mean of the maps and of a mirrored image's maps, in float32 (float64 for float64): flip testing."""
    wide = torch.promote_types(heatmaps.dtype, torch.float32)
    return (heatmaps.to(wide) + mirrored.to(wide).flip(3)[:, swap]) / 2


def gaussian_heatmaps(joints: Tensor, weight: Tensor, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """exp(-|p - joint|^2 / (2 sigma^2)) at every pixel p; a zero map where the weight is 0."""
    h, w = size
    xs = torch.arange(w, dtype=joints.dtype, device=joints.device)
    ys = torch.arange(h, dtype=joints.dtype, device=joints.device)
    gx = torch.exp(-((xs - joints[..., 0:1]) ** 2) / (2 * sigma * sigma))
    gy = torch.exp(-((ys - joints[..., 1:2]) ** 2) / (2 * sigma * sigma))
    maps = gy.unsqueeze(3) * gx.unsqueeze(2)
    return torch.where((weight > 0)[..., None, None], maps, torch.zeros((), dtype=maps.dtype, device=maps.device))


def heatmap_loss(pred: Tensor, joints: Tensor, weight: Tensor, sigma: float = 1.0) -> Tensor:
    """Weighted mean squared error against Gaussians, in float32 (float64 for float64)."""
    wide = torch.promote_types(pred.dtype, torch.float32)
    h, w = pred.shape[2:]
    weight = weight.to(wide)
    target = gaussian_heatmaps(joints.to(wide), weight, (h, w), sigma)
    total = weight.sum()
    counted = (weight > 0)[..., None, None]
    # where(), not a product with 0: maps of unlabelled joints may hold anything, NaN included.
    error = torch.where(counted, pred.to(wide) - target, torch.zeros((), dtype=wide, device=pred.device))
    summed = (weight * error.square().sum((2, 3))).sum()
    return torch.where(total > 0, summed / (h * w * total.clamp_min(torch.finfo(wide).tiny)), summed * 0)


def heatmap_loss_backward(grad: Tensor, pred: Tensor, joints: Tensor, weight: Tensor, sigma: float = 1.0) -> Tensor:
    """The gradient of `heatmap_loss` for pred, by operations that can be differentiated again."""
    wide = torch.promote_types(pred.dtype, torch.float32)
    h, w = pred.shape[2:]
    weight = weight.to(wide)
    target = gaussian_heatmaps(joints.to(wide), weight, (h, w), sigma)
    total = weight.sum()
    counted = (weight > 0)[..., None, None]
    share = torch.where(total <= 0, 0, 2 * weight / (h * w * total.clamp_min(torch.finfo(wide).tiny)))
    return torch.where(counted, grad * share[..., None, None] * (pred.to(wide) - target), 0).to(pred.dtype)


def batch_norm_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`F.batch_norm` in training, then ReLU; a float64 ``x`` goes with float32 weights and averages too."""
    if batches is not None:
        batches.add_(1)
    mean, var = running_mean, running_var
    if x.dtype == torch.float64:
        weight, bias, mean, var = (v if v is None else v.to(x.dtype) for v in (weight, bias, mean, var))
    y = F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
    for average, moved in ((running_mean, mean), (running_var, var)):
        if average is not moved and average is not None and moved is not None:
            average.copy_(moved)
    # In place is safe: batch norm keeps its input for the backward, not its output.
    return F.relu(y, inplace=True)


def batch_norm_relu_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `batch_norm_relu` for x, weight and bias, by operations that can be differentiated again."""
    wide = torch.promote_types(x.dtype, torch.float32)
    axes, count = (0, 2, 3), x.numel() // x.shape[1]
    centered = x.to(wide) - x.to(wide).mean(axes, keepdim=True)
    inverse = torch.rsqrt(centered.square().mean(axes, keepdim=True) + eps)
    normal = centered * inverse
    y = normal if weight is None else normal * weight.to(wide).view(1, -1, 1, 1)
    if bias is not None:
        y = y + bias.to(wide).view(1, -1, 1, 1)
    passed = torch.where(y <= 0, 0, grad.to(wide))
    of_bias, of_weight = passed.sum(axes, keepdim=True), (passed * normal).sum(axes, keepdim=True)
    of_x = (passed - of_bias / count - normal * of_weight / count) * inverse
    if weight is not None:
        of_x = of_x * weight.to(wide).view(1, -1, 1, 1)
    return of_x.to(x.dtype), of_weight.flatten(), of_bias.flatten()


def add_affine_relu(x: Tensor, other: Tensor | None, scale: Tensor, shift: Tensor, keep: bool) -> list[Tensor]:
    """Nearest upsampling, addition in the dtype of x; then relu(sum * scale + shift) in the dtype of scale."""
    if other is not None:
        x = other + (x if other.shape == x.shape else F.interpolate(x, scale_factor=2.0, mode="nearest"))
    wide = x.to(scale.dtype)
    outputs = [
        F.relu(wide * a[:, None, None] + b[:, None, None]).to(x.dtype) for a, b in zip(scale, shift, strict=True)
    ]
    return [x, *outputs] if keep else outputs
