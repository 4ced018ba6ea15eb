"""Host functions in the emulator: a right one runs, and each kind of mistake is found."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


def checks() -> Any:
    return torch.ops.pyranet_fast_emulator_checks


def vector() -> Tensor:
    """Sixteen numbers, four bytes apart; 64 bytes."""
    return torch.arange(1.0, 17.0)


@pytest.mark.parametrize("side", ["end", "start"])
def test_a_right_one(operators: ModuleType, side: str) -> None:
    operators.configure({"side": side})
    for x in (vector(), vector()[::3], vector()[5:], vector()[:1].expand(7)):
        assert torch.equal(checks().right(x), x)
    assert operators.launches() == [("copy_row", 1, 32, 1, 0)] * 4 and operators.launches() == []


def test_without_launches_nothing_runs(operators: ModuleType) -> None:
    operators.configure({"launch": False})
    assert checks().right(vector()).isnan().all()
    assert operators.launches() == [("copy_row", 1, 32, 1, 0)]


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("reads_past_the_end", "copy_row, block 0 of 1, thread .* access outside tensor"),
        ("makes_too_little_room", "wrote beside a tensor"),
        ("writes_to_its_input", "write to the input tensor"),
        ("has_no_launcher", "without a launcher"),
    ],
)
def test_mistakes_are_errors(operators: ModuleType, name: str, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        getattr(checks(), name)(vector())
    assert torch.equal(checks().right(vector()), vector()), "the next call is not disturbed"


def test_what_nobody_wrote_is_nan(operators: ModuleType) -> None:
    assert checks().leaves_an_element(vector()).isnan().tolist() == [False] * 15 + [True]


def test_gaps_of_a_tensor_are_nan(operators: ModuleType) -> None:
    got = checks().forgets_strides(vector()[::2])
    assert got[::2].tolist() == vector()[:8:2].tolist() and got[1::2].isnan().all()
