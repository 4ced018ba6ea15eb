"""What networks cost: one row a network, larger ones costing more."""

from __future__ import annotations

import pytest

from bench import rates


def test_a_table_of_networks(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench"])
    flags = ["--stacks", "1", "2", "--features", "24", "--depth", "1", "--size", "32", "--batch", "2", "--rounds", "1"]
    assert rates.main([*flags, "--precision", "fp32"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and [row[1].strip() for row in rows[1:]] == ["1", "2"]
    assert all(float(row[8]) > 0 and float(row[9]) > 0 for row in rows[1:])
    with pytest.raises(SystemExit):
        rates.main(["--rounds", "0"])
