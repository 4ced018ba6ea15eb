"""The numbers of figures 5 and 6 and of equation 15, and the command that draws them."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from torch import nn

from pyranet_fast import ablate, cli
from pyranet_fast.ablation import variance
from pyranet_fast.ablation.variance import growth

# Measured once for the tests of the numbers and for the command's.
stacks_of_branches = functools.cache(variance.stacks_of_branches)


@pytest.mark.parametrize(("rule", "factor"), [("xavier", 2.0), ("kaiming", 4.0)])
def test_without_counting_branches_the_variance_grows_as_their_product(rule, factor):
    found = stacks_of_branches(rule, (4,) * 20)
    assert growth(found.responses) == pytest.approx(factor, rel=0.05)
    assert growth(found.gradients[::-1]) == pytest.approx(factor, rel=0.05)
    assert found.responses[-1] > 0.3 * factor**19 * found.responses[0]


def test_other_numbers_of_branches():
    assert growth(stacks_of_branches("kaiming", (2,) * 12).responses) == pytest.approx(2.0, rel=0.07)
    assert growth(stacks_of_branches("xavier", (8,) * 8).responses) == pytest.approx(4.0, rel=0.08)


@pytest.mark.parametrize("branches", (2, 4))
def test_equation_15_keeps_responses_and_gradients_within_a_factor_of_two(branches):
    found = stacks_of_branches("paper", (branches,) * 20)
    assert all(0.5 < value / found.responses[0] < 2 for value in found.responses)
    assert all(0.5 < value / found.gradients[-1] < 2 for value in found.gradients)


def test_resnet_accumulates_and_starts_anew_where_the_skip_is_no_identity():
    found = variance.residual_network(58)
    assert sum(name.endswith("1x1") for name in found.names) == 2
    for before, after, name in zip(found.responses, found.responses[1:], found.names[1:], strict=False):
        assert after < 0.5 * before if name.endswith("1x1") else after > before


def test_variance_control_keeps_the_sums_of_an_hourglass_from_growing():
    free, controlled = (variance.hourglass_sums(on).responses for on in (False, True))
    assert len(free) == 4 and free == sorted(free) and free[-1] > 2.5 * free[0]
    assert max(controlled) < 2 * min(controlled) and controlled[-1] < 0.2 * free[-1]


def test_places_that_are_not_reached_are_named():
    with pytest.raises(ValueError, match="places has 'idle', which the model did not reach"):
        variance.trace(nn.Identity(), {"idle": nn.Identity()}, torch.zeros(1, 2))


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(variance, "stacks_of_branches", lambda rule, seed: stacks_of_branches(rule, (4,) * 20))
    assert cli.run(ablate.main, ["variance", "--output", str(tmp_path / "out")]) == 0
    assert "| equation 15 | × 1.0" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "variance.json").read_text())
    assert len(content["branches"]["paper"]["gradients"]) == 20 and content["stacks"]["torch"]["names"][7] == "stack 8"
    for name in ("table.md", "branches.png", "stacks.png", "resnet.png", "hourglass.png"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    with pytest.raises(SystemExit):
        ablate.main(["variance", "--", "--epochs", "3"])
    assert "variance trains no network" in capsys.readouterr().err
