"""Contests: networks or recipes compared at equal training budget (figures 8 and 9, table 3 of the paper).

From top to bottom: the contests and their contestants, training, results, tables and plots.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import os
import re
import shlex
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import POSE
from ..data import open_dataset
from ..data.dataset import digest_of_people
from ..errors import DataWarning, UserError
from ..io import atomic_write
from ..models import PyraNet, classifier, complexity
from ..models.precision import fast_precision
from ..models.zoo import load_checkpoint, resolve_device
from ..nn.init import INITIALIZERS
from ..training.config import PoseConfig
from ..training.pose import make_network

logger = logging.getLogger("pyranet_fast")

# Small enough for a CPU: a network of 0.19 M parameters on synthetic people. Flags given after -- come on top.
SMALL_POSE = (
    "--dataset demo --stacks 1 --features 64 --depth 3 --input-size 64 --batch-size 16 --epochs 3 --lr 2.5e-3 "
    "--schedule cosine --warmup 100 --ema 0.99 --pool-windows sample --rotation-probability 0 "
    "--scale-noise 0.1 --workers 0"
).split()
SMALL_CLASSIFIER = "--epochs 10 --warmup 40".split()


@dataclass(frozen=True)
class Contestant:
    """One network: its name in tables, and the flags of train that make it."""

    name: str
    flags: tuple[str, ...]

    def folder(self, output: Path, seed: int) -> Path:
        """Where its training with a seed lives."""
        name = self.name.replace("*", "-star").replace(" ", "-")
        return output / "runs" / f"{re.sub('[^A-Za-z0-9-]', '', name)}-seed{seed}"


@dataclass(frozen=True)
class Result:
    """Results of one contestant.

    Attributes:
        name: of the contestant.
        params: parameters.
        flops: of one image's forward pass.
        scores: validation, percent, for each seed.
        curves: for each seed the validation after each epoch it was scored at, (epoch, percent).
        images_per_second: in training, the median of all epochs.
        peak_megabytes: memory, the most of any seed: of the process on the CPU, of tensors on a GPU.
        metric: what the scores are.
    """

    name: str
    params: int
    flops: int
    scores: list[float]
    curves: list[list[tuple[int, float]]]
    images_per_second: float
    peak_megabytes: float
    metric: str

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return statistics.fmean(self.scores)


def pose_config(flags: Sequence[str]) -> PoseConfig:
    """The config that flags of train make."""
    parser = argparse.ArgumentParser(prog="flags of train", add_help=False, allow_abbrev=False)
    PoseConfig.add_arguments(parser)
    return PoseConfig.from_arguments(parser.parse_args(list(flags)))


def count_parameters(flags: Sequence[str]) -> int:
    """Parameters of the network that flags of train make for MPII's joints; no memory is taken for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(pose_config(flags), 16).parameters())


def variants(train_flags: Sequence[str]) -> list[Contestant]:
    """PRM-A, B, B*, C, D, plain and wide, the pyramids' width chosen to come nearest to B*'s size."""
    config, target = pose_config(train_flags), count_parameters([*train_flags, "--variant", "B*"])
    found = [Contestant("plain", ("--variant", "plain")), Contestant("wide", ("--variant", "wide"))]
    for variant in ("A", "B", "B*", "C", "D"):
        widths = range(4, min(33, config.features // 2 + 1)) if variant != "B*" else [config.base_width]
        sizes = {w: count_parameters([*train_flags, "--variant", variant, "--base-width", str(w)]) for w in widths}
        width = min(sizes, key=lambda w: (abs(sizes[w] - target), w))
        found.append(Contestant(f"PRM-{variant}", ("--variant", variant, "--base-width", str(width))))
    return found


def scales(train_flags: Sequence[str], counts: Sequence[int] = range(2, 9)) -> list[Contestant]:
    """PRM-B* with C = 2 to 8 levels: the levels share their filters, so all are of one size."""
    return [Contestant(f"C={c}", ("--variant", "B*", "--levels", str(c))) for c in counts]


def initializations(train_flags: Sequence[str]) -> list[Contestant]:
    """PRM-B* with every initialization (figure 9 c)."""
    return [Contestant(name, ("--init", name)) for name in INITIALIZERS]


def control(train_flags: Sequence[str]) -> list[Contestant]:
    """The plain hourglass and PRM-B*, without and with variance control (figure 9 d)."""
    return [
        Contestant(
            f"{name} {'without' if flag else 'with'} control", ("--variant", variant, f"--{flag}variance-control")
        )
        for name, variant in (("plain", "plain"), ("PRM-B*", "B*"))
        for flag in ("no-", "")
    ]


def classifiers(train_flags: Sequence[str]) -> list[Contestant]:
    """WRN-16-2 without and with the pyramid (table 3, small)."""
    return [Contestant(name, ("--model", name)) for name in ("wrn-16-2", "wrn-16-2-pyramid")]


def recipes(train_flags: Sequence[str]) -> list[Contestant]:
    """PRM-B* trained as the flags say, and with one option changed at a time."""
    c = pose_config(train_flags)
    changes: dict[str, tuple[object, ...]] = {
        "as given": (),
        "half the rate": ("--lr", c.lr / 2),
        "twice the rate": ("--lr", c.lr * 2),
        "half the batch": ("--batch-size", max(2, c.batch_size // 2)),
        "twice the batch": ("--batch-size", c.batch_size * 2),
        "steps instead of cosine": ("--schedule", "step"),
        "no moving average": ("--ema", 0),
        "longer moving average": ("--ema", 0.999),
        "half the size first": ("--early-size", c.input_size // 2),
        "no augmentation": ("--scale-noise", 0, "--rotation-probability", 0, "--color-noise", 0),
        "the paper's augmentation": ("--scale-noise", 0.25, "--rotation-noise", 30, "--rotation-probability", 0.4),
        "windows by channel": ("--pool-windows", "channel"),
        "windows by batch": ("--pool-windows", "batch"),
        **{f"init {name}": ("--init", name) for name in INITIALIZERS if name != c.init},
    }
    return [Contestant(name, tuple(map(str, flags))) for name, flags in changes.items()]


@dataclass(frozen=True)
class Contest:
    """What takes part and how it is trained.

    Attributes:
        about: help of its command.
        title: of its pictures.
        contestants: made of the flags that all have in common.
        command: ``"train"`` or ``"train_classifier"``.
        flags: the small budget, which flags of the user come after.
    """

    about: str
    title: str
    contestants: Callable[[Sequence[str]], list[Contestant]]
    command: str = "train"
    flags: Sequence[str] = tuple(SMALL_POSE)


CONTESTS = {
    "variants": Contest(
        "Compare PRM-A, B, B*, C, D, plain and wide at equal size and training budget (figure 8)",
        "module variants",
        variants,
    ),
    "scales": Contest(
        "Compare PRM-B* with C = 2 to 8 levels at equal size and training budget (figure 9 a-b)",
        "pyramid levels C",
        scales,
    ),
    "initialization": Contest(
        "Compare the initializations of PRM-B* at equal training budget (figure 9 c)",
        "initialization",
        initializations,
    ),
    "control": Contest(
        "Compare plain and PRM-B* networks with and without variance control (figure 9 d)",
        "variance control",
        control,
    ),
    "recipes": Contest(
        "Ablate one training option of PRM-B* at a time at equal training budget",
        "training recipes",
        recipes,
    ),
    "classifiers": Contest(
        "Compare WRN-16-2 with and without the pyramid at equal training budget (table 3, small)",
        "CIFAR-10 networks",
        classifiers,
        command="train_classifier",
        flags=tuple(SMALL_CLASSIFIER),
    ),
}
"""By the name of the study that `python -m pyranet_fast.ablate` runs."""


def train_all(
    contestants: Sequence[Contestant],
    output: Path,
    train_flags: Sequence[str],
    seeds: int,
    command: str = "train",
    jobs: int = 1,
) -> None:
    """Train every network with every seed; runs finished with the same flags and labels are not repeated.

    Args:
        contestants: the networks.
        output: the folder whose runs/ gets the trainings.
        train_flags: for all of them.
        seeds: trainings of each.
        command: ``"train"`` or ``"train_classifier"``.
        jobs: trainings at a time; where there are several they share the cores, by ``OMP_NUM_THREADS``.

    Raises:
        UserError: a training failed; those that have not begun are left.
    """
    environment = dict(os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    if not any(flag.startswith("--precision") for flag in train_flags):  # one for all, so that they can be compared
        train_flags = [*train_flags, "--precision", fast_precision(_device_of(train_flags)).precision]
    labels = _labels_of(train_flags) if command == "train" else ""
    waiting = []
    with ThreadPoolExecutor(jobs) as pool:
        for contestant in contestants:
            for seed in range(seeds):
                folder = contestant.folder(output, seed)
                flags = [*train_flags, *contestant.flags, "--seed", str(seed), "--output", str(folder)]
                title = f"{contestant.name}, seed {seed}"
                waiting.append(
                    pool.submit(_train, title, folder, [f"pyranet_fast.{command}", *flags], labels, environment)
                )
        try:
            for training in waiting:
                training.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _device_of(train_flags: Sequence[str]) -> torch.device:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default="auto")
    return resolve_device(parser.parse_known_args(list(train_flags))[0].device)


def _labels_of(train_flags: Sequence[str]) -> str:
    """A digest of the training and the validation people that flags of `train` mean."""
    config = pose_config(train_flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the trainings say it
        outside = config.allow_outside
        people = [open_dataset(config.dataset, config.root, s, allow_outside=outside) for s in ("train", "val")]
    return b"".join(map(digest_of_people, people)).hex()


def _train(title: str, folder: Path, flags: list[str], labels: str, environment: dict[str, str]) -> None:
    """Train one network in a process of its own, unless finished.json says that these flags and labels are done."""
    done = folder / "finished.json"
    finished = {"flags": flags, "labels": labels}
    before = json.loads(done.read_text()) if done.is_file() else None
    if before == finished:
        logger.info(f"{title}: done before")
        return
    if isinstance(before, dict) and before["labels"] != labels:
        logger.info(f"{title}: trained again, since the labels have changed")
        flags = [*flags, "--resume", "none"]
    logger.info(f"{title}: python -m {shlex.join(flags)}")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", *flags]
    with open(folder / "train.log", "a") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        lines = (folder / "train.log").read_text().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        raise UserError(f"training of {title} ended with status {status}: {last} ({folder / 'train.log'})")
    atomic_write(done, lambda file: file.write(json.dumps(finished).encode()))


def read_results(contestants: Sequence[Contestant], output: Path, seeds: int) -> list[Result]:
    """What `train_all` came to, from the folders of its trainings."""
    return [_read_result(c, [c.folder(output, seed) for seed in range(seeds)]) for c in contestants]


def _read_result(contestant: Contestant, folders: Sequence[Path]) -> Result:
    summaries: list[dict[str, Any]] = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    logs = [list(csv.DictReader((folder / "log.csv").read_text().splitlines())) for folder in folders]
    checkpoint = load_checkpoint(folders[0] / "last.pt", kind=None)
    with torch.device("meta"):
        network = PyraNet(**checkpoint.model) if checkpoint.kind == POSE else classifier(**checkpoint.model)
    counted = complexity(network, (1, 3, checkpoint.input_size, checkpoint.input_size))
    return Result(
        name=contestant.name,
        params=counted.params,
        flops=counted.flops,
        scores=[summary["validation"] for summary in summaries],
        curves=[[(int(r["epoch"]), float(r["validation"])) for r in rows if r["validation"]] for rows in logs],
        images_per_second=statistics.median(float(row["images_per_second"]) for rows in logs for row in rows),
        peak_megabytes=max(summary["peak_megabytes"] for summary in summaries),
        metric=summaries[0]["metric"],
    )


def contest_table(results: Sequence[Result]) -> str:
    """Markdown, best first; the spread is from the lowest to the highest of the seeds."""
    metric = results[0].metric
    lines = [
        f"| network | {metric} | lowest–highest | params | GFLOPs | images/s | peak MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(results, key=lambda r: -r.mean):
        spread = f"{min(r.scores):.2f}–{max(r.scores):.2f}" if len(r.scores) > 1 else "one seed"
        lines.append(
            f"| {r.name} | {r.mean:.2f} | {spread} | {r.params / 1e6:.4f} M | {r.flops / 1e9:.4f} "
            f"| {r.images_per_second:.0f} | {r.peak_megabytes:.0f} |"
        )
    return "\n".join(lines)


def write_contest(results: Sequence[Result], folder: Path, title: str, command: str) -> list[Path]:
    """Write results.json, table.md and two pictures: scores over size and over epochs."""
    content = {"command": command, "results": [dataclasses.asdict(r) for r in results]}
    text, rows = json.dumps(content, indent=1), contest_table(results)
    files = [folder / name for name in ("results.json", "table.md", "scores.png", "curves.png")]
    atomic_write(files[0], lambda file: file.write(text.encode()))
    atomic_write(files[1], lambda file: file.write(f"{rows}\n\nMade by `{command}`.\n".encode()))
    _draw_scores(results, files[2], title)
    _draw_curves(results, files[3], title)
    return files


def new_figure(title: str, columns: int = 1) -> tuple[Any, list[Any]]:
    """A titled matplotlib figure without a display, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 + 4.4 * columns, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    figure.suptitle(title)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def _draw_scores(results: Sequence[Result], path: Path, title: str) -> None:
    """A bar for each network, with every seed as a point."""
    figure, (axis,) = new_figure(title)
    names = [r.name for r in results]
    axis.bar(names, [r.mean for r in results], color="tab:blue", alpha=0.6)
    for place, r in enumerate(results):
        axis.plot([place] * len(r.scores), r.scores, "k.")
    if len(names) > 8:
        axis.tick_params("x", rotation=90)
    everything = [score for r in results for score in r.scores]
    low, high = min(everything), max(everything)
    margin = max(1.0, 0.3 * (high - low))
    axis.set(ylabel=f"{results[0].metric} / %", ylim=(max(0.0, low - margin), high + margin))
    figure.savefig(path, dpi=110)


def _draw_curves(results: Sequence[Result], path: Path, title: str) -> None:
    """Validation of the first seed over the epochs."""
    figure, (axis,) = new_figure(title)
    styles = ("-", "--", "-.", ":")  # told apart without color too
    for number, r in enumerate(results):
        epochs, scores = zip(*r.curves[0], strict=True)
        axis.plot(epochs, scores, styles[number % 4], marker="o", markersize=3, label=r.name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="epoch", ylabel=f"{results[0].metric} / %, validation")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
