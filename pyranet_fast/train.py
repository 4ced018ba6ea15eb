"""`python -m pyranet_fast.train`: trains a PyraNet on people."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

import torch

from . import cli
from .training import distributed
from .training.config import TORCHRUN, PoseConfig
from .training.pose import PoseTask
from .training.report import WarningLog, kept_warnings
from .training.trainer import Trainer

logger = logging.getLogger("pyranet_fast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train",
        description="Train a PyraNet; the defaults are the recipe of the paper. Writes last.pt, log.csv, report.html "
        "(curves, results beside published ones, examples, settings, speed and warnings, self-contained), curves.png, "
        "pictures/ and tensorboard/ to OUTPUT. Ctrl-C saves and stops; rerun the same command to resume. "
        f"{TORCHRUN}",
    )
    PoseConfig.add_arguments(parser)
    config = PoseConfig.from_arguments(cli.parse_arguments(parser, argv))

    with distributed.process_group(config.device, config.batch_size) as device, kept_warnings() as warnings:
        _train(config, device, warnings)
    return 0


def _train(config: PoseConfig, device: torch.device, warnings: WarningLog) -> None:
    started = time.perf_counter()
    task = PoseTask(config, device)
    parameters = sum(p.numel() for p in task.model.parameters())
    if distributed.is_main_process():
        processes = f" by {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
        logger.info(
            f"{len(task.people)} people to train on, {len(task.held_out)} to validate on; {config.variant} network "
            f"of {parameters / 1e6:.3f} M parameters on {device}{processes}; {task.steps_per_epoch} steps per epoch",
        )
        logger.info(task.people.skeleton.mirroring)
    results = Trainer(task, config, warnings).fit()
    corrupt: dict[int, str] = {}
    for share in distributed.all_gather(task.corrupt):
        corrupt |= share
    if not distributed.is_main_process():
        return
    if corrupt:
        logger.warning(f"{task.people.name}: {task.left_out(corrupt).sentence(len(task.people))}")
    minutes = (time.perf_counter() - started) / 60
    print(f"done in {minutes:.1f} minutes: {config.output}/last.pt, report.html, curves.png, pictures/")
    if results:
        print(f"validation {results['metric']} (single scale, no flip): {results['mean']:.2f}")


if __name__ == "__main__":
    cli.keep_pages()
    sys.exit(cli.run(main))
