"""`python -m pyranet_fast.train_classifier`: train an image classifier with or without pyramids (paper section 5.2)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

import torch

from . import cli
from .cli import keep_pages
from .io import output_folder
from .training import distributed
from .training.classification import ClassificationTask
from .training.config import TORCHRUN, ClassifierConfig, add_arguments
from .training.trainer import fit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train_classifier",
        description="Train a Wide ResNet or a ResNeXt, with or without pyramids, on CIFAR-10. The defaults are the "
        "published recipes; OUTPUT gets last.pt, log.csv, curves.png, pictures/ and tensorboard/. Ctrl-C saves and "
        f"stops; the same command goes on from there. {TORCHRUN}",
    )
    add_arguments(parser, ClassifierConfig)
    values = vars(parser.parse_args(argv))
    settings = ClassifierConfig(**{f.name: values[f.name] for f in dataclasses.fields(ClassifierConfig)})

    with distributed.joined(settings.device, settings.batch_size) as device:
        _train(settings, device)
    return 0


def _train(settings: ClassifierConfig, device: torch.device) -> None:

    started = time.perf_counter()
    output_folder(settings.output)
    task = ClassificationTask(settings, device)
    parameters = sum(p.numel() for p in task.model.parameters())
    if distributed.leads():
        processes = f" by {distributed.size()} processes" if distributed.size() > 1 else ""
        print(
            f"{task.data.name}; {task.held_out.name}; {settings.model} of {parameters / 1e6:.2f} M parameters on "
            f"{device}{processes}; {settings.epochs} epochs of {task.steps_per_epoch} steps",
            flush=True,
        )
    results = fit(task, settings)
    if not distributed.leads():
        return
    print(
        f"done in {(time.perf_counter() - started) / 60:.1f} minutes: {settings.output}/last.pt, curves.png, pictures/"
    )
    if results:
        print(f"test accuracy {results['mean']:.2f} %, error {results['error']:.2f} %")


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
