"""`python -m pyranet_fast.train_classifier`: train an image classifier with or without pyramids (paper section 5.2)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import cli
from .memory import keep_pages

if TYPE_CHECKING:
    import torch

    from .training.classify_settings import ClassifySettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from .training.classify_settings import ClassifySettings
    from .training.settings import TORCHRUN, add_arguments

    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train_classifier",
        description="Train a Wide ResNet or a ResNeXt, with or without pyramids, on CIFAR-10. The defaults are the "
        "published recipes; OUTPUT gets last.pt, log.csv, curves.png, pictures/ and tensorboard/. Ctrl-C saves and "
        f"stops; the same command goes on from there. {TORCHRUN}",
    )
    add_arguments(parser, ClassifySettings)
    values = vars(parser.parse_args(argv))
    settings = ClassifySettings(**{f.name: values[f.name] for f in dataclasses.fields(ClassifySettings)})

    from .training import distributed

    with distributed.joined(settings.device, settings.batch_size) as device:
        _train(settings, device)
    return 0


def _train(settings: ClassifySettings, device: torch.device) -> None:
    from .training import distributed
    from .training.classify_task import ClassifyTask
    from .training.loop import fit

    started = time.perf_counter()
    cli.output_folder(settings.output)
    task = ClassifyTask(settings, device)
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
