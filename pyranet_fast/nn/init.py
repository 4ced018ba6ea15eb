"""Weight initialisation. Each function changes a model in place and returns it.

`multi_branch_` is the paper's own (section 4.1); the others stand beside it for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from .multi_branch import LayerVariance, VarianceTable, multi_branch_

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

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)


def _apply(model: Model, fill: Callable[[Tensor], object]) -> Model:
    """``fill`` the weights of convolutions and linear layers; biases 0; norms 1 and 0."""
    for module in model.modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _NORMS):
            if module.weight is not None:
                nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def xavier_(model: Model) -> Model:
    """Glorot and Bengio's rule, Var[w] = 2 / (fan_in + fan_out), normal; biases 0, norms 1 and 0."""
    return _apply(model, nn.init.xavier_normal_)


def kaiming_(model: Model) -> Model:
    """He et al.'s rule for ReLU, Var[w] = 2 / fan_in, normal; biases 0, norms 1 and 0."""
    return _apply(model, lambda weight: nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu"))


def torch_(model: Model) -> Model:
    """What PyTorch's layers start with: nothing is changed."""
    return model


INITIALIZERS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "paper": multi_branch_,
    "xavier": lambda model, example_input: xavier_(model),
    "kaiming": lambda model, example_input: kaiming_(model),
    "torch": lambda model, example_input: torch_(model),
}
"""The initialisations by the names that commands accept, of a model and an example of its input."""


def initialize_(model: Model, name: str, example_input: Tensor) -> Model:
    """Initialise a model by one of `INITIALIZERS`' names.

    Args:
        model: changed in place.
        name: ``"paper"`` (equation 15), ``"xavier"``, ``"kaiming"`` (MSR) or ``"torch"``, which changes nothing.
        example_input: what the model is called with; only ``"paper"`` looks at it, and only at its shape.

    Raises:
        ValueError: another name, or a model that equation 15 cannot be applied to.
    """
    if name not in INITIALIZERS:
        raise ValueError(f"name is {name!r}; accepted are {', '.join(map(repr, INITIALIZERS))}")
    INITIALIZERS[name](model, example_input)
    return model
