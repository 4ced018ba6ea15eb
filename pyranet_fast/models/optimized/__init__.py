"""A trained PyraNet made ready for predictions: folded, in one layout and precision, without a compiler."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from ...nn.hourglass import Hourglass
from ...ops.checks import is_vmapped
from ..pyranet import PyraNet, Stack, check_image
from .folding import PRECISIONS, Entry, FoldedConv, FoldedUnit, check_finite, fold
from .graphs import GraphedInference
from .recording import Recordings


class _Hourglass(nn.Module):
    """`Hourglass`; the sum of its two branches is left to whoever reads it."""

    def __init__(self, hourglass: Hourglass, dtype: torch.dtype) -> None:
        super().__init__()
        self.up1 = FoldedUnit(hourglass.up1, dtype, keep=True)  # type: ignore[arg-type]
        self.low1 = FoldedUnit(hourglass.low1, dtype)  # type: ignore[arg-type]
        inner = hourglass.low2
        self.low2: _Hourglass | FoldedUnit
        self.low2 = _Hourglass(inner, dtype) if isinstance(inner, Hourglass) else FoldedUnit(inner, dtype)  # type: ignore[arg-type]
        self.low3 = FoldedUnit(hourglass.low3, dtype)  # type: ignore[arg-type]

    def forward(self, x: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The two terms (N, C, H/2, W/2), (N, C, H, W) of the result, and the input's sum."""
        total, first = self.up1.entry(x, other)
        assert total is not None
        low = self.low1(total, pool=True)
        if isinstance(self.low2, _Hourglass):
            inner, outer, _ = self.low2(low)
            low = self.low3(inner, outer)
        else:
            low = self.low3(self.low2(low))
        return low, self.up1.after_entry(total, first), total


class _Stack(nn.Module):
    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        super().__init__()
        self.hourglass = _Hourglass(stack.hourglass, dtype)
        features = stack.features.conv
        folded = FoldedConv(*fold(features, stack.bn), features, dtype, relu=True)
        self.features = Entry([stack.features.bn], [folded], keep=False)
        self.score = FoldedConv(*fold(stack.score), stack.score, dtype, relu=False)
        self.following: FoldedConv | None = None
        if stack.from_features is not None and stack.from_score is not None:
            # from_features(f) + from_score(score(f)) is one convolution of the features
            weight, bias = fold(stack.from_features)
            first, first_bias = fold(stack.score)
            second, second_bias = (t[..., 0, 0] if t.dim() == 4 else t for t in fold(stack.from_score))
            weight = weight + (second @ first[..., 0, 0])[..., None, None]
            bias = bias + second_bias + second @ first_bias
            self.following = FoldedConv(weight, bias, stack.from_features, dtype, relu=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `pyranet.Stack`: scores and the next stack's input."""
        low, up, _ = self.hourglass(x)
        (features,) = self.features(low, up)[1]
        following = x if self.following is None else self.following(features, x)
        return self.score(features), following


class InferencePyraNet(nn.Module):
    """See `optimize_for_inference`."""

    def __init__(self, model: PyraNet, precision: str) -> None:
        super().__init__()
        dtype = PRECISIONS[precision]
        self.multiple, self._config = model.multiple, model.config
        self.conv = FoldedConv(*fold(model.stem.conv, model.stem.bn), model.stem.conv, dtype, relu=True)
        self.unit1 = FoldedUnit(model.stem.unit1, dtype)  # type: ignore[arg-type]
        self.unit2 = FoldedUnit(model.stem.unit2, dtype)  # type: ignore[arg-type]
        self.unit3 = FoldedUnit(model.stem.unit3, dtype)  # type: ignore[arg-type]
        self.stacks = nn.ModuleList(_Stack(stack, dtype) for stack in model.stacks)  # type: ignore[arg-type]
        check_finite(self, precision)
        self.eval()
        self._recordings: Recordings | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_recordings": None}

    @property
    def config(self) -> dict[str, object]:
        """As `PyraNet.config`."""
        return dict(self._config)

    @property
    def precision(self) -> str:
        """Of weights and maps: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"fp64"`` after ``.double()``."""
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return names.get(self.conv.weight.dtype, "fp64")

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        """As `PyraNet.forward`, for an image of any precision; the maps are float32.

        On the CPU all maps of an image that holds infinity or NaN are NaN.
        """
        check_image(image, self.multiple)
        if self._recordings is None:
            self._recordings = Recordings(self)
        return self._recordings.run(image, self._pass)

    def _pass(self, image: Tensor) -> list[Tensor]:
        # oneDNN's ReLU makes 0 of NaN: what is not finite in an image of the batch reaches its maps by this 0 or NaN.
        spoilt = image.float().sum((1, 2, 3), keepdim=True) * 0 if image.device.type == "cpu" else None
        x = image.to(dtype=self.conv.weight.dtype)
        if not is_vmapped(x):
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.unit3(self.unit2(self.unit1(self.conv(x)), pool=True))
        scores = []
        for stack in self.stacks:
            score, x = stack(x)
            scores.append(score.float() if spoilt is None else score.float() + spoilt)
        return scores


@overload
def optimize_for_inference(
    model: PyraNet, precision: str = "fp32", *, graph: Literal[False] = False
) -> InferencePyraNet: ...
@overload
def optimize_for_inference(
    model: PyraNet, precision: str = "fp32", *, graph: bool
) -> InferencePyraNet | GraphedInference: ...
def optimize_for_inference(
    model: PyraNet, precision: str = "fp32", *, graph: bool = False
) -> InferencePyraNet | GraphedInference:
    """A copy of a trained network for predictions: the same score maps within the precision, without gradients.

    Batch norms are folded into convolutions, those at the entry of a unit are made in one pass with the addition
    before them, ReLUs and additions happen where convolutions write, weights lie as oneDNN wants them, maps are
    channels_last. No compiler runs; the first call packs the weights. On the CPU the second image of a shape records
    the pass, and those that follow run it without Python between most kernels, as long as no part of the network has
    a hook. It can be exported and compiled, and torch.func and forward-mode AD work, by PyTorch's own convolutions
    then.

    Args:
        model: on any device; it is not changed. Its running statistics are taken as they are.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``: of weights and maps. Folding is done in float64. ``.half()``
            and its like change it afterwards.
        graph: launch the kernels as one CUDA graph for each shape of input, see `GraphedInference`; images then have
            to be on a CUDA device, and so does the module.

    Returns:
        A module that is called as the model is, and returns the scores of all stacks in float32.

    Raises:
        TypeError, ValueError: another model, one with forward hooks or with norms of another kind, or another
            precision.
        UserError: weights or statistics that are not finite once they are folded.
    """
    if not isinstance(model, PyraNet):
        raise TypeError(f"model is a {type(model).__name__}; a PyraNet is accepted")
    hooked = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise ValueError(
            f"model has a forward hook on {hooked[0] or 'itself'}, which its folded copy would not run; one without is "
            "accepted: remove it first"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; accepted are {', '.join(map(repr, PRECISIONS))}")
    training = {module: module.training for module in model.modules()}
    model.eval()  # norms fold in evaluation only
    try:
        network = InferencePyraNet(model, precision)
    finally:
        for module, mode in training.items():
            module.training = mode
    return GraphedInference(network) if graph else network
