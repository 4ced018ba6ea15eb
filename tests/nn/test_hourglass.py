import torch
import torch.nn.functional as F

from pyranet_fast.nn import Hourglass, PyramidResidualModule, ResidualUnit, upsample_add
from pyranet_fast.nn.residual import BNReLUConv


def make_unit(inputs, outputs, *, pyramid, project_skip=False, preactivate=True):
    kind = PyramidResidualModule if pyramid else ResidualUnit
    return kind(inputs, outputs, project_skip=project_skip, preactivate=preactivate)


def test_places_of_pyramid_modules_and_of_variance_control():
    hourglass = Hourglass(4, 20, make_unit)
    pyramids, plains, projected = [], [], []
    for name, unit in hourglass.named_modules():
        if isinstance(unit, PyramidResidualModule):
            pyramids.append(name)
        elif isinstance(unit, ResidualUnit):
            plains.append(name)
        if isinstance(getattr(unit, "skip", None), BNReLUConv):
            projected.append(name)
    assert sorted(pyramids) == sorted(["up1", "low1", "low3", "low2.up1", "low2.low1", "low2.low3", "low2.low2.up1"])
    assert len(plains) == 6
    assert sorted(projected) == sorted(["low3", "low2.low3", "low2.low2.low3", "low2.low2.low2.low3"])
    without = Hourglass(4, 20, make_unit, variance_control=False)
    assert not any(isinstance(getattr(unit, "skip", None), BNReLUConv) for unit in without.modules())


def test_hourglass_adds_two_branches():
    torch.manual_seed(0)
    hourglass = Hourglass(1, 8, make_unit).eval()
    x = torch.randn(2, 8, 4, 6)
    low = hourglass.low3(hourglass.low2(hourglass.low1(F.max_pool2d(x, 2))))
    expected = hourglass.up1(x) + low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(hourglass(x), expected)


def test_upsample_add_and_its_gradient():
    low = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    expected = low.repeat_interleave(2, 2).repeat_interleave(2, 3) + other
    torch.testing.assert_close(upsample_add(low, other), expected)
    assert torch.autograd.gradcheck(upsample_add, (low, other))
