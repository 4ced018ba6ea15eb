"""Training by two processes on the CPU, started as a user starts them: by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import pyranet_fast
from pyranet_fast import UserError, cli, train
from pyranet_fast.data.crops import EpochBatchSampler
from pyranet_fast.models.biases import absorb_biases_, left_out
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.training import distributed
from pyranet_fast.training.config import PoseConfig
from pyranet_fast.training.pose import PoseTask

PEOPLE, BATCH, STEPS = 13, 4, 6  # three steps an epoch; one person is left out of each

# Runs a command with its main script's flags and writes down what this process saw. STOP: at that step the first
# process stands in for a user who presses Ctrl-C; DIE: there the second one dies.
RECORDER = """
import os, runpy, signal, sys, time
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from pyranet_fast.training.classification import ClassificationTask
from pyranet_fast.training.pose import PoseTask

rank, seen, kept = int(os.environ["RANK"]), [], {}

def recorded(kind):
    loss = kind.loss
    def record(task, batch):
        seen.append(batch.get("index", torch.zeros(0)).tolist())
        if rank == 0 and len(seen) == int(os.environ.get("STOP", 0)):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(1)
        if rank == 1 and len(seen) == int(os.environ.get("DIE", 0)):
            os._exit(7)
        kept["task"] = task
        return loss(task, batch)
    kind.loss = record

def keep_first_gradients(*_):
    if "gradients" not in kept:
        parameters = kept["task"].model.named_parameters()
        kept["gradients"] = {k.removeprefix("module."): p.grad.clone() for k, p in parameters if p.grad is not None}

recorded(PoseTask), recorded(ClassificationTask)
register_optimizer_step_pre_hook(keep_first_gradients)
module, output = sys.argv[1], sys.argv[sys.argv.index("--output") + 1]
sys.argv = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    weights = {k.removeprefix("module."): p.detach() for k, p in kept["task"].model.named_parameters()}
    torch.save({"seen": seen, "gradients": kept["gradients"], "weights": weights}, f"{output}-rank{rank}.pt")
    raise
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People of three joints in COCO's format, and the recorder."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for name, count in (("train", PEOPLE), ("val", 3)):
        annotations, images = [], []
        for number in range(count):
            file = f"{name}{number}.jpg"
            cv2.imwrite(str(folder / file), rng.integers(0, 255, (48, 48, 3), dtype=np.uint8))
            keypoints = np.column_stack([rng.integers(8, 40, (3, 2)), np.full(3, 2)]).ravel().tolist()
            images.append({"id": number, "file_name": file, "width": 48, "height": 48})
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 40, 40], "keypoints": keypoints,
                 "num_keypoints": 3, "iscrowd": 0}
            )  # fmt: skip
        categories = [{"id": 1, "name": "person", "keypoints": ["nose", "left_hand", "right_hand"], "skeleton": []}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "recorder.py").write_text(RECORDER)
    return folder


def options(root: Path, output: Path) -> dict[str, Any]:
    return {
        "dataset": f"coco:{root}/train.json,{root}/val.json", "root": str(root), "output": str(output), "stacks": 1,
        "features": 24, "depth": 1, "input_size": 32, "batch_size": BATCH, "epochs": 2, "workers": 0, "device": "cpu",
        "ema": 0.9, "save_every": 1, "seed": 3,
    }  # fmt: skip


def flags(values: dict[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def torchrun(root: Path, command: str, arguments: list[str], expected: set[int], **environment: str) -> tuple[int, str]:
    paths = os.pathsep.join([str(Path(pyranet_fast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(root / "recorder.py"), f"pyranet_fast.{command}", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode in expected, run.stdout + run.stderr
    return run.returncode, run.stdout + run.stderr


def records(output: Path) -> list[dict[str, Any]]:
    return [torch.load(f"{output}-rank{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("finished") / "run"
    _, text = torchrun(root, "train", flags(options(root, output)), {0})
    return output, text


def test_weights_agree_everybody_is_seen_once_and_one_process_writes(finished: tuple[Path, str]) -> None:
    output, text = finished
    first, second = records(output)
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())
    for epoch in (slice(0, 3), slice(3, 6)):
        indices = [i for record in (first, second) for batch in record["seen"][epoch] for i in batch]
        assert len(indices) == len(set(indices)) == PEOPLE // BATCH * BATCH
    assert all(len(batch) == BATCH // 2 for batch in first["seen"] + second["seen"])
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/")}
    pictures = {"pictures/epoch_001.png", "pictures/epoch_002.png"}
    assert len(events) == 1
    assert files - events == {"last.pt", "log.csv", "curves.png", "report.html", "summary.json", *pictures}
    assert text.count("people to train on") == text.count("epoch 2: loss") == text.count("done in") == 1
    checkpoint = load_checkpoint(output / "last.pt")
    assert checkpoint.training["step"] == STEPS
    raw = checkpoint.training["raw_weights"]
    assert all(torch.equal(tensor, raw[name]) for name, tensor in first["weights"].items())


def test_the_gradient_is_the_mean_of_both_halves(root: Path, finished: tuple[Path, str], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = PoseConfig(**options(root, tmp_path))
        task = PoseTask(config, torch.device("cpu"))
        task.model.train()
        convolutions = absorb_biases_(task.model)
        halves, states = [], []
        for rank in (0, 1):
            batch = {k: v[2 * rank : 2 * rank + 2] for k, v in next(task.batches(0, 1)).items()}
            assert batch["index"].tolist() == records(finished[0])[rank]["seen"][0]
            torch.manual_seed(config.seed if rank == 0 else (config.seed * 1_000_003) * 1_009 + rank)
            states.append(torch.get_rng_state())
            task.model.zero_grad()
            with left_out(convolutions):
                task.loss(batch)[0].backward()
            parameters = task.model.named_parameters()
            halves.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(*states)  # each process has pooling windows of its own
    for record in records(finished[0]):
        assert record["gradients"].keys() == halves[0].keys()
        for name, gradient in record["gradients"].items():
            assert torch.equal(gradient, (halves[0][name] + halves[1][name]) / 2), name


def test_synchronized_norms_make_of_shares_what_one_process_makes_of_the_batch(root: Path, tmp_path: Path) -> None:
    output, alone = tmp_path / "run", tmp_path / "alone"
    values = {**options(root, output), "variant": "plain", "max_steps": 1, "ema": 0}  # without windows, all is the same
    torchrun(root, "train", [*flags(values), "--sync-batchnorm"], {0})
    first, second = records(output)
    task = PoseTask(PoseConfig(**{**values, "output": str(alone), "sync_batchnorm": True}), torch.device("cpu"))
    task.model.train()
    with left_out(absorb_biases_(task.model)):
        task.loss(next(task.batches(0, 1)))[0].backward()
    for name, parameter in task.model.named_parameters():
        if parameter.grad is None:
            assert name not in first["gradients"]
            continue
        assert torch.equal(first["gradients"][name], second["gradients"][name])
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(first["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-3 * scale + 1e-6)
    saved = load_checkpoint(output / "last.pt").weights
    for name, buffer in task.model.named_buffers():
        torch.testing.assert_close(saved[name], buffer, rtol=1e-4, atol=1e-5)

    apart = {**values, "resume": output / "last.pt", "output": alone}
    with pytest.raises(UserError, match=r"other settings \(--sync-batchnorm True there, False here\)"):
        train.main(flags(apart))


def test_a_person_a_process_with_innermost_maps_of_one_pixel(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    values = {**options(root, output), "batch_size": 2, "input_size": 16, "depth": 2, "max_steps": 2}
    _, text = torchrun(root, "train", [*flags(values), "--sync-batchnorm"], {0})
    assert all(t.isfinite().all() for t in load_checkpoint(output / "last.pt").weights.values())
    _, text = torchrun(root, "train", flags({**values, "output": tmp_path / "apart"}), {1})
    assert (
        "--batch-size must be at least 4, got 2 for 2 processes, 1 for each: with --input-size 16 and --depth 2" in text
    )
    assert "or use a larger --input-size, a smaller --depth, --sync-batchnorm" in text


def test_ctrl_c_stops_all_and_both_or_one_go_on(root: Path, finished: tuple[Path, str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    _, text = torchrun(root, "train", flags(options(root, output)), {1, 130}, STOP="2")
    assert text.count("stopped at step") == 1
    checkpoint = load_checkpoint(output / "last.pt")
    assert 2 <= checkpoint.training["step"] < STEPS
    alone = tmp_path / "alone"
    values = {**options(root, alone), "resume": output / "last.pt"}
    assert cli.run(train.main, flags(values)) == 0
    assert load_checkpoint(alone / "last.pt").training["step"] == STEPS

    _, text = torchrun(root, "train", flags(options(root, output)), {0})
    assert text.count("resumed from") == 1
    whole, parts = (load_checkpoint(folder / "last.pt").weights for folder in (finished[0], output))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_a_process_that_dies_ends_the_other_one(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = f"--output {output} --model wrn-10-1 --batch-size 4 --device cpu --max-steps 50 --save-every 1"
    _, text = torchrun(root, "train_classifier", arguments.split(), {1}, DIE="4")
    assert "exitcode  : 7" in text
    checkpoint = load_checkpoint(output / "last.pt", "classification")
    assert checkpoint.training["step"] == 3
    assert not any(name.startswith("module.") for name in checkpoint.weights)


def test_parts_of_a_batch_make_it_up_for_any_number_of_processes() -> None:
    whole = list(EpochBatchSampler(23, 6, seed=3, first=2, last=9))
    for ranks in (1, 2, 3, 6):
        parts = [EpochBatchSampler(23, 6, seed=3, first=2, last=9, rank=r, ranks=ranks) for r in range(ranks)]
        assert [[k for share in shares for k in share] for shares in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize(
    ("size", "device", "batch", "sentence"),
    [
        ("2", "cpu", 5, "--batch-size must be a multiple of the number of processes, 2, got 5"),
        ("2", "cpu", 1, "--batch-size must be a multiple of the number of processes, 2, got 1"),
        ("2", "cuda:1", 4, "--device must be auto, cpu or cuda with several processes, got 'cuda:1'"),
        ("two", "cpu", 4, "WORLD_SIZE and LOCAL_RANK must be integers"),
    ],
)
def test_what_cannot_be_shared_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, size: str, device: str, batch: int, sentence: str
) -> None:
    for name, value in (("WORLD_SIZE", size), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence), distributed.process_group(device, batch):
        pass


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "2"}):
        for name in ("WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with distributed.process_group("cpu", 5) as device:
            assert device == torch.device("cpu") and distributed.world_size() == 1 and distributed.is_main_process()
