"""`python -m pyranet_fast.train` as a user meets it: results, resuming, stopping, and what goes wrong."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from pyranet_fast import cli, train
from pyranet_fast.checkpoint import save_checkpoint
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.training import trainer
from pyranet_fast.training.pose import PoseTask
from pyranet_fast.training.step import FigureReader

PEOPLE = 1012  # LSP's split is by number: training needs the first thousand


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in LSP's layout: noise with a bright dot at each of a few joints."""
    folder = tmp_path_factory.mktemp("root")
    images = folder / "lsp_dataset" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    joints = rng.uniform(8, 56, (3, 14, PEOPLE))
    joints[2] = 0
    picture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", picture)[1].tobytes()
    for number in range(1, PEOPLE + 1):
        (images / f"im{number:04d}.jpg").write_bytes(encoded)
    savemat(folder / "lsp_dataset" / "joints.mat", {"joints": joints})
    return folder


def arguments(root: Path, output: Path, *more: str) -> list[str]:
    return [
        "--dataset", "lsp", "--root", str(root), "--output", str(output), "--stacks", "1", "--features", "24",
        "--depth", "2", "--input-size", "32", "--batch-size", "250", "--epochs", "2", "--workers", "0",
        "--ema", "0.9", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    assert cli.run(train.main, arguments(root, output)) == 0
    return output


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "last.pt").weights


def test_a_run_leaves_logs_curves_and_pictures(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "log.csv").open()))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(float(row["loss"]) > 0 and row["validation"] for row in rows)
    for name in ("curves.png", "pictures/epoch_001.png", "pictures/epoch_002.png"):
        picture = cv2.imread(str(finished / name))
        assert picture is not None and picture.std() > 1, name
    assert list((finished / "tensorboard").iterdir())
    report = (finished / "report.html").read_text()
    assert "Finished: 8 steps." in report and "PRM, 8 stacks" in report and "im1012.jpg" in report
    assert report.count("<figure>") == 12  # of twelve people the six worst, the others
    state = load_checkpoint(finished / "last.pt")
    assert state.training["step"] == 8 and state.metrics["metric"].startswith("PCK@0.2")


def test_the_weights_of_a_checkpoint_start_another_run(
    finished: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(finished / "last.pt")
    more = ("--weights", start, "--max-steps", "1", "--lr", "1e-9", "--ema", "0")
    assert cli.run(train.main, arguments(root, tmp_path / "a", *more)) == 0
    before = weights(finished)
    for name, tensor in weights(tmp_path / "a").items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(tensor, before[name], rtol=1e-5, atol=1e-6)
    assert load_checkpoint(tmp_path / "a" / "last.pt").training["step"] == 1
    assert cli.run(train.main, arguments(root, tmp_path / "b", "--weights", start, "--depth", "1")) == 2
    assert "--depth must be 2, as in the network of --weights" in capsys.readouterr().err
    assert cli.run(train.main, ["--dataset", "demo", "--output", str(tmp_path / "c"), "--weights", start]) == 2
    assert "--features must be 24, as in the network of --weights" in capsys.readouterr().err


def test_validation_looks_at_the_pictures_of_its_epoch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that has seen small pictures alone scores next to nothing on large ones."""
    sizes = []

    def evaluated(model: object, people: object, size: int, **_: object) -> tuple[object, np.ndarray]:
        sizes.append(size)
        return type("Score", (), {"as_dict": lambda self: {"mean": 1.0, "metric": "PCK"}})(), np.zeros(
            (12, 14, 3), np.float32
        )

    monkeypatch.setattr("pyranet_fast.training.pose.evaluate_pose", evaluated)
    more = ("--early-size", "16", "--early-share", "0.5")
    assert cli.run(train.main, arguments(root, tmp_path, *more)) == 0
    assert sizes == [16, 16, 32, 32]  # the score and the picture of each epoch


class Crash(Exception):
    pass


def test_a_resumed_run_is_the_same_bit_for_bit(
    finished: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = trainer.save_checkpoint
    steps = []

    def crash_at_three(path: Path, checkpoint) -> None:
        saved(path, checkpoint)
        steps.append(checkpoint.training["step"])
        if steps[-1] in (3, 6) and steps.count(steps[-1]) == 1:
            raise Crash

    monkeypatch.setattr(trainer, "save_checkpoint", crash_at_three)
    for _ in range(2):
        with pytest.raises(Crash):
            train.main(arguments(root, tmp_path, "--save-every", "1"))
    assert train.main(arguments(root, tmp_path, "--save-every", "1")) == 0
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]  # an epoch before its validation and after it
    one, other = weights(finished), weights(tmp_path)
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert [row["step"] for row in csv.DictReader((tmp_path / "log.csv").open())] == ["4", "8"]


def test_what_ends_in_a_validation_is_validated_by_the_next_run(
    finished: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = PoseTask.validate
    calls = []

    def crash(task: PoseTask, network: torch.nn.Module, epoch: int) -> dict:
        calls.append(epoch)
        if calls.count(epoch) == 1:
            raise Crash
        return validate(task, network, epoch)

    monkeypatch.setattr(PoseTask, "validate", crash)
    for step in (4, 8):
        with pytest.raises(Crash):
            train.main(arguments(root, tmp_path))
        state = load_checkpoint(tmp_path / "last.pt").training
        assert state["step"] == step and state["ended"]["loss"] > 0
    assert train.main(arguments(root, tmp_path)) == 0
    assert calls == [0, 0, 1, 1]
    one, other = weights(finished), weights(tmp_path)
    assert all(torch.equal(one[name], other[name]) for name in one)
    ours, theirs = (list(csv.DictReader((folder / "log.csv").open())) for folder in (tmp_path, finished))
    for name in ("step", "epoch", "lr", "loss", "accuracy", "validation"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert load_checkpoint(tmp_path / "last.pt").training["ended"] is None


def test_two_trainings_do_not_write_into_one_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    process = start(root, tmp_path)
    wait_for(tmp_path / "last.pt", process)
    try:
        error = failure(capsys, arguments(root, tmp_path))
        assert f"{tmp_path} is in use by training process {process.pid}; wait for its end" in error
    finally:
        process.kill()
        process.communicate()
    # The lock has gone with the process: the checkpoint is looked at.
    assert "was trained with other settings (--epochs 500 there, 2 here" in failure(capsys, arguments(root, tmp_path))


DAMAGED = {
    "step": (-5, 10**9, 1.5, None, "4", KeyError),
    "optimizer": ({}, None, [], {"state": {}, "param_groups": []}, KeyError),
    "settings": (None, [], {"precision": 3}, KeyError),
    "random": (None, torch.zeros(3), "x", KeyError),
    "raw_weights": (None, {}, {"x": torch.zeros(1)}, KeyError),
    "averaged": ("x", None, KeyError),
    "ended": (3, {"loss": 1.0}),
    "labels": (3, "x"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_training_does_not_resume(
    name: str, finished: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "damaged.pt"
    for value in DAMAGED[name]:
        checkpoint = load_checkpoint(finished / "last.pt")
        if value is KeyError:
            del checkpoint.training[name]
        else:
            checkpoint.training[name] = value
        save_checkpoint(path, checkpoint)
        assert "damaged.pt" in failure(capsys, arguments(root, tmp_path / "out", "--resume", str(path))), value
    checkpoint = load_checkpoint(finished / "last.pt")
    state = checkpoint.training["optimizer"]["state"]
    first = next(name for name, of in state[0].items() if isinstance(of, torch.Tensor) and of.numel() > 1)
    state[0][first] = torch.zeros(7)
    save_checkpoint(path, checkpoint)
    assert f"its optimizer has {first} of shape (7,)" in failure(
        capsys, arguments(root, tmp_path / "out", "--resume", str(path))
    )


def start(root: Path, output: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pyranet_fast.train",
        *arguments(root, output, "--epochs", "500", "--save-every", "1", *more),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def test_kill_at_any_moment_leaves_a_loadable_checkpoint(root: Path, tmp_path: Path) -> None:
    process = start(root, tmp_path)
    wait_for(tmp_path / "last.pt", process)
    time.sleep(0.37)
    process.kill()
    process.communicate()
    assert load_checkpoint(tmp_path / "last.pt").training["step"] >= 1


def test_interrupt_saves_and_exits(root: Path, tmp_path: Path) -> None:
    process = start(root, tmp_path)
    wait_for(tmp_path / "last.pt", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at step" in out + err and "Traceback" not in err
    step = load_checkpoint(tmp_path / "last.pt").training["step"]
    assert f"stopped at step {step} of" in out + err
    assert f"Stopped at step {step} of" in (tmp_path / "report.html").read_text()


def failure(capsys: pytest.CaptureFixture, flags: list[str]) -> str:
    assert cli.run(train.main, flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.fixture(params=[False, True], ids=["at once", "a step late"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How losses are read: as on the CPU, and as on CUDA."""
    if request.param:
        monkeypatch.setattr(trainer, "FigureReader", functools.partial(FigureReader, late=True))
    return bool(request.param)


def diverge_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Losses are NaN from one call on; the list counts them."""
    loss, calls = PoseTask.loss, [0]

    def diverges(task: PoseTask, batch: dict) -> tuple:
        calls[0] += 1
        value, accuracy, samples = loss(task, batch)
        return value * (float("nan") if calls[0] >= call else 1.0), accuracy, samples

    monkeypatch.setattr(PoseTask, "loss", diverges)
    return calls


@pytest.mark.parametrize(
    "call, more, saved",
    [
        pytest.param(6, (), 4, id="inside of an epoch"),
        pytest.param(8, (), 4, id="the last step of all"),
        pytest.param(6, ("--save-every", "1"), 5, id="before a checkpoint"),
    ],
)
def test_a_diverged_run_stops_with_a_sentence(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    call: int,
    more: tuple[str, ...],
    saved: int,
) -> None:
    calls = diverge_at(call, monkeypatch)
    error = failure(capsys, arguments(root, tmp_path, *more))
    assert f"the loss became nan at step {call - 1}" in error and "lower --lr" in error
    assert calls[0] == (7 if late and call == 6 and not more else call)
    state = load_checkpoint(tmp_path / "last.pt")  # of the end of the first epoch, or of the step before
    assert state.training["step"] == saved
    assert all(t.isfinite().all() for w in (state.weights, state.training["raw_weights"]) for t in w.values())


def test_losses_read_a_step_late_are_the_same_in_every_epoch(
    finished: Path, root: Path, tmp_path: Path, late: bool
) -> None:
    assert cli.run(train.main, arguments(root, tmp_path)) == 0
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path)[name], tensor)
    rows = [list(csv.DictReader((folder / "log.csv").open())) for folder in (finished, tmp_path)]
    for one, other in zip(*rows, strict=True):
        for name in ("epoch", "step", "lr", "loss", "accuracy", "validation"):
            assert one[name] == other[name], name


def test_the_network_is_set_to_training_at_the_start_and_after_validations_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It walks over all modules, which takes longer than launching a graph."""
    modes: list[tuple[int, bool]] = []
    trained: list[int] = []
    train_, loss = PyraNet.train, PoseTask.loss

    def counted(model: PyraNet, mode: bool = True) -> PyraNet:
        modes.append((id(model), mode))
        return train_(model, mode)

    def looked_at(task: PoseTask, batch: dict) -> tuple:
        assert all(module.training for module in task.model.modules())
        trained.append(id(task.model))
        return loss(task, batch)

    monkeypatch.setattr(PyraNet, "train", counted)
    monkeypatch.setattr(PoseTask, "loss", looked_at)
    assert cli.run(train.main, arguments(root, tmp_path, "--ema", "0", "--precision", "fp32")) == 0
    assert len(trained) == 8 and len(set(trained)) == 1
    of_it = [mode for model, mode in modes if model == trained[0]]
    assert of_it.count(True) == 3 and of_it[0] and of_it[-1]


def test_other_settings_do_not_resume(
    finished: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = arguments(root, tmp_path, "--resume", str(finished / "last.pt"), "--lr", "0.5")
    assert "--lr 0.0007 there, 0.5 here" in failure(capsys, flags)
    flags = arguments(root, tmp_path, "--resume", str(tmp_path / "none.pt"))
    assert "does not exist" in failure(capsys, flags)


def test_checkpoints_from_before_the_american_spelling_resume(
    finished: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    old = load_checkpoint(finished / "last.pt")
    recorded = old.training["settings"]
    recorded["colour_noise"] = recorded.pop("color_noise")
    save_checkpoint(tmp_path / "old.pt", old)
    flags = arguments(root, tmp_path / "more", "--resume", str(tmp_path / "old.pt"))
    assert cli.run(train.main, flags) == 0
    said = capsys.readouterr()
    assert "old.pt at step 8 of 8" in said.err and said.out.startswith("done in")
    assert "color_noise" in load_checkpoint(finished / "last.pt").training["settings"]
    assert "--color-noise 0.2 there, 0.3 here" in failure(capsys, [*flags, "--colour-noise", "0.3"])


@pytest.mark.parametrize("variant", ["plain", "B*"])
def test_batches_of_one_person(root: Path, tmp_path: Path, variant: str, capsys: pytest.CaptureFixture) -> None:
    """Statistics of the pixels of one sample are enough, unless the innermost maps have only one."""
    flags = arguments(root, tmp_path, "--batch-size", "1", "--max-steps", "2", "--ema", "0", "--variant", variant)
    flags += ["--input-size", "32", "--depth", "2"]
    assert cli.run(train.main, flags) == 0
    trained = weights(tmp_path)
    assert all(t.isfinite().all() for t in trained.values())
    assert {int(t) for name, t in trained.items() if name.endswith("num_batches_tracked")} == {2}
    capsys.readouterr()
    for more, flag in ((("--input-size", "16"), "--input-size"), (("--early-size", "16"), "--early-size")):
        assert cli.run(train.main, [*flags, *more, "--resume", "none"]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1] == (
            f"error: --batch-size must be at least 2, got 1: with {flag} 16 and --depth 2 the innermost maps have one "
            f"pixel, and a batch norm needs two values per channel; or use a larger {flag}, a smaller --depth"
        )


@pytest.mark.parametrize("cache", ["--cache", "--no-cache"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_corrupt_image_is_named_and_left_out_only_if_asked(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, workers: str, cache: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=os.link)
    bad = copy / "lsp_dataset" / "images" / "im0007.jpg"
    content = bad.read_bytes()
    bad.unlink()
    bad.write_bytes(content[:300])
    flags = arguments(copy, tmp_path / "out", "--workers", workers, cache, "--epochs", "1")
    last = failure(capsys, flags).strip().splitlines()[-1]
    assert last == f"error: image {bad} is truncated: its end-of-image mark is missing"
    assert cli.run(train.main, [*flags, "--on-error", "skip"]) == 0
    said = capsys.readouterr().err
    assert "left out: picture im0007.jpg is truncated (1 people so far)" in said
    assert said.strip().splitlines()[-1] == (
        "lsp 1-1000: 1 of 1000 people, in 1 picture, is left out: 1 whose picture is truncated (im0007.jpg)"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--root", "/nowhere"], "/nowhere"),
        (["--batch-size", "5000"], "--batch-size must be at most the number of people in the dataset, 1000, got 5000"),
        (["--dataset", "coco"], "coco"),
        (["--device", "tpu"], "tpu"),
        (["--input-size", "65"], "--input-size must be a multiple of"),
        (["--features", "10"], "features must be a positive multiple of 4, got 10"),
    ],
)
def test_bad_flags_are_one_sentence(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], sentence: str
) -> None:
    assert sentence in failure(capsys, [*arguments(root, tmp_path), *flags])
