"""`python -m pyranet_fast.train`: train a PyraNet on people."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

from . import cli
from .memory import keep_pages


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from .training.settings import Settings, add_arguments

    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.train",
        description="Train a PyraNet. The defaults are the paper's recipe; OUTPUT gets last.pt, log.csv, curves.png, "
        "pictures/ and tensorboard/. Ctrl-C saves and stops; the same command goes on from there.",
    )
    add_arguments(parser)
    values = vars(parser.parse_args(argv))
    settings = Settings(**{f.name: values[f.name] for f in dataclasses.fields(Settings)})
    device = cli.device(settings.device)

    from .training.loop import fit
    from .training.pose_task import PoseTask

    started = time.perf_counter()
    task = PoseTask(settings, device)
    parameters = sum(p.numel() for p in task.model.parameters())
    print(
        f"{len(task.people)} people to train on, {len(task.held_out)} to validate on; {settings.variant} network of "
        f"{parameters / 1e6:.3f} M parameters on {device}; {task.steps_per_epoch} steps an epoch",
        flush=True,
    )
    results = fit(task, settings)
    if task.corrupt:
        print(f"{len(task.corrupt)} unreadable images were left out")
    print(
        f"done in {(time.perf_counter() - started) / 60:.1f} minutes: {settings.output}/last.pt, curves.png, pictures/"
    )
    if results:
        print(f"validation {results['metric']} (single scale, no flip): {results['mean']:.2f}")
    return 0


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
