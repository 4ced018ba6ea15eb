import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyranet_fast.nn import PYRAMID_VARIANTS, BatchNormReLU, BNReLUConv, PyramidResidualModule, ResidualUnit
from pyranet_fast.nn.pyramid import PooledPyramid

SIZES = [(13, 10), (11, 8), (9, 7), (8, 6)]  # of 16 x 12 at C = 4


def module(**options) -> PyramidResidualModule:
    """A small module whose batch norms all differ from the identity."""
    torch.manual_seed(0)
    unit = PyramidResidualModule(8, 12, base_width=3, **options)
    with torch.no_grad():
        for bn in unit.modules():
            if isinstance(bn, BatchNormReLU):
                bn.weight.uniform_(0.5, 1.5)
                bn.bias.uniform_(-0.5, 0.5)
                bn.running_mean.uniform_(-0.5, 0.5)
                bn.running_var.uniform_(0.5, 1.5)
    return unit


def bn_relu(bn: BatchNormReLU, x: torch.Tensor) -> torch.Tensor:
    return F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias))


def bn_relu_conv(unit: BNReLUConv, x: torch.Tensor) -> torch.Tensor:
    x = bn_relu(unit.bn, x) if isinstance(unit.bn, BatchNormReLU) else x
    return F.conv2d(x, unit.conv.weight, unit.conv.bias, padding=unit.conv.kernel_size[0] // 2)


def equation_two(unit: PyramidResidualModule, x: torch.Tensor, variant: str) -> torch.Tensor:
    """The evaluation of a pooled variant, spelled with PyTorch's own functions."""
    pyramid = unit.pyramid
    assert isinstance(pyramid, PooledPyramid)
    start = bn_relu(pyramid.preactivation, x) if isinstance(pyramid.preactivation, BatchNormReLU) else x
    levels = []
    for c, size in enumerate(SIZES):
        entry = c if variant == "A" else 0
        conv = pyramid.reduce[entry]
        y = bn_relu(pyramid.bn[entry], F.conv2d(start, conv.weight, conv.bias))
        u = torch.full((*y.shape[:2], 2), 0.5)
        y = F.fractional_max_pool2d(y, 2, output_size=size, _random_samples=u)
        conv = pyramid.filters[0 if variant == "B*" else c]
        y = F.conv2d(y, conv.weight, conv.bias, padding=1)
        levels.append(F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True))
    joined = torch.cat(levels, 1) if variant == "C" else sum(levels)
    branches = bn_relu_conv(unit.filter, bn_relu_conv(unit.reduce, x)) + bn_relu_conv(pyramid.expand, joined)
    return bn_relu_conv(unit.expand, branches) + bn_relu_conv(unit.skip, x)


@pytest.mark.parametrize("variant", ["A", "B", "B*", "C"])
@pytest.mark.parametrize("preactivate", [True, False])
def test_pooled_variants_are_equation_two(variant, preactivate):
    unit = module(variant=variant, preactivate=preactivate).eval()
    x = torch.randn(2, 8, 16, 12)
    torch.testing.assert_close(unit(x), equation_two(unit, x, variant), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", ["B*", "B", "A", "C"])
def test_on_a_canvas_the_values_and_gradients_are_the_same(variant, training):
    """Variants whose levels differ have no canvas, and take no notice."""
    unit = module(variant=variant).double().train(training)  # biases before a batch norm have a gradient of rounding
    results = []
    for canvas in (False, True):
        unit.pyramid.canvas = canvas
        torch.manual_seed(1)
        x = torch.randn(2, 8, 16, 12, dtype=torch.float64, requires_grad=True)
        unit.zero_grad()
        y = unit(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad.clone() for p in unit.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_dilated_variant_is_equation_two():
    unit = module(variant="D").eval()
    x = torch.randn(2, 8, 16, 12)
    y = bn_relu(unit.pyramid.bn, bn_relu_conv(unit.pyramid.reduce, x))
    total = sum(F.conv2d(y, f.weight, f.bias, padding=c, dilation=c) for c, f in enumerate(unit.pyramid.filters, 1))
    branches = bn_relu_conv(unit.filter, bn_relu_conv(unit.reduce, x))
    branches = branches + bn_relu_conv(unit.pyramid.expand, total)
    expected = bn_relu_conv(unit.expand, branches) + bn_relu_conv(unit.skip, x)
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)
    assert len(unit.pyramid.filters) == 4


@pytest.mark.parametrize("variant", PYRAMID_VARIANTS)
def test_gradient_reaches_every_parameter(variant):
    unit = module(variant=variant)
    x = torch.randn(3, 8, 16, 12, requires_grad=True)
    (unit(x) * torch.randn(3, 12, 16, 12)).sum().backward()
    # A bias before a batch norm in training has a zero gradient, up to rounding; its presence is what counts.
    assert all(p.grad is not None for p in unit.parameters())
    assert all(p.grad.abs().max() > 0 for name, p in unit.named_parameters() if name.endswith("weight"))
    assert x.grad.abs().max() > 0


def test_evaluation_has_gradients_through_the_folded_norm():
    unit = module().eval()
    x = torch.randn(2, 8, 16, 12)
    weights = torch.randn(2, 12, 16, 12)
    parameters = list(unit.parameters())
    got = torch.autograd.grad((unit(x) * weights).sum(), parameters)
    expected = torch.autograd.grad((equation_two(unit, x, "B*") * weights).sum(), parameters)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-3, atol=1e-3)


def test_shared_filters_are_one_parameter_set():
    shared, separate = module(variant="B*"), module(variant="B")
    assert len(shared.pyramid.filters) == 1
    assert len(separate.pyramid.filters) == 4
    one = sum(p.numel() for p in shared.pyramid.filters.parameters())
    assert one == 4 * 4 * 9 + 4
    total = [sum(p.numel() for p in m.parameters()) for m in (shared, separate)]
    assert total[1] - total[0] == 3 * one


def test_skips():
    assert isinstance(ResidualUnit(8, 8).skip, nn.Identity)
    assert isinstance(ResidualUnit(8, 8, project_skip=True).skip, BNReLUConv)
    assert isinstance(ResidualUnit(8, 4).skip, BNReLUConv)
    assert isinstance(PyramidResidualModule(12, 12).skip, nn.Identity)
    assert isinstance(PyramidResidualModule(12, 12, project_skip=True).skip, BNReLUConv)


def test_residual_unit_adds_its_input():
    torch.manual_seed(0)
    unit = ResidualUnit(8, 8).eval()
    x = torch.randn(2, 8, 5, 7)
    before = x.clone()
    expected = x + bn_relu_conv(unit.expand, bn_relu_conv(unit.filter, bn_relu_conv(unit.reduce, x)))
    torch.testing.assert_close(unit(x), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("windows", ["channel", "sample", "batch"])
def test_training_is_random_and_repeats_with_the_seed(windows):
    unit = module(pool_windows=windows)
    x = torch.randn(2, 8, 16, 12)
    torch.manual_seed(3)
    first, second = unit(x), unit(x)
    torch.manual_seed(3)
    assert torch.equal(unit(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("variant", PYRAMID_VARIANTS)
def test_channels_last_stays(variant):
    unit = module(variant=variant).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 16, 12).to(memory_format=torch.channels_last)
    wrong = []

    def look(name):
        def hook(_, __, y):
            if not y.is_contiguous(memory_format=torch.channels_last):
                wrong.append(name)

        return hook

    for name, part in unit.named_modules():
        if not isinstance(part, nn.ModuleList):
            part.register_forward_hook(look(name))
    unit(x)
    unit.eval()(x)
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "E"}, r"variant must be .*'B\*'.*, got 'E'"),
        ({"pool_windows": "pixel"}, "pool_windows must be .*'channel'.*, got 'pixel'"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"base_width": 13}, "base_width must be between 1 and .*\\(12\\), got 13"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PyramidResidualModule(8, 12, **options)


def test_input_of_one_pixel():
    with pytest.raises(ValueError, match="at least 2"):
        module()(torch.randn(2, 8, 1, 4))
