import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pyranet_fast import ops
from pyranet_fast.models import PyraNet
from pyranet_fast.nn import Hourglass, PyramidResidualModule, ResidualUnit, hourglass, upsample_add
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


@pytest.mark.parametrize("add", [upsample_add, hourglass._add_repeated], ids=("CPU", "CUDA"))
def test_upsample_add_and_its_gradient(add):
    low = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    expected = low.repeat_interleave(2, 2).repeat_interleave(2, 3) + other
    torch.testing.assert_close(add(low, other), expected)
    assert torch.autograd.gradcheck(add, (low, other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_sum_on_cuda_keeps_the_layout_and_copies_nothing(layout):
    low, other = (torch.randn(2, 5, s, s).contiguous(memory_format=layout) for s in (3, 6))

    class Copies(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func._overloadpacket.__name__ in ("clone", "copy_", "_reshape_copy")
            return func(*args, **(kwargs or {}))

    with Copies() as copies:
        y = hourglass._add_repeated(low, other)
    assert y.is_contiguous(memory_format=layout) and copies.count == 0
    assert torch.equal(y, upsample_add(low, other))


def cast_to_float32_by_cuda() -> set[str]:
    """The operators that autocast runs in float32 on CUDA, as torch's header has them."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    macros = re.findall(r"#define AT_FORALL_FP32(?:_SET_OPT_DTYPE)?\(_\)(.*?)\n\n", header.read_text(), re.S)
    return {name for macro in macros for name in re.findall(r"_\((\w+)", macro)}


class Autocast(TorchDispatchMode):
    """The operators that run, of those that CUDA's autocast would run in float32."""

    def __init__(self):
        super().__init__()
        self.float32, self.found = cast_to_float32_by_cuda(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found |= {func._overloadpacket.__name__} & self.float32
        return func(*args, **(kwargs or {}))


def test_bf16_stays_bf16_under_the_autocast_of_cuda(monkeypatch):
    """On the CPU, by the paths of CUDA: of its list of operators in float32 the network runs none."""
    torch.manual_seed(0)
    model = PyraNet(2, 4, features=24, depth=2)
    image = torch.randn(2, 3, 32, 32)
    with ops.backend("reference"), torch.autocast("cpu", torch.bfloat16):
        with Autocast() as usual:
            model(image)
        assert usual.found == {"upsample_nearest2d", "upsample_bilinear2d"}, "what this test is to notice"
        # Upsampling a pyramid's levels is the reference's way: kernels sum what is bf16 without autocast.
        monkeypatch.setattr(
            ops.reference, "upsample_sum", lambda maps, size, *_: maps[0].new_zeros(*maps[0].shape[:2], *size)
        )
        monkeypatch.setattr(hourglass, "upsample_add", hourglass._add_repeated)
        with Autocast() as on_cuda:
            maps = model(image)
    assert on_cuda.found == set()
    assert {m.dtype for m in maps} == {torch.bfloat16}
