"""`python -m pyranet_fast.export`: exports a checkpoint to ONNX Runtime, OpenVINO, the browser or C++."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .cli import keep_pages
from .data import open_dataset
from .exporting.check import Crops, compare, crops_of_images, crops_of_people, faults, forms_of, table, verdict
from .exporting.int8 import quantize
from .exporting.writers import describe_export, onnx_bytes, write_openvino, write_program
from .inference.exported import ONNX, OPENVINO, SUFFIXES, TORCH, Description
from .io import atomic_write
from .keypoints import Skeleton
from .models.pyranet import PyraNet
from .models.zoo import build_model, find_checkpoint, load_checkpoint

logger = logging.getLogger("pyranet_fast")

FAILED = 1
"""Exit status where the file was written and the check found it wrong."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.export",
        description="Export a checkpoint: FILE.onnx (standard operators), FILE.xml with FILE.bin (OpenVINO), FILE.pt2 "
        "(torch.export, or compiled by AOTInductor for C++ with --aot). The batch size is dynamic, height and width "
        "are fixed. Then compare the file with the checkpoint on crops and print differences, PCK (with labels), "
        "sizes and times. Exit status 1: the check failed.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="file written by train, or a name of models.available()"
    )
    parser.add_argument("output", metavar="FILE", help="output file: .onnx, .xml or .pt2")
    parser.add_argument(
        "--input-size",
        type=int,
        default=None,
        metavar="N",
        help="side of the crops in pixels (default: that of the checkpoint)",
    )
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="include decoding: uint8 RGB crops (N, S, S, 3) to joints in crop pixels, scores and score maps; without "
        "it, normalized crops (N, 3, S, S) to score maps (default: off)",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="average with the mirrored crop, in the check and, with --decode, in the graph (default: on)",
    )
    parser.add_argument(
        "--aot", action="store_true", help="compile FILE.pt2 for this processor; takes a minute or more"
    )
    parser.add_argument(
        "--int8", action="store_true", help="quantize convolutions to int8 with onnxruntime's static quantization"
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the file and compare it with the checkpoint (default: on)",
    )
    parser.add_argument("--root", default=None, metavar="DIR", help="folder that contains lsp_dataset/, …")
    parser.add_argument(
        "--dataset",
        default=None,
        help="dataset of the check (split test) and of --int8 (split train), as for train (default: lsp with --root, "
        "else demo)",
    )
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="allow coco: images outside --root",
    )
    parser.add_argument(
        "--images", default=None, metavar="DIR", help="use entire images of a folder instead of a dataset"
    )
    parser.add_argument(
        "--people",
        type=int,
        default=200,
        metavar="N",
        help="number of crops in the check; 0: all (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration-crops",
        type=int,
        default=128,
        metavar="N",
        help="number of calibration crops for --int8 (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = cli.parse_arguments(parser, argv)
    path = Path(arguments.output)
    if path.suffix not in SUFFIXES:
        parser.error(f"FILE must end in one of {', '.join(SUFFIXES)}, got {arguments.output!r}")
    if arguments.aot and path.suffix != TORCH:
        parser.error(f"--aot goes with FILE{TORCH}; FILE is {arguments.output!r}")
    if arguments.int8 and path.suffix == TORCH:
        parser.error(f"--int8 goes with FILE{ONNX} and FILE{OPENVINO}; FILE is {arguments.output!r}")
    if arguments.images is not None and (arguments.dataset or arguments.root):
        parser.error("--images does not go with --dataset and --root: give a folder of images, or a dataset")
    if arguments.people < 0:
        parser.error(f"--people must be an integer of at least 0 (0 for all), got {arguments.people}")
    if arguments.calibration_crops < 1:
        parser.error(f"--calibration-crops must be a positive integer, got {arguments.calibration_crops}")

    file = find_checkpoint(arguments.checkpoint)
    checkpoint = load_checkpoint(file)
    model = build_model(checkpoint, file)
    assert isinstance(model, PyraNet)
    size = arguments.input_size or checkpoint.input_size
    if size < model.multiple or size % model.multiple:
        parser.error(f"--input-size must be a multiple of {model.multiple}, got {size}")
    description = describe_export(checkpoint, size, decode=arguments.decode, flip=arguments.flip)
    # What cannot be read is known before the work, not after it.
    crops = _crops(arguments, description, "test", arguments.people) if arguments.check else None
    typical = _crops(arguments, description, "train", arguments.calibration_crops) if arguments.int8 else None

    with tempfile.TemporaryDirectory(prefix="pyranet_fast-") as folder:
        files = _write(arguments, path, model, description, typical, Path(folder))
        size_on_disk = path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == OPENVINO else 0)
        print(f"wrote {path}: {size_on_disk / 1e6:.2f} MB, {_interface(description)}")
        return 0 if crops is None else _check(model, files, crops, description.skeleton, arguments.flip)


def _write(
    arguments: argparse.Namespace,
    path: Path,
    model: PyraNet,
    description: Description,
    typical: Crops | None,
    folder: Path,
) -> list[tuple[str, Path]]:
    """Write the file; returns what to check: it, and with --int8 the same in float32, which lies in ``folder``."""
    if path.suffix == TORCH:
        write_program(path, model, description, aot=arguments.aot)
        return [("AOTInductor" if arguments.aot else "export", path)]
    data = onnx_bytes(model, description)
    if typical is None:
        _write_graph(path, data, description)
        return [("float32", path)]
    plain = folder / path.name
    _write_graph(plain, data, description)
    logger.info(f"int8: ranges from {typical.name}")
    _write_graph(path, *quantize(data, description, typical.images))
    return [("float32", plain), ("int8", path)]


def _write_graph(path: Path, data: bytes, description: Description) -> None:
    if path.suffix == OPENVINO:
        write_openvino(path, data, description)
    else:
        atomic_write(path, lambda file: file.write(data))


def _interface(description: Description) -> str:
    size = description.input_size
    if not description.decoded:
        return f"image (N, 3, {size}, {size}) float32, normalized -> heatmaps"
    mirrored = " with the mirrored pass" if description.mirrored else ""
    return f"image (N, {size}, {size}, 3) uint8 RGB -> joints, scores, heatmaps{mirrored}"


def _crops(arguments: argparse.Namespace, description: Description, split: str, count: int) -> Crops:
    if arguments.images is not None:
        return crops_of_images(arguments.images, count, description.input_size)
    name = arguments.dataset or ("demo" if arguments.root is None else "lsp")
    people = open_dataset(name, arguments.root, split, allow_outside=arguments.allow_outside)
    return crops_of_people(people, count, description.input_size, description.skeleton)


def _check(model: PyraNet, files: list[tuple[str, Path]], crops: Crops, skeleton: Skeleton, flip: bool) -> int:
    rows = compare(forms_of(model, files), crops, skeleton, flip=flip)
    metric = crops.people.metric.at() if crops.people is not None else "PCK"
    print(f"{crops.name}, {'flip' if flip else 'no flip'}; differences from pyranet_fast's own, times in turns")
    print(table(rows, metric))
    for sentence in verdict(rows):
        print(sentence)
    wrong = faults(rows)
    for sentence in wrong:
        logger.error(f"error: {sentence}")
    if wrong:
        return FAILED
    print("check passed")
    return 0


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
