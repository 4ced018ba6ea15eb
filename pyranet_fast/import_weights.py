"""`python -m pyranet_fast.import_weights`: converts the `.pth` of another implementation to weights of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import cli
from .checkpoint import SUFFIX, Checkpoint, save_weights
from .errors import UserError
from .keypoints import SKELETONS
from .models.imported import LAYOUTS, import_weights, read_foreign


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.import_weights",
        description="Convert the state dict of another PyTorch implementation: the authors' Torch7 network ported "
        "container by container (torch7, complete), or the matching part of bearpaw/pytorch-pose's hourglass and "
        "pyranet or of wenbc21/PyraNet. Tensors without a match are listed. An incomplete network, for fine-tuning, is "
        "written only with --partial.",
    )
    parser.add_argument(
        "source", metavar="FILE.pth", help="file with a state dict, or with one under state_dict or model"
    )
    parser.add_argument("output", metavar=f"FILE{SUFFIX}", help="output file")
    parser.add_argument(
        "--layout", choices=("auto", *LAYOUTS), default="auto", help="source implementation (default: %(default)s)"
    )
    parser.add_argument(
        "--skeleton",
        choices=("auto", *SKELETONS),
        default="auto",
        help="joints of the score maps (default: auto, by their number: 16 mpii, 14 lsp)",
    )
    parser.add_argument(
        "--input-size", type=int, default=256, metavar="N", help="side of the crops in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write the network although tensors are missing; they are initialized as in a new network",
    )
    arguments = cli.parse_arguments(parser, argv)
    if Path(arguments.output).suffix != SUFFIX:
        parser.error(f"the output must be a file name ending in {SUFFIX}, got {arguments.output!r}")

    torch.manual_seed(0)  # what is missing starts the same way each time
    found = import_weights(read_foreign(arguments.source), None if arguments.layout == "auto" else arguments.layout)
    print(found.report())
    joints = found.model.config["joints"]
    name = arguments.skeleton
    if name == "auto":
        name = next((name for name, skeleton in SKELETONS.items() if len(skeleton) == joints), None)
    if name is None or len(SKELETONS[name]) != joints:
        expected = ", ".join(f"{name} ({len(skeleton)})" for name, skeleton in SKELETONS.items())
        raise UserError(f"--skeleton must be one of {expected}, got {name or 'auto'} with {joints} score maps")
    size, multiple = arguments.input_size, found.model.multiple
    if size < multiple or size % multiple:
        parser.error(f"--input-size must be a multiple of {multiple}, got {size}")
    if not found.complete and not arguments.partial:
        raise UserError(
            f"{arguments.source} is not a complete network of this package, nothing was written; --partial writes "
            "the matching part, for fine-tuning"
        )
    checkpoint = Checkpoint(
        model=found.model.config, weights=dict(found.model.state_dict()), skeleton=name, input_size=size
    )
    whole = "" if found.complete else ", in part"
    description = f"imported{whole} from {Path(arguments.source).name} ({found.layout})"
    save_weights(arguments.output, checkpoint, description=description, half=False)
    print(f"wrote {arguments.output}: {description}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
