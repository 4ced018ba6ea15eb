"""Convolutions, residual units and pyramids for inference: the same values in fewer passes over memory.

Batch norms are folded into convolutions, ReLU and additions join their pass, and weights are prepacked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...nn.hourglass import max_pool
from ...nn.layers import BatchNormReLU
from ...nn.pyramid import DilatedPyramid, PooledPyramid, PyramidResidualModule, draw_samples, level_sizes
from ...nn.residual import BNReLUConv, ResidualUnit
from ...ops import add_affine_relu, dispatch, fractional_max_pool_pyramid, upsample_sum
from ...ops.cpu import fused_pointwise, policy, pooled_pyramid, winograd
from . import epilogues

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def norm_of(norm: nn.Module) -> BatchNormReLU:
    """The norm itself; TypeError where it has been replaced by one that does something else."""
    if not isinstance(norm, BatchNormReLU):
        raise TypeError(f"the norms of model must be BatchNormReLU, got {type(norm).__name__}")
    return norm


def fold(conv: nn.Conv2d, bn: nn.Module | None = None, *, shift_share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution followed by a batch norm with fixed statistics.

    Args:
        conv: the convolution.
        bn: the norm of its output, or of a sum that its output is a term of.
        shift_share: the part of the norm's shift that this term brings into the sum.
    """
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.detach().double()
    if bn is not None:
        scale, shift = (v.detach().double() for v in norm_of(bn).folded())
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift * shift_share
    return weight, bias


def check_finite(network: nn.Module, precision: str) -> None:
    """Refuse what is not finite in a folded network, since oneDNN's ReLU would make a pose of it: NaN becomes 0.

    Raises:
        UserError: it names the first tensor.
    """
    for name, tensor in network.named_buffers():
        if not tensor.isfinite().all():
            raise UserError(
                f"model has weights or running statistics that are not finite in {precision}: folded, they are "
                f"{name}; finite ones are expected"
            )


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN's convolutions with packed weights can be had: on the CPU, in the precisions it computes in."""
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(ops, name) for name in names):
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


class PackedModule(nn.Module):
    """A module that packs its weights when it is called first, and again when they have been converted or loaded."""

    packed: dict[str, Any]
    """What is packed, new after every change: recordings look whether it still is the same."""
    exact: tuple[str, ...] = ()
    """Buffers of an operator's precision, float32 or float64, whatever ``.to()`` says."""

    def _pack_again(self) -> None:
        self.packed = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": {}}  # opaque tensors cannot be copied

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        before = {name: self._buffers[name] for name in self.exact}
        super()._apply(fn, recurse)
        for name, values in before.items():
            moved = self._buffers[name]
            if values is not None and moved is not None:
                self._buffers[name] = values.to(moved.device, torch.promote_types(moved.dtype, torch.float32))
        self._pack_again()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._pack_again()


class FoldedConv(PackedModule):
    """relu?(conv(x) + other?), without gradient.

    Args:
        weight, bias: (outputs, inputs, k, k) and (outputs,), of any precision.
        like: the convolution that gives stride, padding and dilation.
        dtype: to compute in.
        relu: apply ReLU at the end.
        cuda_bias: what is added on CUDA instead, see `epilogues`: with what other layers leave to this one, or None
            where this one leaves its bias to another. ``bias`` itself if it is not given.
    """

    weight: Tensor
    bias: Tensor
    cuda_bias: Tensor | None
    cudnn_refuses: str | None
    """Why cuDNN has no fused convolution for this layer, once it was asked; PyTorch's own operators run then."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        like: nn.Conv2d,
        dtype: torch.dtype,
        *,
        relu: bool,
        cuda_bias: Tensor | Literal["bias"] | None = "bias",
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        on_cuda = bias if isinstance(cuda_bias, str) else cuda_bias
        self.register_buffer("cuda_bias", None if on_cuda is None else on_cuda.to(dtype))
        padding = like.padding
        assert not isinstance(padding, str)
        self.geometry: tuple[Sequence[int], ...] = (list(padding), list(like.stride), list(like.dilation))
        self.relu = relu
        self._small = self.weight.shape[2:] == (3, 3) and self.geometry == ([1, 1], [1, 1], [1, 1])
        self._is_pointwise = self.weight.shape[2:] == (1, 1) and self.geometry == ([0, 0], [1, 1], [1, 1])
        self._pack_again()

    def _pack_again(self) -> None:
        super()._pack_again()
        self._wide_bias = self.bias.float()
        self._can_pack = _packs(self.weight)
        self.cudnn_refuses = None
        self._can_winograd = self._small and policy.supports_winograd(self.weight)

    def forward(self, x: Tensor, other: Tensor | None = None, *, overwrite: bool = True) -> Tensor:
        """(N, inputs, H, W) and (N, outputs, h, w) to (N, outputs, h, w); ``overwrite``: into ``other``'s memory."""
        if epilogues.applies(x):
            return self._on_cuda(x, other, overwrite)
        padding, stride, dilation = self.geometry
        tile = policy.winograd_tile(x) if self._can_winograd else 0
        if tile:
            filters = self.packed.get(f"tiles of {tile}")
            if filters is None:
                filters = self.packed[f"tiles of {tile}"] = winograd.prepack(self.weight, tile)
            return winograd.conv3x3(x, filters, self.weight, self._wide_bias, other, relu=self.relu)
        if self._is_pointwise and policy.fused_pointwise_alone_pays(x, self.weight):
            branches = self.packed.get("branches")
            if branches is None:
                branches = fused_pointwise.prepack([(None, None)], [(self.weight, self.bias, self.relu)])
                self.packed["branches"] = branches
            return fused_pointwise.fused_pointwise(x, None, branches, residual=other)[0]
        if not (self._can_pack and policy.fuses()):
            return epilogues.convolution(x, self.weight, self.bias, other, self.geometry, relu=self.relu)
        ops = torch.ops.mkldnn
        weight = self.packed.get("oneDNN")
        if weight is None:
            weight = ops._reorder_convolution_weight(self.weight, padding, stride, dilation, 1, list(x.shape))
            self.packed["oneDNN"] = weight
        places = (weight, self.bias, padding, stride, dilation, 1)
        if other is None:
            return ops._convolution_pointwise(x, *places, "relu" if self.relu else "none", [], "")
        end: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)
        if overwrite:
            return ops._convolution_pointwise_.binary(other, x, *places, *end)
        return ops._convolution_pointwise.binary(x, other, *places, *end)

    def _on_cuda(self, x: Tensor, other: Tensor | None, overwrite: bool) -> Tensor:
        weight, bias, relu = self.weight, self.cuda_bias, self.relu
        if self._is_pointwise and epilogues.multiplies(x, weight):
            if other is None:
                return epilogues.pointwise(x, weight, bias, relu=relu)
            if bias is None and not relu and other.is_contiguous(memory_format=torch.channels_last):
                return epilogues.add_pointwise_(other if overwrite else other.clone(), x, weight)
        if relu and self.cudnn_refuses is None and epilogues.has_fused_convolution(x, weight):
            try:
                return epilogues.fused_convolution(x, weight, bias, other, self.geometry)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # no engine for this dtype, these channels, this GPU
                self.cudnn_refuses = str(error)
        return epilogues.convolution(x, weight, bias, other, self.geometry, relu=relu)


def _centered(levels: int) -> Tensor:
    """The windows of evaluation, see `draw_samples`, made once."""
    return draw_samples(torch.empty(0), levels, "batch", False)


class Entry(PackedModule):
    """The branches of a unit up to the outputs of their first convolutions, in as few passes as there are kernels for.

    Args:
        norms: for each branch its norm, or an ``nn.Identity`` where the branch reads the sum itself.
        convs: for each branch its 1x1 convolution.
        keep: the sum is needed besides.
        lack: what the sum lacks on CUDA, (C,) or 0, see `epilogues`; 0 where a branch reads the sum itself.
    """

    scale: Tensor
    shift: Tensor
    cuda_shift: Tensor
    center: Tensor
    exact = ("scale", "shift", "cuda_shift", "center")

    def __init__(
        self, norms: Sequence[nn.Module], convs: Sequence[FoldedConv], *, keep: bool, lack: Tensor | float = 0.0
    ) -> None:
        super().__init__()
        # Branches that share a norm (variant A's levels) share its result.
        distinct = [norm_of(norm) for norm in dict.fromkeys(norms) if not isinstance(norm, nn.Identity)]
        folded = [norm.folded() for norm in distinct]
        self.places = [distinct.index(norm) if norm in distinct else -1 for norm in norms]
        self.keep = keep
        self.convs = nn.ModuleList(convs)
        assert isinstance(lack, float) or -1 not in self.places
        # In float32 from networks in float64 too.
        on_cuda = [(scale, scale.double() * lack + shift) for scale, shift in folded]
        for name, pairs, i in (("scale", folded, 0), ("shift", folded, 1), ("cuda_shift", on_cuda, 1)):
            rows = [pair[i].detach().float() for pair in pairs]
            self.register_buffer(name, torch.stack(rows) if rows else torch.empty(0, 0, dtype=torch.float32))
        self.register_buffer("center", _centered(1).to(self.scale.device), persistent=False)
        self._pack_again()

    def forward(
        self, x: Tensor, other: Tensor | None = None, *, pool: bool = False, copy: bool = False
    ) -> tuple[Tensor | None, list[Tensor]]:
        """x (+ other, see `ops.add_affine_relu`) to the sum, if kept, and what every branch's convolution makes.

        ``pool``: x is max-pooled by 2 first; without ``other``. ``copy``: on CUDA the kept sum has memory of its own,
        even where it is x: written while x is read it costs least.
        """
        convs = cast(list[FoldedConv], list(self.convs))
        on_cuda = epilogues.applies(x)
        if not on_cuda and policy.supports_fused_pointwise(x, convs[0].weight):
            branches = self.packed.get("branches")
            if branches is None:
                rows = [(None, None) if place < 0 else (self.scale[place], self.shift[place]) for place in self.places]
                branches = fused_pointwise.prepack(rows, [(c.weight, c.bias, c.relu) for c in convs])
                self.packed["branches"] = branches
            keep = self.keep and (other is not None or pool)
            made = fused_pointwise.fused_pointwise(x, other, branches, keep=keep, pool=pool)
            total = made.pop(0) if keep else x
            return total if self.keep else None, made
        if pool:
            x = max_pool(x, self.center)
        shift = self.cuda_shift if on_cuda else self.shift
        copy = copy and on_cuda and dispatch.operators(x) is not None
        keep = (self.keep or -1 in self.places) and (other is not None or copy)
        made = [] if not keep and not len(self.scale) else add_affine_relu(x, other, self.scale, shift, keep=keep)
        total = made.pop(0) if keep else x
        outputs = [conv(total if i < 0 else made[i]) for i, conv in zip(self.places, convs, strict=True)]
        return total if self.keep else None, outputs


def _after(unit: BNReLUConv) -> BatchNormReLU:
    return norm_of(unit.bn)


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


class FoldedPooledPyramid(PackedModule):
    """`PooledPyramid` without its entry norm; see there. Ends in a sum with f_0 and the ReLU after it.

    Args:
        pyramid: with fixed statistics.
        end: the norm of the sum.
        dtype: to compute in.
        left: the bias that f_0 leaves to the end on CUDA, see `epilogues`.
    """

    samples: Tensor
    cuda_shifts: Tensor
    exact = ("samples", "cuda_shifts")

    def __init__(self, pyramid: PooledPyramid, end: BatchNormReLU, dtype: torch.dtype, left: Tensor) -> None:
        super().__init__()
        self.levels, self.windows, self.concatenate = pyramid.levels, pyramid.windows, pyramid.concatenate
        self.reduce = [
            FoldedConv(*fold(_conv(conv), bn), _conv(conv), dtype, relu=True)
            for conv, bn in zip(pyramid.reduce, pyramid.bn, strict=True)
        ]  # run by the unit's Entry
        after, levels = _after(pyramid.expand), pyramid.levels
        filters, biases = [], []
        for level in range(levels):
            conv = _conv(pyramid.filters[level % len(pyramid.filters)])
            if self.concatenate:
                weight, bias = fold(conv)
                scale, shift = (v.double().chunk(levels)[level] for v in after.folded())
                weight, bias = weight * scale[:, None, None, None], bias * scale + shift
            else:  # upsampling weights add up to one: it may come after the norm
                weight, bias = fold(conv, after, shift_share=1 / levels)
            biases.append(bias)
            if self.concatenate or level < len(pyramid.filters):
                filters.append(FoldedConv(weight, bias, conv, dtype, relu=False, cuda_bias=None))
        self.filters = nn.ModuleList(filters)
        self.expand = _end(pyramid.expand, end, dtype, left)
        # The levels' biases after the upsampling, all at once or, concatenated, each for its own.
        shifts = torch.stack(biases) if self.concatenate else torch.stack(biases).sum(0, keepdim=True)
        self.register_buffer("cuda_shifts", shifts.float())
        self.register_buffer("samples", _centered(levels).to(shifts.device), persistent=False)
        self._pack_again()

    def forward(self, entries: list[Tensor], full: Tensor) -> Tensor:
        """What ``reduce`` makes of the unit's input, and f_0's (N, outputs, H, W), which is overwritten."""
        size = (full.shape[2], full.shape[3])
        sizes = level_sizes(size, self.levels)
        fusible = len(entries) == 1 and not self.concatenate and not epilogues.applies(full)
        if fusible and policy.supports_pooled_pyramid(entries[0], full, self.expand.weight):
            convs = self.packed.get("convolutions")
            if convs is None:
                filters = cast(list[FoldedConv], list(self.filters))
                ends = (self.expand.weight, self.expand.bias)
                convs = self.packed["convolutions"] = pooled_pyramid.prepack(
                    [(f.weight, f.bias) for f in filters], ends
                )
            return pooled_pyramid.pooled_pyramid_(entries[0], sizes, convs, full)
        if len(entries) == 1:
            maps = fractional_max_pool_pyramid(entries[0], sizes, self.samples)
        else:
            maps = [
                fractional_max_pool_pyramid(entry, sizes[i : i + 1], self.samples[i : i + 1])[0]
                for i, entry in enumerate(entries)
            ]
        maps = [self.filters[i % len(self.filters)](m) for i, m in enumerate(maps)]
        if self.concatenate:
            joined = torch.cat([self._joined([m], size, i) for i, m in enumerate(maps)], 1)
        else:
            joined = self._joined(maps, size, 0)
        return cast(Tensor, self.expand(joined, full))

    def _joined(self, maps: list[Tensor], size: tuple[int, int], shift: int) -> Tensor:
        """ReLU of the levels' sum at full size, and on CUDA of their biases too."""
        if not epilogues.applies(maps[0]):
            return upsample_sum(maps, size, align_corners=True).relu_()
        shifts = self.cuda_shifts.select(0, shift)
        if dispatch.choose(maps[0]) == "native":
            return upsample_sum(maps, size, align_corners=True, shift=shifts, relu=True)
        total = upsample_sum(maps, size, align_corners=True)
        return total.add_(shifts.to(total.dtype).view(1, -1, 1, 1)).relu_()


def _end(expand: BNReLUConv, end: BatchNormReLU, dtype: torch.dtype, left: Tensor) -> FoldedConv:
    """The last 1x1 of a pyramid, a term of the sum that ``end`` normalizes; on CUDA with the bias ``left`` to it."""
    weight, bias = fold(expand.conv, end, shift_share=0.0)
    return FoldedConv(weight, bias, expand.conv, dtype, relu=True, cuda_bias=bias + left)


class FoldedDilatedPyramid(nn.Module):
    """`DilatedPyramid` without its entry norm; see `FoldedPooledPyramid`."""

    def __init__(self, pyramid: DilatedPyramid, end: BatchNormReLU, dtype: torch.dtype, left: Tensor) -> None:
        super().__init__()
        self.reduce = [FoldedConv(*fold(pyramid.reduce.conv, pyramid.bn), pyramid.reduce.conv, dtype, relu=True)]
        after, count = _after(pyramid.expand), len(pyramid.filters)
        folded = [fold(_conv(conv), after, shift_share=1 / count) for conv in pyramid.filters]
        biases: list[Tensor | None] = [*([None] * (count - 1)), torch.stack([bias for _, bias in folded]).sum(0)]
        self.filters = nn.ModuleList(
            FoldedConv(*pair, _conv(conv), dtype, relu=i == count - 1, cuda_bias=biases[i])
            for i, (pair, conv) in enumerate(zip(folded, pyramid.filters, strict=True))
        )
        self.expand = _end(pyramid.expand, end, dtype, left)

    def forward(self, entries: list[Tensor], full: Tensor) -> Tensor:
        """As `FoldedPooledPyramid.forward`."""
        (x,), total = entries, None
        for dilated in self.filters:
            total = dilated(x, total)
        return cast(Tensor, self.expand(total, full))


class FoldedUnit(nn.Module):
    """`ResidualUnit` or `PyramidResidualModule` with fixed statistics.

    Args:
        unit: on any device.
        dtype: to compute in.
        keep: the input's sum is needed besides.
        lack: what the input lacks on CUDA, (C,) or 0, see `epilogues`.

    Attributes:
        entry: makes what ``forward`` reads.
        lack: what the output lacks on CUDA.
    """

    def __init__(
        self,
        unit: ResidualUnit | PyramidResidualModule,
        dtype: torch.dtype,
        *,
        keep: bool = False,
        lack: Tensor | float = 0.0,
    ) -> None:
        super().__init__()
        after, end = _after(unit.filter), _after(unit.expand)
        norms = [unit.reduce.bn]
        convs = [FoldedConv(*fold(unit.reduce.conv, after), unit.reduce.conv, dtype, relu=True)]
        weight, bias = fold(unit.filter.conv, end)
        self.pyramid: FoldedPooledPyramid | FoldedDilatedPyramid | None = None
        if isinstance(unit, PyramidResidualModule):
            pyramid = unit.pyramid
            if isinstance(pyramid, PooledPyramid):
                self.pyramid = FoldedPooledPyramid(pyramid, end, dtype, bias)
                norms += [pyramid.preactivation] * len(self.pyramid.reduce)
            else:
                assert isinstance(pyramid, DilatedPyramid)
                self.pyramid = FoldedDilatedPyramid(pyramid, end, dtype, bias)
                norms.append(pyramid.reduce.bn)
            convs += self.pyramid.reduce
        # The pyramid's end applies the ReLU to the sum, and adds the bias on CUDA.
        alone = self.pyramid is None
        self.filter = FoldedConv(weight, bias, unit.filter.conv, dtype, relu=alone, cuda_bias=bias if alone else None)
        weight, bias = fold(unit.expand.conv)
        self.expand = FoldedConv(weight, bias, unit.expand.conv, dtype, relu=False, cuda_bias=None)
        self.projects = isinstance(unit.skip, BNReLUConv)
        self.lack: Tensor | float = 0.0 if self.projects else bias + lack
        if isinstance(unit.skip, BNReLUConv):
            norms.append(unit.skip.bn)
            weight, skip_bias = fold(unit.skip.conv)
            skip = FoldedConv(weight, skip_bias, unit.skip.conv, dtype, relu=False, cuda_bias=skip_bias + bias)
            convs.append(skip)
        self.entry = Entry(norms, convs, keep=keep or not self.projects, lack=lack)

    def forward(self, x: Tensor, other: Tensor | None = None, *, pool: bool = False, spare: bool = False) -> Tensor:
        """(N, inputs, H, W), and a second term of it or pooling (see `Entry`), to (N, outputs, H, W).

        ``spare``: x has no other consumer.
        """
        total, first = self.entry(x, other, pool=pool)
        return self.after_entry(total, first, spare=spare or total is not x)

    def after_entry(self, x: Tensor | None, first: list[Tensor], *, spare: bool = False) -> Tensor:
        """What follows ``entry``; ``spare``: x has no other consumer, the sum, which may be overwritten."""
        skip = first.pop() if self.projects else cast(Tensor, x)
        y = self.filter(first[0])
        if self.pyramid is not None:
            y = self.pyramid(first[1:], y)
        return cast(Tensor, self.expand(y, skip, overwrite=self.projects or (spare and epilogues.applies(y))))
