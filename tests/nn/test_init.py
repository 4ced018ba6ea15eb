import pytest
import torch
from torch import nn

from pyranet_fast.models import PyraNet
from pyranet_fast.nn import BatchNormReLU
from pyranet_fast.nn.init import INITIALIZERS


@pytest.mark.parametrize(("name", "variance"), [("xavier", 2 / (9 * 64 + 9 * 128)), ("kaiming", 2 / (9 * 64))])
def test_variance_biases_and_norms(name, variance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 128, 3), BatchNormReLU(128), nn.Linear(8, 8))
    nn.init.constant_(model[1].weight, 3)
    nn.init.constant_(model[1].bias, 3)
    assert INITIALIZERS[name](model, torch.zeros(1, 64, 8, 8)) is model
    assert model[0].weight.var().item() == pytest.approx(variance, rel=0.03)
    assert model[0].weight.mean().item() == pytest.approx(0, abs=variance**0.5 * 0.02)
    assert torch.equal(model[1].weight, torch.ones(128))
    for biased in model:
        assert torch.equal(biased.bias, torch.zeros_like(biased.bias))


def test_torch_changes_nothing():
    model = PyraNet(1, 2, features=8, depth=1, base_width=2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    INITIALIZERS["torch"](model, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_network_starts_finite(name):
    torch.manual_seed(0)
    model = INITIALIZERS[name](PyraNet(1, 2, features=16, depth=2, base_width=2), torch.zeros(1, 3, 32, 32))
    assert all(torch.isfinite(score).all() for score in model(torch.randn(2, 3, 32, 32)))
