"""Forms in a process of their own, and files of results."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bench import runner
from bench.cases import FORMS, Case
from pyranet_fast.errors import UserError

CASE = Case("inference", 1, 2, 64, features=36, depth=2)


def test_a_form_in_a_process_of_its_own():
    row = runner.in_own_process(FORMS["ours fp32"], CASE, threads=1, keep_pages=False, limit=120)
    assert row["first_s"] > 0 and row["peak_MB"] > 0
    row = runner.in_own_process(FORMS["ours fp32"], CASE, threads=1, keep_pages=False, limit=0.1)
    assert row == {"failed": "the first call and two more took longer than 0.1 s"}
    impossible = dataclasses.replace(CASE, side=-1)
    assert "a process of its own failed" in runner.in_own_process(
        FORMS["ours fp32"], impossible, threads=1, keep_pages=False, limit=120
    )["failed"]  # fmt: skip


def test_every_part_has_its_own_rows(tmp_path, monkeypatch):
    path = tmp_path / "machine.json"
    row = {"form": "ours", "ms": 1.0, "device": "cpu"}
    runner.write_results("model", [{**row, "mode": "inference"}], "cpu", name=str(path))
    runner.write_results("growth", [{**row, "base": {}}, {**row, "base": {}, "form": "other"}], "cpu", name=str(path))
    runner.write_results("growth", [{**row, "base": {}}], "cpu", name=str(path), threads=torch.get_num_threads())
    content = runner.read_results(path)
    assert sorted(r["part"] for r in content["rows"]) == ["growth", "model"]
    assert set(content["parts"]) == {"growth", "model"} and content["parts"]["growth"]["commit"] == runner.commit()
    runner.write_results("model", [row], "cpu", name=str(path), threads=77)  # another machine, as it were
    assert [r["part"] for r in runner.read_results(path)["rows"]] == ["model"]
    monkeypatch.setattr("sys.argv", ["bench", "--root", "/home/me/data", "--forms", "ours fp32"])
    assert runner.command().endswith("--root data --forms 'ours fp32'")
    with pytest.raises(ValueError, match=r"part must be one of .*, got 'x'"):
        runner.write_results("x", [], "cpu", name=str(path))


@pytest.mark.parametrize(("rows", "message"), [
    ({}, "not a list"), ([1], "not a list"), ([{"part": "x", "form": "y"}], "got part 'x' and form 'y'"),
    ([{"form": "y", "ms": -1}], "ms must be a number of at least 0, got -1"),
    ([{"form": "y", "p25": "3"}], "p25 must be a number of at least 0, got '3'"),
])  # fmt: skip
def test_bad_rows_are_named(tmp_path, rows, message):
    (tmp_path / "a.json").write_text(json.dumps({"machine": "m", "rows": rows}))
    with pytest.raises(UserError, match=message):
        runner.read_results(tmp_path / "a.json")
