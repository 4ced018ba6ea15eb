"""`python -m pyranet_fast.export_weights`: saves the weights of a checkpoint in a small file to share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .checkpoint import CALIBRATION, describe, save_weights
from .errors import UserError
from .inference.calibration import Calibration
from .io import reading
from .models.zoo import build_model, load_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.export_weights",
        description="Save the weights of a checkpoint for inference as safetensors, with the network's configuration "
        "and convolutions in half precision. predict, evaluate and Predictor load the file like a checkpoint.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file written by train or train_classifier")
    parser.add_argument("output", metavar="FILE.safetensors", help="output file")
    parser.add_argument("--description", default="", help="one sentence on the origin of the weights")
    parser.add_argument(
        "--calibration",
        default=None,
        metavar="FILE",
        help="calibration.json of evaluate, for the expected accuracy of each joint in predictions",
    )
    parser.add_argument(
        "--half", action=argparse.BooleanOptionalAction, default=True, help="half precision (default: on)"
    )
    arguments = cli.parse_arguments(parser, argv)

    checkpoint = load_checkpoint(arguments.checkpoint, kind=None)
    build_model(checkpoint, arguments.checkpoint)  # what cannot be built is not passed on
    if arguments.calibration is not None:
        checkpoint.metrics[CALIBRATION] = _calibration(arguments.calibration).as_dict()
    save_weights(arguments.output, checkpoint, description=arguments.description, half=arguments.half)
    about, size = describe(arguments.output), Path(arguments.output).stat().st_size
    print(f"wrote {arguments.output}: {about['parameters']:,} parameters, {size / 1e6:.2f} MB")
    return 0


def _calibration(path: str) -> Calibration:
    try:
        with reading(path, "evaluate's calibration.json"):
            return Calibration.from_dict(json.loads(Path(path).read_text()))
    except UserError as error:
        raise UserError(f"--calibration {error}") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
