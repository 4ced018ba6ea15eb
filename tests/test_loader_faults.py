"""Loader processes that die or find no room end a command with one sentence, and end it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from pyranet_fast import cli, evaluate, train
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data import crops
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.pose import MPII

NETWORK = ["--stacks", "1", "--features", "24", "--depth", "2", "--input-size", "64"]
DATA = ["--dataset", "demo", "--device", "cpu", "--workers", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    model = PyraNet(stacks=1, joints=len(MPII), features=24, depth=2)
    save_checkpoint(path, Checkpoint(model.config, model.state_dict(), "mpii", 64))
    return path


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks after its processes every five seconds, and waits as long for each to end."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)


def run(command: str, checkpoint: Path, output: Path) -> int:
    if command == "train":
        return cli.run(
            train.main,
            [*NETWORK, *DATA, "--no-cache", "--batch-size", "4", "--max-steps", "4", "--output", str(output)],
        )
    return cli.run(evaluate.main, [*DATA, "--checkpoint", str(checkpoint), "--output", str(output)])


DATASETS = {"train": crops.CropDataset, "evaluate": crops.ScaledCrops}
ROOM = (
    "error: the loader processes found no room for their batches in shared memory (/dev/shm); use fewer --workers (0 "
)
MEMORY = "error: a loader process was killed, most likely because memory ran out; use fewer --workers (0 "


def in_workers(monkeypatch: pytest.MonkeyPatch, command: str, fault) -> None:
    usual = DATASETS[command].__getitem__

    def item(self, key):
        if get_worker_info() is not None:
            fault()
        return usual(self, key)

    monkeypatch.setattr(DATASETS[command], "__getitem__", item)


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, MEMORY),
        (signal.SIGBUS, ROOM),
        (signal.SIGSEGV, "error: a loader process died (Segmentation fault); --workers 0 "),
    ],
    ids=["SIGKILL", "SIGBUS", "SIGSEGV"],
)
def test_a_worker_that_dies(command, number, sentence, checkpoint, tmp_path, capfd, monkeypatch):
    def die() -> None:
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)

    in_workers(monkeypatch, command, die)
    assert run(command, checkpoint, tmp_path / "out") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and lines[0].startswith(sentence), lines


NO_ROOM = "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_worker_that_finds_no_room(command, checkpoint, tmp_path, capfd, monkeypatch):
    def fail() -> None:
        raise RuntimeError(NO_ROOM)

    in_workers(monkeypatch, command, fail)
    assert run(command, checkpoint, tmp_path / "out") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and lines[0].startswith(ROOM), lines


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (NO_ROOM, ROOM),
        ("unable to write to file </torch_1_2_0>: No space left on device (28)", ROOM),
        ("unable to mmap 1024 bytes from file </torch_1_2_0>: Cannot allocate memory (12)", ROOM),
        ("unable to open shared memory object </torch_1_2_0> in read-write mode: Permission denied (13)", ROOM),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            ROOM,
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", MEMORY),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", MEMORY),
        ("DataLoader worker (pid 7) is killed by signal: Aborted. ", "a loader process died (Aborted); --workers 0 "),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nunable to open shared memory object </torch_1_2> in "
            "read-write mode: Too many open files (24)",
            "the loader processes have too many open files; use fewer --workers (0 ",
        ),
        ("expected a tensor", None),
        ("unable to open file weights.bin", None),
    ],
)
def test_what_torch_says(text, sentence):
    said = cli.sentence_of(RuntimeError(text))
    assert said is None if sentence is None else said.startswith(sentence.removeprefix("error: "))
    outer = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    outer.__cause__ = RuntimeError(text)
    if sentence is not None:
        assert cli.sentence_of(outer) == said


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_room_to_start_processes(command, checkpoint, tmp_path, capfd, monkeypatch):
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing, "Lock", full)
    assert run(command, checkpoint, tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert ROOM in said and "--shm-size=8g (No space left on device)" in said and "Traceback" not in said


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("image a.jpg is truncated"), "error: image a.jpg is truncated"),
        (PermissionError(errno.EACCES, "Permission denied", "a.jpg"), "error: [Errno 13] Permission denied: 'a.jpg'"),
    ],
)
def test_errors_of_workers_have_no_traceback(command, error, sentence, checkpoint, tmp_path, capfd, monkeypatch):
    def fail() -> None:
        raise error

    in_workers(monkeypatch, command, fail)
    assert run(command, checkpoint, tmp_path / "out") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == [sentence]


def test_other_errors_of_workers_are_defects(checkpoint, tmp_path, monkeypatch):
    def fail() -> None:
        raise RuntimeError("expected a tensor")

    in_workers(monkeypatch, "train", fail)
    with pytest.raises(RuntimeError, match="expected a tensor"):
        run("train", checkpoint, tmp_path / "out")


def test_a_dead_loader_process_loses_no_step(tmp_path, capfd, monkeypatch):
    """Training stops with a sentence and its state, from which the next run goes on to the end."""
    last = list(crops.EpochBatchSampler(4096, 4, seed=0, first=0, last=31))[30]
    usual = DATASETS["train"].__getitem__

    def item(self, key):
        if get_worker_info() is not None and tuple(key) == last[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, key)

    monkeypatch.setattr(DATASETS["train"], "__getitem__", item)
    flags = [*NETWORK, *DATA, "--no-cache", "--batch-size", "4", "--max-steps", "40", "--output", str(tmp_path)]
    assert cli.run(train.main, flags) == 2
    said = capfd.readouterr().err
    assert MEMORY in said and "at step" in said and "rerun the same command to resume" in said
    step = load_checkpoint(tmp_path / "last.pt").training["step"]
    assert 0 < step <= 30 and f"saved {tmp_path / 'last.pt'} at step {step} of 40" in said
