import json

import pytest

from pyranet_fast import cli
from pyranet_fast.complexity import main

SMALL = ["--features", "32", "--depth", "2", "--input-size", "32", "--stacks", "1"]


def test_table(capsys):
    main([*SMALL, "--variants", "plain", "wide", "B*"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "params", "GFLOPs", "paper"]
    assert [line.split(",")[0] for line in lines] == ["plain", "wide", "B*"]
    assert "no variance control" in lines[0] and "no variance control" not in lines[2]


def test_json(capsys):
    main([*SMALL, "--variants", "B*", "--no-variance-control", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["variant"] == "B*" and row["variance_control"] is False and row["params_m"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input-size", "100"], "got 100x100"),
        (["--features", "30"], "features must be a positive multiple of 4, got 30"),
        (["--stacks", "0"], "stacks must be a positive integer, got 0"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys):
    assert cli.run(main, [*SMALL, *flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
