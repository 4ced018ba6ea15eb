"""`python -m pyranet_fast.train_classifier`: trains image classifiers with or without pyramids (paper section 5.2)."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

import torch

from . import cli
from .io import output_folder
from .training import distributed
from .training.classification import ClassificationTask
from .training.config import TORCHRUN, ClassifierConfig
from .training.report import WarningLog, kept_warnings
from .training.trainer import Trainer

logger = logging.getLogger("pyranet_fast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train_classifier",
        description="Train a Wide ResNet or ResNeXt, with or without pyramids, on CIFAR-10; the defaults are the "
        "published recipes. Writes last.pt, log.csv, report.html (curves, results beside published ones, examples, "
        "settings and speed, self-contained), curves.png, pictures/ and tensorboard/ to OUTPUT. Ctrl-C saves and "
        f"stops; rerun the same command to resume. {TORCHRUN}",
    )
    ClassifierConfig.add_arguments(parser)
    config = ClassifierConfig.from_arguments(cli.parse_arguments(parser, argv))

    with distributed.process_group(config.device, config.batch_size) as device, kept_warnings() as warnings:
        _train(config, device, warnings)
    return 0


def _train(config: ClassifierConfig, device: torch.device, warnings: WarningLog) -> None:
    started = time.perf_counter()
    output_folder(config.output)
    task = ClassificationTask(config, device)
    parameters = sum(p.numel() for p in task.model.parameters())
    if distributed.is_main_process():
        processes = f" by {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
        logger.info(
            f"{task.data.name}; {task.held_out.name}; {config.model} of {parameters / 1e6:.2f} M parameters on "
            f"{device}{processes}; {config.epochs} epochs of {task.steps_per_epoch} steps",
        )
    results = Trainer(task, config, warnings).fit()
    if not distributed.is_main_process():
        return
    minutes = (time.perf_counter() - started) / 60
    print(f"done in {minutes:.1f} minutes: {config.output}/last.pt, report.html, curves.png, pictures/")
    if results:
        print(f"test accuracy {results['mean']:.2f} %, error {results['error']:.2f} %")


if __name__ == "__main__":
    cli.keep_pages()
    sys.exit(cli.run(main))
