"""What commands print and what they log: results on stdout, the rest on stderr, as much as the flags say."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Sequence

import pytest
from tqdm import tqdm

from pyranet_fast import cli
from pyranet_fast.errors import DataWarning, UserError

logger = logging.getLogger("pyranet_fast")


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    cli.set_up_logging()


def command(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="command")
    parser.add_argument("--count", type=int, default=2)
    arguments = cli.parse_arguments(parser, argv)
    assert vars(arguments) == {"count": 2}  # the shared flags are no business of the command's
    logger.debug("saved")
    logger.info("epoch 1")
    warnings.warn("three are\n left out", DataWarning, stacklevel=1)
    print("the result")
    return 0


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ([], ["epoch 1", "note: three are left out"]),
        (["--quiet"], ["note: three are left out"]),
        (["--verbose"], ["torch", "saved", "epoch 1", "note: three are left out"]),
    ],
)
def test_results_go_to_stdout_and_the_rest_to_stderr(
    capsys: pytest.CaptureFixture[str], flags: list[str], lines: list[str]
) -> None:
    for _ in range(2):  # nothing is said twice the second time
        assert cli.run(command, flags) == 0
        said = capsys.readouterr()
        assert said.out == "the result\n"
        got = said.err.splitlines()
        if flags == ["--verbose"]:
            assert "count 2" in got[0]
            got[0] = got[0].split()[0]
        assert got == lines


def test_one_of_the_flags_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(command, ["--quiet", "--verbose"])
    assert "not allowed with" in capsys.readouterr().err


def test_errors_are_said_however_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        cli.parse_arguments(argparse.ArgumentParser(), ["--quiet"])
        raise UserError("it is gone")

    assert cli.run(fails) == 2
    assert capsys.readouterr().err == "error: it is gone\n"


@pytest.mark.parametrize("flags", [["--quiet", "study"], ["study", "--quiet"]])
def test_subcommands_take_the_flags_on_either_side(flags: list[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_verbosity(parser.add_subparsers(required=True).add_parser("study"))
    cli.parse_arguments(parser, flags)
    assert logger.level == logging.WARNING


def test_a_line_is_not_written_into_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    cli.set_up_logging()
    with tqdm(total=2, mininterval=0, ncols=60) as bar:
        bar.update()
        logger.info("a line")
    said = capsys.readouterr().err
    assert said.split("a line\n")[0].endswith("\r")  # the bar was cleared
