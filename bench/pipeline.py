"""`python -m bench.pipeline`: data loading, data waits in training, and six-scale evaluation.

Loader: people a second that come out of training's loader, by number of workers, with the decoded pixels kept and not.
Training: the share of an epoch that waits for data, from the log of `pyranet_fast.train`. Evaluation: people a second
at six scales with flip, by a network of random weights, as `pyranet_fast.evaluate` runs it.

`python -m bench.loading` (`loading` here) compares data sets: how fast one core loads the same people from each,
original or packed, and how much their crops differ.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from bench import runner
from bench.runner import significant
from pyranet_fast import cli
from pyranet_fast.data import Augmentation, CachedSource, CropDataset, Subset, open_dataset
from pyranet_fast.data.crops import worker_init
from pyranet_fast.data.dataset import PeopleSource
from pyranet_fast.data.left_out import with_images
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import evaluate_pose
from pyranet_fast.inference.heatmaps import SIX_SCALES, prepare_model
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import resolve_device

PARTS = ("loader", "training", "evaluation")
# The network of the training that is timed beside the one that the flags give.
FULL_SIZE = {"stacks": 2, "features": 256, "depth": 4, "input_size": 256, "batch_size": 4}

LOADING = """How fast people are read, cropped and augmented on one core, and what packing changes.

    python -m bench.loading --root DATA lsp+lspet packed:people.pack

Every data set is timed on the same people, chosen by index; those after the first must hold the people of the first in
its order, and are compared with it.
"""
Pixels = npt.NDArray[np.float32]


def people_of(name: str, root: str | None, split: str, count: int) -> PeopleSource:
    """The first people of a data set that have an image."""
    people = with_images(open_dataset(name, root, split))
    return Subset(people, range(min(count, len(people))))


def loader_rows(people: PeopleSource, name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """People a second of training's loader; the first batch, which includes the workers' start, apart."""
    rows = []
    for kept in (True, False):
        source: PeopleSource = people
        if kept:
            source = CachedSource(people, augmentation=Augmentation(), input_size=arguments.input_size)
        crops = CropDataset(source, arguments.input_size, augmentation=Augmentation())
        for workers in arguments.workers:
            loader = DataLoader(
                crops,
                arguments.batch_size,
                num_workers=workers,
                worker_init_fn=worker_init,
                prefetch_factor=4 if workers else None,
                persistent_workers=workers > 0,
            )
            took: list[float] = []
            first = 0.0
            for _ in range(arguments.rounds + 1):  # one epoch warms up
                start = time.perf_counter()
                for number, _ in enumerate(loader):
                    if not took and number == 0:
                        first = first or time.perf_counter() - start
                took.append(time.perf_counter() - start)
            took = sorted(took[1:])
            row = {"form": "loader", "dataset": name, "people": len(people), "workers": workers, "device": "cpu"}
            row |= {"pixels": "kept decoded" if kept else "read each time", "input_size": arguments.input_size}
            rows.append(
                {
                    **row,
                    "people_per_s": significant(len(people) / took[len(took) // 2]),
                    "first_s": significant(first, 3),
                }
            )
            say(rows[-1])
    return rows


def training_rows(arguments: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """The share of an epoch that waits for data, from training's log: that of the flags, then a full-size one."""
    own = {name: getattr(arguments, name) for name in ("stacks", "features", "depth", "input_size", "batch_size")}
    rows = [_training_row(own, arguments.steps, workers, device) for workers in arguments.workers]
    return [*rows, _training_row(FULL_SIZE, arguments.steps // 4, 0, device)]


def _training_row(network: dict[str, int], steps: int, workers: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        flags: dict[str, object] = {
            "dataset": "demo", "output": folder, **network, "max_steps": max(1, steps), "workers": workers,
            "device": device, "validate_every": 1000,
        }  # fmt: skip
        typed = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        done = subprocess.run([sys.executable, "-m", "pyranet_fast.train", *typed], capture_output=True, text=True)
        log = Path(folder) / "log.csv"
        if done.returncode or not log.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise UserError(f"training with --workers {workers} failed: {lines[-1]}")
        with log.open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
    row = {"form": "training", "dataset": "demo", "workers": workers, "device": device, **network, "steps": steps}
    row |= {
        "people_per_s": significant(float(last["images_per_second"])),
        "data_wait": significant(float(last["data_wait"]), 3),
    }
    say(row)
    return row


def evaluation_rows(
    people: PeopleSource, name: str, arguments: argparse.Namespace, device: str
) -> list[dict[str, Any]]:
    """People a second at six scales with flip, by precision."""
    rows = []
    torch.manual_seed(0)
    network = PyraNet(arguments.stacks, len(people.skeleton), features=arguments.features, depth=arguments.depth).eval()
    for precision in ("fp32", "bf16"):
        fast, autocast = prepare_model(network, torch.device(device), precision)
        score, _ = evaluate_pose(
            fast, people, arguments.input_size, flip=True, scales=SIX_SCALES, device=device, precision=autocast
        )
        row = {"form": "six scales", "dataset": name, "people": len(people), "precision": precision, "device": device}
        row |= {field: getattr(arguments, field) for field in ("stacks", "features", "depth", "input_size")}
        row["people_per_s"] = score.settings["people_per_second"]
        if "network_share" in score.settings:
            row["network_share"] = score.settings["network_share"]
        rows.append(row)
        say(row)
    return rows


def say(row: dict[str, Any]) -> None:
    """Prints a line of what was measured."""
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a row and writes the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="(default: all)")
    parser.add_argument(
        "--root", help="folder that contains lsp_dataset/, to run the loader and the evaluation on LSP too"
    )
    parser.add_argument("--people", type=int, default=512, help="people to load (default: %(default)s)")
    parser.add_argument("--evaluated", type=int, default=64, help="people to evaluate (default: %(default)s)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of the loader (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--input-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--stacks", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--features", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--depth", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--name", help="file name in bench/results, or path of a .json file (default: that of the machine)"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.workers) < 0:
        parser.error(f"--workers must be at least 0, got {min(arguments.workers)}")
    runner.check_positive(parser, argparse.Namespace(**{k: v for k, v in vars(arguments).items() if k != "workers"}))
    device = str(resolve_device(arguments.device))
    runner.set_up(device, arguments.threads, keep=False)
    rows: list[dict[str, Any]] = []
    names = ["demo", *(["lsp"] if arguments.root else [])]
    for name in names if "loader" in arguments.parts else []:
        rows += loader_rows(people_of(name, arguments.root, "train", arguments.people), name, arguments)
    if "training" in arguments.parts:
        rows += training_rows(arguments, device)
    for name in names if "evaluation" in arguments.parts else []:
        rows += evaluation_rows(people_of(name, arguments.root, "test", arguments.evaluated), name, arguments, device)
    print(f"written: {runner.write_results('pipeline', rows, device, name=arguments.name, threads=arguments.threads)}")
    return 0


# --- data sets beside one another, on one core ------------------------------------------------------------------------


def people_per_s(people: PeopleSource, input_size: int) -> float:
    """People a second in this process, the best of three epochs after one that warms up."""
    crops = CropDataset(people, input_size, augmentation=Augmentation())
    took = []
    for epoch in range(4):
        started = time.perf_counter()
        for index in range(len(crops)):
            crops[(epoch, index)]
        took.append(time.perf_counter() - started)
    return len(crops) / min(took[1:])


def say_difference(crops: Sequence[Pixels], first: Sequence[Pixels]) -> None:
    """Prints how far crops are from those of the first data set."""
    pairs = list(zip(crops, first, strict=True))
    away = float(np.mean([np.abs(a - b).mean() for a, b in pairs]))
    psnr = 10 * np.log10(255**2 / np.maximum([np.mean(np.square(a - b)) for a, b in pairs], 1e-2))
    print(
        f"  network input beside the first: mean absolute difference {away:.2f} of 255, "
        f"PSNR {np.median(psnr):.1f} dB (median; 5th percentile {np.percentile(psnr, 5):.1f})"
    )


def loading(argv: Sequence[str] | None = None) -> int:
    """`python -m bench.loading`: prints a line a data set; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.loading", description=LOADING)
    parser.add_argument("datasets", nargs="+", help="datasets, as for train --dataset")
    parser.add_argument("--root", default=None)
    parser.add_argument("--split", default="train")
    parser.add_argument("--input-size", type=int, default=256)
    parser.add_argument("--people", type=int, default=500)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    size, speed_of_first, crops_of_first = arguments.input_size, 0.0, list[Pixels]()
    for number, name in enumerate(arguments.datasets):
        people: PeopleSource = with_images(open_dataset(name, arguments.root, arguments.split))
        people = Subset(people, np.random.default_rng(0).permutation(len(people))[: arguments.people])
        speed = people_per_s(people, size)
        speed_of_first = speed_of_first or speed
        decoded = people_per_s(CachedSource(people, augmentation=Augmentation(), input_size=size, threads=1), size)
        ratio = speed / speed_of_first
        print(f"{name}: {speed:.0f} people/s, {ratio:.2f} of the first; {decoded:.0f} from decoded pixels")
        dataset = CropDataset(people, size, augmentation=None)
        crops = [dataset[index]["image"].numpy().astype(np.float32) for index in range(len(dataset))]
        crops_of_first = crops_of_first or crops
        if number:
            say_difference(crops, crops_of_first)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
