"""`python -m pyranet_fast.data.pack`: writes a dataset into one memory-mapped file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .. import __version__, cli
from ..errors import UserError
from .dataset import SPLITS
from .packed import HELD_OUT_QUALITY, LIMIT, QUALITY, write_packed
from .registry import open_dataset
from .transforms import Augmentation


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.data.pack",
        description="Pack a dataset into one file: JPEG crops of all people, with their labels. train and evaluate "
        "read it with `--dataset packed:FILE`, without --root.",
    )
    parser.add_argument("--dataset", required=True, help="as for train: lsp, lsp+lspet, mpii, coco:FILE.json, …")
    parser.add_argument("--root", default=None, help="folder that contains lsp_dataset/, mpii/, …")
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="allow coco: images outside --root",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="output file, such as people.pack")
    parser.add_argument(
        "--splits", default=",".join(SPLITS), help="comma-separated splits to pack (default: %(default)s)"
    )
    parser.add_argument(
        "--input-size",
        type=int,
        default=256,
        help="network input size to pack for: training crops are downsampled to this many pixels, others to twice as "
        "many (default: %(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=QUALITY, help="JPEG quality of training crops, 1 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--bytes",
        type=int,
        default=LIMIT,
        help="bytes per training crop at most; larger ones get a lower quality; 0: no limit (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out-quality",
        type=int,
        default=HELD_OUT_QUALITY,
        help="JPEG quality of val and test crops (default: %(default)s)",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=Augmentation().reach,
        help="margin kept around training people: half-width in crop sides (default: %(default).3f, the reach of "
        "train's default augmentation)",
    )
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="raise: stop at a missing or corrupt image; skip: report it and pack the person without an image "
        "(default: raise)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = cli.parse_arguments(parser, argv)
    chosen = [part.strip() for part in arguments.splits.split(",") if part.strip()]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(SPLITS):
        parser.error(f"--splits must be {', '.join(SPLITS)}, each at most once, got {arguments.splits!r}")
    outside = arguments.allow_outside
    people = {split: open_dataset(arguments.dataset, arguments.root, split, allow_outside=outside) for split in chosen}
    words = ["python -m pyranet_fast.data.pack", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
    try:
        contents = write_packed(
            arguments.output,
            people,
            input_size=arguments.input_size,
            reach=arguments.reach,
            quality=arguments.quality,
            limit=arguments.bytes or None,
            held_out_quality=arguments.held_out_quality,
            on_error=arguments.on_error,
            about={
                "dataset": arguments.dataset,
                "command": " ".join(words),
                "written_by": f"pyranet_fast {__version__}",
            },
            say=tqdm.write,
            progress=True,
        )
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        parser.error(f"--{str(error).replace('_', '-')}")
    for split, about in contents.items():
        if "same_as" in about:
            print(f"{split}: the people of {about['same_as']}")
            continue
        count, pictures = about["people"], about["pictures"]
        without = f", {count - pictures} without a picture" if pictures < count else ""
        size = f"{about['bytes'] / 1e6:.2f} MB, {about['bytes'] / pictures:.0f} bytes a picture"
        loss = f"mean quality {about['mean_quality']:.0f}, PSNR {about['psnr']:.1f} dB"
        print(f"{split}: {count} people of {about['name']}{without}; {size}, {loss}")
    total = sum(about.get("people", 0) for about in contents.values())
    size_of_file = Path(arguments.output).stat().st_size
    print(
        f"wrote {arguments.output}: {total} people, {size_of_file / 1e6:.2f} MB, {size_of_file / total:.0f} bytes a "
        "person with the labels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
