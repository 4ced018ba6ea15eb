"""`python -m pyranet_fast.evaluate`: score a checkpoint on a data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.evaluate",
        description="Predict every person of a split, print the table in the paper's columns, and write metrics.json "
        "and predictions.h5 (preds N x K x 3: x, y in original image pixels, score) into OUTPUT.",
    )
    parser.add_argument("--checkpoint", required=True, help="file written by train")
    parser.add_argument("--dataset", default="demo", help="demo, lsp or lsp+lspet (default: %(default)s)")
    parser.add_argument("--root", default=None, help="folder that holds lsp_dataset/, …")
    parser.add_argument("--split", default="test", choices=("val", "test", "train"), help="(default: %(default)s)")
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=True, help="average with the mirrored image"
    )
    parser.add_argument("--output", default="output", help="folder for the results (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="people a step (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what a corrupt image does (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error(f"--batch-size is {arguments.batch_size}; a whole number above 0 is accepted")
    if not 0 <= arguments.workers <= 256:
        parser.error(f"--workers is {arguments.workers}; 0 to 256 is accepted")
    device = cli.device(arguments.device)

    import h5py
    import torch

    from .data import open_dataset
    from .pose.evaluation import evaluate_pose
    from .training.checkpoint import atomic_write, build_model, load_checkpoint

    checkpoint = load_checkpoint(arguments.checkpoint)
    people = open_dataset(arguments.dataset, arguments.root, arguments.split)
    if people.skeleton.name != checkpoint.skeleton:
        parser.error(
            f"--dataset {arguments.dataset} has the joints of {people.skeleton.name}, "
            f"the checkpoint predicts those of {checkpoint.skeleton}"
        )
    model = build_model(checkpoint, arguments.checkpoint).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    score, predictions = evaluate_pose(
        model,
        people,
        checkpoint.input_size,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
        device=device,
        precision=arguments.precision,
        workers=arguments.workers,
        on_error=arguments.on_error,
        progress=True,
    )
    score.settings.update(
        checkpoint=str(arguments.checkpoint),
        dataset=arguments.dataset,
        split=arguments.split,
        people=people.name,
        precision=arguments.precision,
    )
    output = Path(arguments.output)
    text = json.dumps(score.as_dict(), indent=2)
    atomic_write(output / "metrics.json", lambda file: file.write(text.encode()))
    temporary = output / ".predictions.h5.part"
    with h5py.File(temporary, "w") as file:
        file.create_dataset("preds", data=predictions, compression="gzip")
        file.attrs["joints"] = list(people.skeleton.joints)
    temporary.replace(output / "predictions.h5")
    print(f"{people.name}: {len(people)} people, single scale, {'flip' if arguments.flip else 'no flip'}")
    print(score.table())
    if score.settings["unreadable"]:
        print(f"{score.settings['unreadable']} people with unreadable images are not in the score")
    print(f"wrote {output / 'metrics.json'} and {output / 'predictions.h5'}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
