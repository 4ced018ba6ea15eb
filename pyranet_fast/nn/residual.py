"""The plain pre-activation residual unit (paper equation 1 with an ordinary bottleneck as P)."""

from __future__ import annotations

from torch import Tensor, nn

from .checkpointing import Recomputing
from .layers import BatchNormReLU, add_, convolution, norms_of, opens


class BNReLUConv(nn.Module):
    """BN, ReLU, convolution with "same" padding and a bias.

    Args:
        inputs, outputs: channels.
        kernel: odd kernel size.
        preactivate: False omits BN and ReLU (for an input that is already activated).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, preactivate: bool = True) -> None:
        super().__init__()
        self.bn = BatchNormReLU(inputs) if preactivate else nn.Identity()
        self.conv = convolution(inputs, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv(self.bn(x))


def make_skip(inputs: int, outputs: int, project: bool) -> nn.Module:
    """The skip path: identity where it can be, else BN-ReLU-1x1.

    ``project`` asks for BN-ReLU-1x1 although the channels agree: the paper's variance control (section 4.2),
    because each identity addition adds the variances of its two terms.
    """
    return BNReLUConv(inputs, outputs) if project or inputs != outputs else nn.Identity()


def opens_units_parts(reduce: nn.Module, skip: nn.Module) -> bool:
    """Whether a unit may do what its ``reduce`` and ``skip`` do without calling them, see `layers.opens`."""
    return opens(reduce, BNReLUConv) and opens(skip, BNReLUConv, nn.Identity)


def skip_norms(skip: nn.Module) -> list[nn.Module]:
    """The norm of a projected skip, in a list; an identity skip has none."""
    return [skip.bn] if isinstance(skip, BNReLUConv) else []


def run_skip(skip: nn.Module, x: Tensor, active: list[Tensor]) -> Tensor:
    """The skip's output, from x or from what `skip_norms` made of it."""
    return skip.conv(active[0]) if isinstance(skip, BNReLUConv) else x


class ResidualUnit(Recomputing):
    """Compute x + P(x), where P = BN ReLU 1x1, BN ReLU 3x3, BN ReLU 1x1 (equation 1).

    Args:
        inputs, outputs: channels.
        width: channels of the 3x3; None: outputs // 2.
        project_skip: use a BN-ReLU-1x1 skip even if ``inputs == outputs`` (variance control).
        preactivate: False omits the first BN-ReLU of P; the skip keeps its own.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int | None = None,
        project_skip: bool = False,
        preactivate: bool = True,
    ) -> None:
        super().__init__()
        width = outputs // 2 if width is None else width
        self.reduce = BNReLUConv(inputs, width, preactivate=preactivate)
        self.filter = BNReLUConv(width, width, 3)
        self.expand = BNReLUConv(width, outputs)
        self.skip = make_skip(inputs, outputs, project_skip)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self.recomputed(self._unit, x)

    def _unit(self, x: Tensor) -> Tensor:
        if not opens_units_parts(self.reduce, self.skip):
            return add_(self.expand(self.filter(self.reduce(x))), self.skip(x), of=self.expand)
        x, (first, *skip) = norms_of(x, [self.reduce.bn, *skip_norms(self.skip)])
        y = self.expand(self.filter(self.reduce.conv(first)))
        return add_(y, run_skip(self.skip, x, skip), of=self.expand)
