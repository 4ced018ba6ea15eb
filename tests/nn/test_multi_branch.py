"""Equation 15: counts of branches by hand, variances, what cannot be counted."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyranet_fast.models import PyraNet, resnext, wide_resnet
from pyranet_fast.nn.init import initialize_, kaiming_, multi_branch_, variance, xavier_


def counts(model: nn.Module, shape: tuple[int, ...], **options: str) -> dict[str, tuple[float, float]]:
    """C_i and C_o of every layer."""
    table = multi_branch_(model, torch.zeros(shape), explain=True, **options)
    return {row.layer: (row.c_i, row.c_o) for row in table.rows}


def test_equation():
    assert variance(1, 100, 1, 100) == pytest.approx(2 / 100)  # He's rule where n_i = n_o
    assert variance(4, 9, 2, 18) == pytest.approx(4 / (36 + 36))
    assert variance(4, 9, 2, 18, alpha=1) == pytest.approx(1 / 72)


def test_plain_network_has_one_branch_everywhere_and_the_variances_are_drawn():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(64, 96, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(96, 80),
    )  # fmt: skip
    nn.init.constant_(model[1].weight, 3.0)
    model.train()
    table = multi_branch_(model, torch.zeros(2, 3, 32, 32), explain=True)
    assert {(row.c_i, row.c_o, row.uses) for row in table.rows} == {(1.0, 1.0, 1)}
    assert (table["4"].n_i, table["4"].n_o) == (9 * 64, 9 * 96)
    assert table["4"].variance == pytest.approx(4 / (9 * 64 + 9 * 96))
    for layer in ("0", "4", "8"):
        drawn = model.get_submodule(layer).weight
        assert drawn.var().item() == pytest.approx(table[layer].variance, rel=0.06)
        assert not model.get_submodule(layer).bias.any()
    assert model.training and torch.equal(model[1].weight, torch.ones(64))
    assert "variance" in str(table).split("\n")[0] and len(str(table).split("\n")) == 4


class Inception(nn.Module):
    """Three branches side by side, concatenated; then a sum of two halves of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.a = nn.Conv2d(8, 4, 1)
        self.b = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 6, 3, padding=1))
        self.c = nn.Conv2d(8, 6, 1)
        self.mix = nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        pooled = F.avg_pool2d(x, 3, 1, 1)
        y = torch.cat([self.a(x), self.b(x), self.c(pooled)], 1)
        left, right = self.mix(y).chunk(2, 1)
        return self.last(left + right)


def test_inception():
    found = counts(Inception(), (1, 3, 16, 16))
    assert found == {
        "first": (1, 3),
        "a": (1, 1),
        "b.0": (1, 1),
        "b.1": (1, 1),
        "c": (1, 1),
        "mix": (1, 1),
        "last": (2, 1),
    }


class Residual(nn.Module):
    """Units x + P(x) without normalization."""

    def __init__(self, units: int, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 1)
        self.units = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(units))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for unit in self.units:
            x = x + unit(F.relu(x))
        return x


def test_identity_skips():
    assert counts(Residual(3), (1, 3, 8, 8)) == {
        "first": (1, 2),  # read by unit 0 and by the addition
        "units.0": (1, 2),
        "units.1": (2, 2),
        "units.2": (2, 1),  # read by the loss
    }
    followed = counts(Residual(3), (1, 3, 8, 8), skips="sum")
    assert followed == {"first": (1, 4), "units.0": (1, 3), "units.1": (2, 2), "units.2": (3, 1)}


@pytest.mark.parametrize("skips", ("branch", "sum"))
def test_skips_of_a_network_without_norm(skips):
    torch.manual_seed(0)
    model = Residual(20, 64)
    multi_branch_(model, torch.zeros(1, 3, 8, 8), skips=skips)
    with torch.no_grad():
        ratio = (model(torch.randn(16, 3, 8, 8)).var() / model.first(torch.randn(16, 3, 8, 8)).var()).item()
    # About 1.5^20 = 3325 by the module's docstring, and at most e^2 = 7.4.
    assert (ratio > 200) if skips == "branch" else (0.3 < ratio < 12)


def test_pyranet():
    table = multi_branch_(PyraNet(2, 5, features=36, depth=2), torch.zeros(1, 3, 64, 64), explain=True)
    rows = {row.layer: (row.c_i, row.c_o, row.uses) for row in table.rows}
    assert rows["stem.conv"] == (1, 3, 1)  # f_0, pyramid, projected skip
    assert rows["stem.unit1.pyramid.reduce.0"] == (1, 4, 1)  # four levels read it
    assert rows["stem.unit1.pyramid.filters.0"] == (1, 1, 4)  # shared by the levels
    assert rows["stem.unit1.pyramid.expand.conv"] == (4, 1, 1)  # equation 2: the sum of the levels
    assert rows["stem.unit1.expand.conv"][0] == 2  # f_0 and the pyramid
    assert rows["stem.unit1.skip.conv"] == (1, 3, 1)  # unit 2 is f_0, pyramid and identity
    assert rows["stacks.0.hourglass.low3.skip.conv"][0] == 4  # up1's two branches, low3's two, one level below
    assert rows["stacks.0.features.conv"] == (4, 2, 1)  # to the scores and to the next stack
    assert rows["stacks.0.score"] == (1, 2, 1)  # to the loss and to the next stack
    assert rows["stacks.1.hourglass.low1.reduce.conv"][0] == 3  # identity, from features, from scores
    assert rows["stacks.1.score"] == (1, 1, 1)
    assert table["stem.unit1.pyramid.filters.0"].n_i == 9 * 2


def test_levels_and_separate_filters():
    table = multi_branch_(PyraNet(1, 5, features=36, depth=1, variant="A", levels=3), torch.zeros(1, 3, 64, 64),
                          explain=True)  # fmt: skip
    assert [table[f"stem.unit2.pyramid.reduce.{c}"].c_o for c in range(3)] == [1, 1, 1]
    assert table["stem.unit2.pyramid.expand.conv"].c_i == 3
    concatenated = multi_branch_(
        PyraNet(1, 5, features=36, depth=1, variant="C"), torch.zeros(1, 3, 64, 64), explain=True
    )
    assert concatenated["stem.unit2.pyramid.expand.conv"].c_i == 1
    assert concatenated["stem.unit2.pyramid.expand.conv"].n_i == 4 * 2


def test_classifiers():
    wide = counts(wide_resnet(16, 1, pyramid=True), (1, 3, 32, 32))
    assert wide["conv"] == (1, 3)  # block 0 keeps the channels: 3x3, pyramid, identity
    assert wide["blocks.1.conv1"] == (3, 1) and wide["blocks.0.pyramid.expand"][0] == 4
    assert wide["linear"] == (3, 1)
    grouped = multi_branch_(resnext(29, 8, 16), torch.zeros(1, 3, 32, 32), explain=True)
    assert (grouped["blocks.0.conv2"].n_i, grouped["blocks.0.conv2"].n_o) == (9 * 16, 9 * 16)
    assert grouped["blocks.1.conv1"].c_i == 2


class Shared(nn.Module):
    """One layer used twice: on a sum of two, and on its own result."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.shared = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.idle = nn.Conv2d(5, 7, 3, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(self.one(x) + self.two(x)))


def test_shared_and_unused_layers():
    table = multi_branch_(Shared(), torch.zeros(1, 3, 4, 4), explain=True)
    assert (table["shared"].c_i, table["shared"].c_o, table["shared"].uses) == (2, 1, 2)
    assert table["idle"].uses == 0 and table["idle"].variance == pytest.approx(4 / (45 + 63))
    with pytest.raises(KeyError, match=r"no layer 'other'.*one, two, shared"):
        table["other"]


class Bad(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 3, 1)
        self.gate = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "data":
            return y if y.sum() > 0 else -y
        return y * self.gate(x)


def test_what_cannot_be_counted_is_named_and_the_model_is_left_alone():
    for kind, message in (("data", "torch.export cannot trace"), ("product", r"aten\.mul.* mixes 2 activations")):
        model = Bad(kind)
        before = {name: t.clone() for name, t in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            multi_branch_(model, torch.zeros(1, 3, 4, 4))
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()) and model.training
        assert not model._forward_hooks and not model.conv._forward_hooks
    for bad in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="alpha must be a positive number"):
            multi_branch_(nn.Linear(2, 2), torch.zeros(1, 2), alpha=bad)
    with pytest.raises(ValueError, match="skips must be 'branch' or 'sum', got 'all'"):
        multi_branch_(nn.Linear(2, 2), torch.zeros(1, 2), skips="all")
    with pytest.raises(ValueError, match=r"name must be one of 'paper', 'xavier'.*, got 'he'"):
        initialize_(nn.Linear(2, 2), "he", torch.zeros(1, 2))


@pytest.mark.parametrize("groups", (1, 4))
def test_transposed_and_grouped(groups):
    model = nn.Sequential(nn.ConvTranspose2d(8, 12, 4, stride=2, groups=groups))
    table = multi_branch_(model, torch.zeros(1, 8, 5, 5), explain=True)
    assert (table["0"].n_i, table["0"].n_o) == (16 * 8 / groups / 4, 16 * 12 / groups)


def test_others_beside_it_start_networks_differently():
    torch.manual_seed(0)
    spread = {}
    for rule in (multi_branch_, lambda m, x: xavier_(m), lambda m, x: kaiming_(m)):
        model = PyraNet(1, 2, features=36, depth=1)
        rule(model, torch.zeros(1, 3, 32, 32))
        spread[len(spread)] = model.stem.unit2.pyramid.expand.conv.weight.var().item()
    assert len({round(value, 3) for value in spread.values()}) == 3
