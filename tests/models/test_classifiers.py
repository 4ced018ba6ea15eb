"""Wide ResNets and ResNeXts: sizes as printed, gradients, names, and what goes wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pyranet_fast as pf
from pyranet_fast.models import classifier, complexity, resnext, wide_resnet
from pyranet_fast.nn import BatchNormReLU, PyramidBranch, level_sizes


@pytest.mark.parametrize(
    ("name", "params", "gflops"),
    [
        ("wrn-28-10", 36.48, 10.49),
        ("wrn-28-10-pyramid", 42.33, 11.35),
        ("wrn-28-9-pyramid", 34.29, 9.20),  # the paper prints 36.4 M and 9.5, which do not follow from its rule
        ("resnext-29-8x64d", 34.43, None),
        ("resnext-29-16x64d", 68.16, None),
        ("resnext-29-8x64d-pyramid", 45.61, None),  # the paper's GFLOPs count grouped convolutions as dense
        ("resnext-29-16x64d-pyramid", 79.34, None),
    ],
)
def test_the_papers_table(name: str, params: float, gflops: float | None) -> None:
    with torch.device("meta"):
        found = complexity(classifier(name), (1, 3, 32, 32))
    assert round(found.params / 1e6, 2) == params
    assert gflops is None or round(found.flops / 1e9, 2) == gflops


NAMES = ["wrn-10-1", "wrn-10-1-pyramid", "resnext-11-2x4d", "resnext-11-2x4d-pyramid"]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_evaluation_repeats(name: str) -> None:
    torch.manual_seed(0)
    model = classifier(name, classes=3)
    image = torch.randn(4, 3, 32, 32)
    F.cross_entropy(model(image), torch.tensor([0, 1, 2, 0])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    model.eval()
    with torch.no_grad():
        one, other = model(image), model(image)
    assert one.shape == (4, 3) and torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_builds_the_same_network(name: str) -> None:
    model = classifier(name, classes=7)
    again = classifier(**model.config)
    assert type(again) is type(model) and again.config == model.config == {"name": name, "classes": 7}
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["wrn-10-1-pyramid", "resnext-11-2x4d-pyramid"])
def test_other_backend_layout_and_sizes(name: str) -> None:
    torch.manual_seed(0)
    model = classifier(name).eval()
    for shape in [(2, 3, 32, 32), (1, 3, 33, 27), (1, 3, 8, 8), (0, 3, 32, 32)]:
        image = torch.randn(shape)
        with torch.no_grad():
            y = model(image)
            with pf.ops.backend("reference"):
                torch.testing.assert_close(model(image), y, rtol=1e-4, atol=1e-5)
            moved = model.to(memory_format=torch.channels_last)
            torch.testing.assert_close(
                moved(image.contiguous(memory_format=torch.channels_last)), y, rtol=1e-4, atol=1e-5
            )


def test_the_branch_is_what_the_paper_describes() -> None:
    """Written again with PyTorch's own layers."""
    torch.manual_seed(0)
    branch = PyramidBranch(6, 4, 8, stride=2).eval()
    for bn in (branch.bn, branch.bn_sum):
        torch.nn.init.uniform_(bn.weight, 0.5, 2.0)
        torch.nn.init.normal_(bn.bias)
        torch.nn.init.normal_(bn.running_mean)
    assert all(m.bias is None for m in branch.modules() if isinstance(m, torch.nn.Conv2d))

    def norm(bn: BatchNormReLU, x: torch.Tensor) -> torch.Tensor:
        return F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias))

    x = torch.randn(2, 6, 32, 32)
    with torch.no_grad():
        entry = norm(branch.bn, F.conv2d(x, branch.reduce.weight, stride=2))
        total = torch.zeros(2, 4, 16, 16)
        for conv, size in zip(branch.filters, level_sizes((16, 16), 4), strict=True):
            u = torch.full((2, 4, 2), 0.5)
            pooled = F.fractional_max_pool2d(entry, 2, output_size=size, _random_samples=u)
            level = F.conv2d(pooled, conv.weight, padding=1)
            total += F.interpolate(level, (16, 16), mode="bilinear", align_corners=True)
        expected = F.conv2d(norm(branch.bn_sum, total), branch.expand.weight)
        torch.testing.assert_close(branch(x), expected, rtol=1e-4, atol=1e-5)
    assert level_sizes((32, 32), 4) == [(26, 26), (22, 22), (19, 19), (16, 16)]  # ratios between 0.5 and 1


def test_the_pyramid_is_an_addition_to_the_plain_network() -> None:
    """With the branches' last 1x1 at zero both networks are the same."""
    for name in ("wrn-16-1", "resnext-11-2x4d"):
        torch.manual_seed(0)
        with_pyramid, plain = classifier(f"{name}-pyramid").eval(), classifier(name).eval()
        plain.load_state_dict({k: v for k, v in with_pyramid.state_dict().items() if ".pyramid." not in k})
        for key, parameter in with_pyramid.named_parameters():
            if key.endswith("pyramid.expand.weight"):
                torch.nn.init.zeros_(parameter)
        image = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(with_pyramid(image), plain(image))


@pytest.mark.parametrize(
    "name", ["wrn", "wrn-28", "WRN-28-10", "wrn-28-10-pyramids", "resnext-29", "resnext-29-8x64", "densenet", ""]
)
def test_an_unknown_name_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match="model must be wrn-DEPTH-WIDTH or resnext-DEPTH-CARDINALITYxWIDTHd"):
        classifier(name)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n .*, got 27"):
        wide_resnet(27, 2)
    with pytest.raises(ValueError, match="width must be a positive integer, got 0"):
        wide_resnet(16, 0)
    with pytest.raises(ValueError, match=r"depth must be 9 n .*, got 28"):
        classifier("resnext-28-8x64d")
    with pytest.raises(ValueError, match=r"base_width must be a positive integer, got 1\.5"):
        resnext(29, 8, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes must be a positive integer, got -1"):
        resnext(classes=-1)
    model = classifier("wrn-10-1-pyramid")
    with pytest.raises(ValueError, match=r"image must have shape .*, got \(1, 1, 32, 32\)"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(TypeError, match=r"image must .* floating-point dtype, got torch\.uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"image is 32x4 .*; wrn-10-1-pyramid accepts 8 or more"):
        model(torch.zeros(1, 3, 32, 4))


def test_the_former_name_of_initialize_warns():
    network = wide_resnet(10, 1)
    with pytest.warns(DeprecationWarning, match=r"Classifier\.initialise is now Classifier\.initialize"):
        network.initialise()
