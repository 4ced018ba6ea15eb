"""The same seed gives the same bits, with one thread and with two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pyranet_fast import cli, evaluate, train
from tests.faults.commands import evaluate_arguments, train_arguments, write_data
from tests.faults.results import differences


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, {"train": 8, "val": 4})
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads_", [1, 2])
def test_two_runs_leave_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_: int
) -> None:
    torch.set_num_threads(threads_)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert cli.run(train.main, train_arguments(data, "--epochs", "1")) == 0
    assert differences(tmp_path / "one" / "out", tmp_path / "other" / "out") == []


def test_predictions_do_not_depend_on_the_threads(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for threads_ in (1, 2):
        torch.set_num_threads(threads_)
        (tmp_path / str(threads_)).mkdir()
        monkeypatch.chdir(tmp_path / str(threads_))
        assert cli.run(evaluate.main, evaluate_arguments(data)) == 0
    assert differences(tmp_path / "1" / "out", tmp_path / "2" / "out") == []
