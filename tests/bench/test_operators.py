"""Operators beside native PyTorch and a copy of as many bytes."""

from __future__ import annotations

import dataclasses

import pytest

from bench import operators
from bench.operators import OperatorCase


def test_operators_beside_a_copy():
    times = {"ours": [1e-3, 2e-3, 1e-3], "eager a": [3e-3, 3e-3, 3e-3], "eager b": [4e-3, 1e-3, 4e-3]}
    times[operators.COPY] = [5e-4, 5e-4, 5e-4]
    rows = {
        r["form"]: r for r in operators.rows_of({"operator": "o"}, times, dict.fromkeys(times, 0.1), 10**6, ["ours"])
    }
    assert rows["ours"]["ms"] == 1.0 and rows["ours"]["GB_per_s"] == 1.0 and rows["ours"]["of_copy"] == 0.5
    assert rows["ours"]["times_the_best_plain"] == 3.0  # of "eager a", whose median is the smaller
    assert rows["copy"]["GB_per_s"] == 2.0 and "of_copy" not in rows["copy"]


def test_bytes_that_must_move():
    case = OperatorCase("upsample_sum", (1, 2, 64, 64), "bf16", "contiguous", backward=False)
    values = 2 * (64**2 + 53**2 + 45**2 + 38**2 + 32**2)
    assert operators.upsample_sum(case).size(case) == 2 * values
    both = dataclasses.replace(case, dtype="fp32", backward=True)
    assert operators.upsample_sum(both).size(both) == 2 * 4 * values


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_every_operator_is_timed_beside_native(name):
    for case in operators.cases_of(name, [(2, 3, 16, 16)], device="cpu", each_window=True):
        rows, step = operators.measure_on_cpu(case, rounds=2)
        assert [row["form"] for row in rows] == ["ours", "eager contiguous", "eager channels_last", "copy"]
        assert all(row["rounds"] == 2 and row.items() >= case.row.items() for row in rows)
        assert all(result.isfinite().all() for result in step())


def test_an_operator_that_disagrees_gets_no_number(monkeypatch):
    case = OperatorCase("heatmap_loss", (2, 3, 16, 16), "fp32", "contiguous", backward=True)
    real = operators.ops.heatmap_loss
    monkeypatch.setattr(operators.ops, "heatmap_loss", lambda *arguments: 1.01 * real(*arguments))
    with pytest.raises(AssertionError, match="not close"):
        operators.measure_on_cpu(case, rounds=2)
