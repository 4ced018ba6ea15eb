"""`python -m pyranet_fast.data.synthetic`: writes images of synthetic people as PNG files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ... import cli
from ...io import output_folder
from ..image_io import write_image
from ..registry import open_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.data.synthetic", description="Write images of synthetic people to OUTPUT."
    )
    parser.add_argument("--count", type=int, default=12, help="number of people (default: %(default)s)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--output", default="people", help="folder for the images (default: %(default)s)")
    arguments = cli.parse_arguments(parser, argv)
    if arguments.count < 1 or arguments.seed < 0:
        parser.error(f"--count must be positive and --seed at least 0, got {arguments.count} and {arguments.seed}")

    folder = output_folder(arguments.output)
    people = open_dataset("demo", None, arguments.split, count=arguments.count, seed=arguments.seed)
    for index in range(len(people)):
        write_image(folder / f"person_{index:02d}.png", people.image(index))
    print(f"wrote {len(people)} pictures to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
