"""What commands print and what they log: results on stdout, the rest on stderr, as much as the flags say."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from pyranet_fast import cli
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.io import MAX_PIXELS, limit_pixels, max_pixels

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


def test_without_a_bar_a_line_leaves_the_locks_of_bars_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a lock was made became an AttributeError of tqdm."""
    cli.set_up_logging()
    monkeypatch.delattr(tqdm, "_lock", raising=False)
    logger.info("a line")
    assert not hasattr(tqdm, "_lock")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 8796093022208 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "not enough memory (8796.1 GB more were asked for); use a smaller --batch-size or --input-size, use fewer",
        ),
        (MemoryError(), "not enough memory; use a smaller --batch-size or --input-size, "),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), "not enough memory; use"),
        (RuntimeError("expected a tensor"), None),
    ],
)
def test_memory_that_is_used_up(error: Exception, sentence: str | None) -> None:
    said = cli.sentence_of(error)
    assert said is None if sentence is None else said is not None and said.startswith(sentence)


def test_what_torch_says_of_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert str(cli.sentence_of(caught.value)).startswith("not enough memory (1152921504.6 GB more")


def test_sigterm_is_a_ctrl_c_and_a_second_one_does_not_disturb_it() -> None:
    saved = []

    def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            saved.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert cli.run(command) == 130 and saved == [True]
        assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_waits_for_the_end_of_an_import(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch imports its compiler within a training; interrupted there, it aborted or left half a module."""
    name = f"interrupted_by_{number.name}"
    (tmp_path / f"{name}.py").write_text(
        f"import os, signal, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    after = []

    def command() -> int:
        importlib.import_module(name)
        time.sleep(10)
        after.append(True)
        return 0

    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}  # pytest-xdist ignores SIGINT
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    try:
        assert cli.run(command) == cli.INTERRUPTED
        assert sys.modules.pop(name).whole and not after
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_the_limit_in_pixels_is_of_the_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def limited(argv: Sequence[str]) -> int:
        cli.parse_arguments(argparse.ArgumentParser(), argv)
        with ThreadPoolExecutor(1, initializer=limit_pixels, initargs=(max_pixels(),)) as pool:
            seen.append((max_pixels(), pool.submit(max_pixels).result()))
        return 0

    assert cli.run(limited, ["--max-pixels", "1200"]) == 0
    assert seen == [(1200, 1200)] and max_pixels() == MAX_PIXELS
    with pytest.raises(SystemExit):
        cli.run(limited, ["--max-pixels", "0"])
    assert "--max-pixels must be a positive integer, got 0" in capsys.readouterr().err
