"""Some of the kills of `make faults`, one of each command, and that what compares their results sees a difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import h5py
import numpy as np
import pytest
import torch

from pyranet_fast.io import atomic_write

from .commands import COMMANDS
from .kills import Kill, Killer
from .results import differences

FIRST = 0  # the seed of the first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_commands_leave_the_bits_of_undisturbed_ones(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        killer = Killer(tmp_path)
        for seed in range(FIRST, FIRST + len(COMMANDS)):
            kill = Kill.of(seed, list(COMMANDS))
            outcome = killer.run(kill)
            assert not outcome.failures, f"{kill}: {'; '.join(outcome.failures)}"
            assert not (outcome.resumed and not COMMANDS[kill.command].resumes)
    finally:
        torch.set_num_threads(threads)


def test_a_kill_is_its_seed() -> None:
    commands = list(COMMANDS)
    assert [Kill.of(seed, commands) for seed in range(20)] == [Kill.of(seed, commands) for seed in range(20)]
    assert {Kill.of(seed, commands).command for seed in range(len(commands))} == set(commands)
    assert {Kill.of(seed, commands).how for seed in range(30)} == {"SIGKILL", "SIGTERM", "SIGTERM twice"}


def test_every_difference_of_results_is_seen(tmp_path: Path) -> None:
    folders = tmp_path / "found", tmp_path / "expected"
    for folder in folders:
        (folder / "tensorboard").mkdir(parents=True)
        torch.save({"weights": {"a": torch.zeros(3)}, "step": 4, "ended": {"seconds": id(folder)}}, folder / "last.pt")
        (folder / "log.csv").write_text(f"epoch,loss,seconds\n1,0.5,{id(folder)}\n")
        (folder / "metrics.json").write_text(f'{{"mean": 1.0, "people_per_second": {id(folder)}}}')
        with h5py.File(folder / "p.h5", "w") as file:
            file.create_dataset("preds", data=np.zeros(3))
        (folder / "a.png").write_bytes(b"1")
        (folder / "tensorboard" / folder.name).touch()
    found, expected = folders
    assert differences(found, expected) == []

    torch.save({"weights": {"a": torch.tensor([0.0, 0.0, -0.0])}, "step": 4, "ended": None}, found / "last.pt")
    (found / "log.csv").write_text("epoch,loss,seconds\n1,0.25,3\n")
    (found / "metrics.json").write_text('{"mean": 1.0, "count": 3}')
    with h5py.File(found / "p.h5", "w") as file:
        file.create_dataset("preds", data=np.zeros(3, np.float32))
    (found / "a.png").unlink()
    (found / ".last.pt.x.part").touch()
    assert differences(found, expected) == [
        ".last.pt.x.part is left over",
        "a.png is missing",
        "last.pt has another /weights/a, /ended",
        "log.csv has another /0/loss",
        "metrics.json has another /count",
        "p.h5 has another /preds",
    ]


def test_temporary_files_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    path = tmp_path / "last [1].pt"
    (tmp_path / ".last [1].pt.abandoned.part").write_bytes(b"half")
    (tmp_path / ".other.pt.abandoned.part").write_bytes(b"half")

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        if not path.exists():
            atomic_write(path, lambda file: file.write(b"second"))  # while the first one is written

    atomic_write(path, write)
    assert path.read_bytes() == b"first"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, ".other.pt.abandoned.part"}
