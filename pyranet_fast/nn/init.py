"""Weight initialization, including the paper's for multi-branch networks (section 4.1, equation 15).

Each function changes a model in place and returns it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from .branch_counting import CallSite, count_branches

__all__ = [
    "INITIALIZERS",
    "LayerVariance",
    "VarianceTable",
    "initialize_",
    "kaiming_",
    "multi_branch_",
    "torch_",
    "xavier_",
]

Model = TypeVar("Model", bound=nn.Module)

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # the first: batch and instance norms
SKIPS = ("branch", "sum")


def _apply(model: Model, fill: Callable[[Tensor], object]) -> Model:
    """``fill`` the weights of convolutions and linear layers; biases 0; norms 1 and 0."""
    for module in model.modules():
        if isinstance(module, LAYERS):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        _reset_norms_(model)
    return model


def _reset_norms_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, NORMS):
            if module.weight is not None:
                module.weight.fill_(1.0)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()


def xavier_(model: Model) -> Model:
    """Initialize by Glorot and Bengio: Var[w] = 2 / (fan_in + fan_out), normal; biases 0, norms 1 and 0."""
    return _apply(model, nn.init.xavier_normal_)


def kaiming_(model: Model) -> Model:
    """Initialize by He et al. for ReLU: Var[w] = 2 / fan_in, normal; biases 0, norms 1 and 0."""
    return _apply(model, lambda weight: nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu"))


def torch_(model: Model) -> Model:
    """Keep PyTorch's default initialization."""
    return model


@dataclass(frozen=True)
class LayerVariance:
    """One weight: its layer, C_i, n_i, C_o, n_o, the resulting variance, and the number of its uses (0: not reached
    by the example, with both counts 1)."""

    layer: str
    c_i: float
    n_i: float
    c_o: float
    n_o: float
    variance: float
    uses: int = 1


@dataclass(frozen=True)
class VarianceTable:
    """Result of `multi_branch_`; ``str()`` of it is a table."""

    rows: tuple[LayerVariance, ...]
    alpha: float

    def __getitem__(self, layer: str) -> LayerVariance:
        """The row of a layer by its name in the model.

        Raises:
            KeyError: no convolution or linear layer of that name.
        """
        for row in self.rows:
            if row.layer == layer:
                return row
        raise KeyError(f"no layer {layer!r} in the table; there are {', '.join(row.layer for row in self.rows)}")

    def __str__(self) -> str:
        width = max([len("layer"), *(len(row.layer) for row in self.rows)])
        lines = [f"{'layer':{width}} {'C_i':>8} {'n_i':>8} {'C_o':>8} {'n_o':>8} {'variance':>11} {'uses':>5}"]
        for row in self.rows:
            lines.append(
                f"{row.layer:{width}} {row.c_i:8.4g} {row.n_i:8.6g} {row.c_o:8.4g} {row.n_o:8.6g} "
                f"{row.variance:11.4e} {row.uses:5d}"
            )
        return "\n".join(lines)


def variance(c_i: float, n_i: float, c_o: float, n_o: float, alpha: float = 0.5) -> float:
    """Return the variance of equation 15: 1 / (alpha^2 (C_i n_i + C_o n_o)).

    Responses keep their variance in the forward pass if alpha C_i n_i Var[w] = 1, gradients in the backward pass if
    alpha C_o n_o Var[w] = 1; with alpha = 1/2 (ReLU) this is the compromise at which both hold on average, as in Glorot
    and Bengio's rule. C_i = C_o = 1 gives 4 / (n_i + n_o): twice Glorot's 2 / (n_i + n_o), and He et al.'s
    2 / n where n_i = n_o = n; in general the harmonic mean of He's forward rule 2 / n_i and backward rule 2 / n_o.
    For alpha = 1 the derivation gives 2 / (C_i n_i + C_o n_o); the printed equation has 1, which is used here.
    """
    return 1.0 / (alpha * alpha * (c_i * n_i + c_o * n_o))


def _fans(weight: Tensor, groups: int, stride: tuple[int, ...], transposed: bool) -> tuple[float, float]:
    """n_i: products that one output sums; n_o: outputs that one input goes to (at stride 1, as the paper has it).

    Both are k^2 channels / groups: in a grouped convolution an output sums its own group's channels only. A
    transposed convolution of stride s spreads every input over k^2 outputs, so an output sums k^2 / s^2 of them.
    """
    area = math.prod(weight.shape[2:])
    if transposed:  # (inputs, outputs / groups, ...)
        return area * weight.shape[0] / groups / math.prod(stride), float(area * weight.shape[1])
    return float(area * weight.shape[1]), area * weight.shape[0] / groups


def _row(name: str, sites: list[CallSite], weight: Tensor, alpha: float) -> LayerVariance:
    c_i, c_o = max(site.inputs for site in sites), max(site.outputs for site in sites)
    n_i, n_o = _fans(weight, sites[0].groups, sites[0].stride, sites[0].transposed)
    if c_i * n_i + c_o * n_o == 0:  # reads zeros, and nothing reads it
        c_i = c_o = 1.0
    return LayerVariance(name, c_i, n_i, c_o, n_o, variance(c_i, n_i, c_o, n_o, alpha), len(sites))


@overload
def multi_branch_(
    model: Model,
    example_input: Tensor | tuple[Any, ...],
    *,
    alpha: float = ...,
    skips: str = ...,
    explain: Literal[False] = ...,
) -> Model: ...
@overload
def multi_branch_(
    model: nn.Module,
    example_input: Tensor | tuple[Any, ...],
    *,
    alpha: float = ...,
    skips: str = ...,
    explain: Literal[True],
) -> VarianceTable: ...


def multi_branch_(
    model: Model,
    example_input: Tensor | tuple[Any, ...],
    *,
    alpha: float = 0.5,
    skips: str = "branch",
    explain: bool = False,
) -> Model | VarianceTable:
    """Initialize by equation 15: Var[w] = 1 / (alpha^2 (C_i n_i + C_o n_o)), normal; biases 0, norms 1 and 0.

    C_i, the number of branches summed into a layer's input, and C_o, the number that read its output, are
    found by tracing the model; `pyranet_fast.nn.branch_counting` defines how operations count. n_i = k^2 inputs
    and n_o = k^2 outputs, both over the groups of a grouped convolution.

    A weight with several uses (variant B*'s 3x3, one for all levels) uses the largest C_i and C_o of its uses:
    every use is a separate layer for the responses that pass through it, so counts are not added, and with the largest
    no response grows.

    Args:
        model: any module that ``torch.export`` can trace; changed in place.
        example_input: input of the model, a tensor or a tuple of arguments, on its device. The values do not matter;
            the smallest valid size is enough.
        alpha: 0.5 for ReLU, 1 for tanh and sigmoid.
        skips: an identity skip counts as one ``"branch"``, for networks that normalize the input of branches, or as the
            ``"sum"`` of all its terms, for residual networks without normalization.
        explain: return the table of counts and variances instead of the model.

    Returns:
        The model; with ``explain`` a `VarianceTable`.

    Raises:
        ValueError: invalid alpha or skips, or the branches cannot be counted; the message names the module and the
            operation. The model is then unchanged.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be a positive number (0.5 for ReLU, 1 for tanh and sigmoid), got {alpha}")
    if skips not in SKIPS:
        raise ValueError(f"skips must be 'branch' or 'sum', got {skips!r}")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    sites: dict[int, list[CallSite]] = {}
    for site in count_branches(model, example_input, skips=skips):
        sites.setdefault(id(parameters[site.weight]), []).append(site)
    rows = _rows(model, parameters, sites, alpha)
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    biases: list[Tensor] = [
        parameters[site.bias] for found in sites.values() for site in found if site.bias is not None
    ]
    biases += [module.bias for module in layers if module.bias is not None]
    with torch.no_grad():
        for weight, row in rows:
            weight.normal_(0.0, math.sqrt(row.variance))
        for bias in biases:
            bias.zero_()
        _reset_norms_(model)
    return VarianceTable(tuple(row for _, row in rows), alpha) if explain else model


def _rows(
    model: nn.Module, parameters: Mapping[str, Tensor], sites: dict[int, list[CallSite]], alpha: float
) -> list[tuple[Tensor, LayerVariance]]:
    """Every weight with its variance: those that the trace met, in its order, then those that it never reached."""
    rows = []
    for found in sites.values():
        name = found[0].weight
        rows.append((parameters[name], _row(name.removesuffix(".weight"), found, parameters[name], alpha)))
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and id(module.weight) not in sites:
            rows.append((module.weight, _unreached(name, module, alpha)))
    return rows


def _unreached(name: str, module: nn.Module, alpha: float) -> LayerVariance:
    weight: Tensor = module.weight  # type: ignore[assignment]
    transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    stride = getattr(module, "stride", ())
    n_i, n_o = _fans(weight, getattr(module, "groups", 1), stride, transposed)
    return LayerVariance(name, 1.0, n_i, 1.0, n_o, variance(1.0, n_i, 1.0, n_o, alpha), uses=0)


INITIALIZERS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "paper": multi_branch_,
    "xavier": lambda model, example_input: xavier_(model),
    "kaiming": lambda model, example_input: kaiming_(model),
    "torch": lambda model, example_input: torch_(model),
}
"""The initializations by the names that commands accept, of a model and an example of its input."""


def initialize_(model: Model, name: str, example_input: Tensor) -> Model:
    """Initialize a model by a name in `INITIALIZERS`.

    Args:
        model: changed in place.
        name: ``"paper"`` (equation 15), ``"xavier"``, ``"kaiming"`` (MSR) or ``"torch"`` (no change).
        example_input: input of the model; only ``"paper"`` uses it, and only its shape.

    Raises:
        ValueError: unknown name, or equation 15 cannot be applied to the model.
    """
    if name not in INITIALIZERS:
        raise ValueError(f"name must be one of {', '.join(map(repr, INITIALIZERS))}, got {name!r}")
    INITIALIZERS[name](model, example_input)
    return model
