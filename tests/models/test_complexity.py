import pytest
import torch
from torch import nn

from pyranet_fast.models import PyraNet, complexity


@pytest.mark.parametrize(
    ("variant", "stacks", "params", "gflops"),
    [
        ("plain", 8, 23.722, 40.92),
        ("B*", 8, 26.910, 45.66),
        ("B", 8, 28.132, 45.66),
        ("plain", 2, 6.143, 13.18),
        ("B*", 2, 6.957, 14.64),
        ("B", 2, 7.286, 14.64),
    ],
)
def test_the_papers_table(variant, stacks, params, gflops):
    """The paper's plain hourglass is the one without variance control."""
    with torch.device("meta"):
        model = PyraNet(stacks, 16, variant=variant, variance_control=variant != "plain")
    found = complexity(model, (1, 3, 256, 256))
    assert round(found.params / 1e6, 3) == params
    assert round(found.flops / 1e9, 2) == gflops


@pytest.mark.parametrize("features", [64, 128, 256])
def test_the_wide_baseline_has_the_size_of_the_pyramid_model(features):
    with torch.device("meta"):
        sizes = {
            variant: sum(p.numel() for p in PyraNet(2, features=features, variant=variant).parameters())
            for variant in ("plain", "wide", "B*")
        }
    assert abs(sizes["wide"] - sizes["B*"]) < 0.1 * (sizes["B*"] - sizes["plain"])


class Repeated(nn.Module):
    """One layer that runs three times, on sizes that depend on the input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)

    def forward(self, x):
        return sum(self.conv(x[..., :size, :size]).mean() for size in (2, 4, x.shape[-1]))


class LooksAtValues(nn.Module):
    """Cannot run on shapes alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 7)

    def forward(self, x):
        y = self.linear(x)
        return y if float(y.sum()) > 0 else -y


@pytest.mark.parametrize(
    ("model", "shape", "params", "flops"),
    [
        (Repeated(), (2, 4, 8, 8), 4 * 2 * 9 + 4, 2 * 2 * 4 * 2 * 9 * (4 + 16 + 64)),
        (LooksAtValues(), (3, 5), 42, 2 * 3 * 5 * 7),
        (nn.Conv2d(3, 8, (3, 1), stride=2, dilation=2), (1, 3, 9, 9), 80, 2 * 8 * 3 * 5 * 3 * 3),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), (1, 6, 5, 5), 52, 2 * 6 * 25 * 4 * 2),
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2)), (1, 2, 4, 4), 4, 0),
    ],
)
def test_any_module(model, shape, params, flops):
    found = complexity(model, shape)
    assert (found.params, found.flops) == (params, flops)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    model[0].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    complexity(model, (2, 1, 8, 8))
    assert model.training and not model[0].training and model[1].training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not model[0]._forward_hooks


def test_bad_shape():
    with pytest.raises(ValueError, match="input_shape"):
        complexity(nn.Linear(1, 1), ())
    with pytest.raises(ValueError, match="input_shape"):
        complexity(nn.Linear(1, 1), (1, -1))
