"""A trained PyraNet optimized for inference: folded, in one layout and precision, without a compiler."""

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
    """`Hourglass`; the sum of its two branches is left to the consumer."""

    def __init__(self, hourglass: Hourglass, dtype: torch.dtype, lack: Tensor | float) -> None:
        super().__init__()
        self.up1 = FoldedUnit(hourglass.up1, dtype, keep=True, lack=lack)  # type: ignore[arg-type]
        self.low1 = FoldedUnit(hourglass.low1, dtype, lack=lack)  # type: ignore[arg-type]
        inner = hourglass.low2
        self.low2: _Hourglass | FoldedUnit
        if isinstance(inner, Hourglass):
            self.low2 = _Hourglass(inner, dtype, self.low1.lack)
        else:
            self.low2 = FoldedUnit(inner, dtype, lack=self.low1.lack)  # type: ignore[arg-type]
        self.low3 = FoldedUnit(hourglass.low3, dtype, lack=self.low2.lack)  # type: ignore[arg-type]
        self.lack: Tensor | float = self.low3.lack + self.up1.lack

    def forward(self, x: Tensor, other: Tensor | None = None, *, spare: bool = False) -> tuple[Tensor, Tensor]:
        """The two terms (N, C, H/2, W/2), (N, C, H, W) of the result; ``spare``: x has no other consumer."""
        total, first = self.up1.entry(x, other, copy=not spare)
        assert total is not None
        low = self.low1(total, pool=True)
        if isinstance(self.low2, _Hourglass):
            low = self.low3(*self.low2(low, spare=True))
        else:
            low = self.low3(self.low2(low, spare=True), spare=True)
        return low, self.up1.after_entry(total, first, spare=spare or total is not x)


class _Stack(nn.Module):
    def __init__(self, stack: Stack, dtype: torch.dtype, lack: Tensor | float) -> None:
        super().__init__()
        self.hourglass = _Hourglass(stack.hourglass, dtype, lack)
        features = stack.features.conv
        folded = FoldedConv(*fold(features, stack.bn), features, dtype, relu=True)
        self.features = Entry([stack.features.bn], [folded], keep=False, lack=self.hourglass.lack)
        self.score = FoldedConv(*fold(stack.score), stack.score, dtype, relu=False)
        self.following: FoldedConv | None = None
        self.lack = lack
        if stack.from_features is not None and stack.from_score is not None:
            # from_features(f) + from_score(score(f)) is one convolution of the features
            weight, bias = fold(stack.from_features)
            first, first_bias = fold(stack.score)
            second, second_bias = (t[..., 0, 0] if t.dim() == 4 else t for t in fold(stack.from_score))
            weight = weight + (second @ first[..., 0, 0])[..., None, None]
            bias = bias + second_bias + second @ first_bias
            self.following = FoldedConv(weight, bias, stack.from_features, dtype, relu=False, cuda_bias=None)
            self.lack = bias + lack

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `pyranet.Stack`: scores and the next stack's input."""
        low, up = self.hourglass(x, spare=self.following is None)
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
        self.unit2 = FoldedUnit(model.stem.unit2, dtype, lack=self.unit1.lack)  # type: ignore[arg-type]
        self.unit3 = FoldedUnit(model.stem.unit3, dtype, lack=self.unit2.lack)  # type: ignore[arg-type]
        lack, stacks = self.unit3.lack, []
        for stack in model.stacks:
            stacks.append(_Stack(stack, dtype, lack))  # type: ignore[arg-type]
            lack = stacks[-1].lack
        self.stacks = nn.ModuleList(stacks)
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
        """Precision of weights and maps: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"fp64"`` after ``.double()``."""
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return names.get(self.conv.weight.dtype, "fp64")

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        """As `PyraNet.forward`, for an image of any precision; the maps are float32.

        On the CPU, all maps of an image with infinity or NaN are NaN.
        """
        check_image(image, self.multiple)
        if self._recordings is None or not self._recordings.hold():
            self._recordings = Recordings(self)
        return self._recordings.run(image, self._pass)

    def _pass(self, image: Tensor) -> list[Tensor]:
        if image.device.type == "cuda" and torch.is_autocast_enabled("cuda"):  # the precision is that of the weights
            with torch.autocast("cuda", enabled=False):
                return self._pass(image)
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
    """Copy a trained network for inference: the same score maps within the precision, without gradients.

    Batch norms are folded into convolutions, those at the entry of a unit are fused with the addition before them, and
    ReLUs and additions are fused into convolutions: on the CPU oneDNN's, with weights that the first
    call packs, on CUDA cuDNN's and, in bf16 and fp16, cuBLAS's matrix products for 1x1s. Maps are channels_last. No
    compiler runs. On the CPU the second input of a shape records the pass, and later ones replay it without Python
    between most kernels, as long as no module has a hook. The copy can be exported and compiled; torch.func and
    forward-mode AD work and use PyTorch's own convolutions. Autocast has no effect on CUDA.

    Args:
        model: on any device; not changed. Uses its running statistics.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``: for weights and maps. Folding uses float64. ``.half()`` and
            the like change it afterwards.
        graph: launch the kernels as one CUDA graph for each shape of input, see `GraphedInference`; module and
            images must then be on a CUDA device.

    Returns:
        A module that is called like the model and returns the score maps of all stacks in float32.

    Raises:
        TypeError, ValueError: model is not a PyraNet or has forward hooks or other norms, or invalid precision.
        UserError: folded weights are not finite.
    """
    if not isinstance(model, PyraNet):
        raise TypeError(f"model must be a PyraNet, got {type(model).__name__}")
    hooked = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise ValueError(
            "model must have no forward hooks, which the folded copy would not run, got one on "
            f"{hooked[0] or 'itself'}: remove it first"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")
    training = {module: module.training for module in model.modules()}
    model.eval()  # norms fold in evaluation only
    try:
        network = InferencePyraNet(model, precision)
    finally:
        for module, mode in training.items():
            module.training = mode
    return GraphedInference(network) if graph else network
