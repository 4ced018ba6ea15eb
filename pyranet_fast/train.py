"""`python -m pyranet_fast.train`: train a PyraNet on people."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

import torch

from . import cli
from .cli import keep_pages
from .training import distributed
from .training.config import TORCHRUN, PoseConfig, add_arguments
from .training.pose import PoseTask
from .training.trainer import fit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train",
        description="Train a PyraNet. The defaults are the paper's recipe; OUTPUT gets last.pt, log.csv, curves.png, "
        f"pictures/ and tensorboard/. Ctrl-C saves and stops; the same command goes on from there. {TORCHRUN}",
    )
    add_arguments(parser)
    values = vars(parser.parse_args(argv))
    settings = PoseConfig(**{f.name: values[f.name] for f in dataclasses.fields(PoseConfig)})

    with distributed.joined(settings.device, settings.batch_size) as device:
        _train(settings, device)
    return 0


def _train(settings: PoseConfig, device: torch.device) -> None:

    started = time.perf_counter()
    task = PoseTask(settings, device)
    parameters = sum(p.numel() for p in task.model.parameters())
    if distributed.leads():
        processes = f" by {distributed.size()} processes" if distributed.size() > 1 else ""
        print(
            f"{len(task.people)} people to train on, {len(task.held_out)} to validate on; {settings.variant} network "
            f"of {parameters / 1e6:.3f} M parameters on {device}{processes}; {task.steps_per_epoch} steps an epoch",
            flush=True,
        )
    results = fit(task, settings)
    corrupt = set().union(*distributed.gathered(task.corrupt))
    if not distributed.leads():
        return
    if corrupt:
        print(f"{len(corrupt)} unreadable images were left out")
    print(
        f"done in {(time.perf_counter() - started) / 60:.1f} minutes: {settings.output}/last.pt, curves.png, pictures/"
    )
    if results:
        print(f"validation {results['metric']} (single scale, no flip): {results['mean']:.2f}")


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
