"""Run every benchmark with two threads; --record writes the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench import runner

THREADS = 2
MEASURED = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag that `make bench` gives."""
    parser.addoption(
        "--record",
        nargs="?",
        const="",
        default=None,
        metavar="NAME",
        help="write the rows to bench/results/NAME.json (default: that of the machine)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins with no rows."""
    config.stash[MEASURED] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes what was measured; a case that differs from native PyTorch has failed before that and has no row."""
    name, rows = session.config.getoption("--record", None), session.config.stash[MEASURED]
    if name is not None and rows:
        path = runner.write_results("operators", rows, "cpu", name=name or None, threads=THREADS)
        print(f"\nwritten: {path}")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The rows of this session, to be added to."""
    return request.config.stash[MEASURED]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Sets torch's threads and puts them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
