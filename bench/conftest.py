"""Two threads in every benchmark, as on the machines that the project is built on; --record writes the rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench import paired, record

THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag that `make bench` gives."""
    parser.addoption(
        "--record",
        nargs="?",
        const="",
        default=None,
        metavar="NAME",
        help="write the rows to bench/results/NAME.json, or the machine's",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was measured; a case out of parity has failed before that and has no row."""
    name = session.config.getoption("--record")
    if name is not None and paired.ROWS:
        path = record.write("operators", paired.ROWS, "cpu", name=name or None, threads=THREADS)
        print(f"\nwritten: {path}")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Set torch's threads and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
