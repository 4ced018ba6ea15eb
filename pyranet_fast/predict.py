"""`python -m pyranet_fast.predict`: the joints of the person in any photo."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import cli
from .cli import keep_pages
from .data.image_io import read_image, read_mark, write_image
from .errors import UserError, one_line
from .inference.heatmaps import constant_sizes
from .inference.predictor import Predictor
from .inference.result import Pose
from .io import atomic_write, output_folder
from .models.precision import AUTO, CHOICES
from .models.zoo import resolve_device
from .visualization import draw_pose

logger = logging.getLogger("pyranet_fast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 where an image could not be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.predict",
        description="Find the joints of the person in each image. OUTPUT gets NAME_pose.png for each, with a number "
        "where that is another image's, and predictions.json: joints by name in pixels of the image, their scores, the "
        "box that was used and how far it was turned.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file of any common format")
    parser.add_argument(
        "--checkpoint",
        default=None,
        metavar="FILE",
        help="file written by train, or by export (.onnx, .xml, .pt2), or a name in models.available() (default: the "
        "first one there)",
    )
    parser.add_argument(
        "--box",
        type=_box,
        default=None,
        metavar="X,Y,W,H",
        help="the person's box in pixels, top left corner and size, in every image given (with a negative X "
        "write --box=-5,…; default: the whole image, then the box of what was found)",
    )
    parser.add_argument(
        "--search",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without --box, look wider, closer and turned where the scores are low: people who are small, cut off or "
        "upside down (default: on)",
    )
    parser.add_argument("--output", default="predictions", help="folder for the results (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="average with the mirrored image (default: on)",
    )
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        default=AUTO,
        help="auto: the faster one, found by a few passes (default: auto)",
    )
    arguments = cli.parse_arguments(parser, argv)
    device = None if arguments.device == "auto" else resolve_device(arguments.device)

    predictor = Predictor(
        arguments.checkpoint, device, flip=arguments.flip, search=arguments.search, precision=arguments.precision
    )
    output = output_folder(arguments.output)
    done: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    names = overlay_names(arguments.images, output)
    for path, name in zip(arguments.images, names, strict=True):
        try:
            image = read_image(path)
            with constant_sizes():
                pose = predictor(image, arguments.box)
        except UserError as error:
            sentence = one_line(str(error))
            sentence = sentence if str(path) in sentence else f"image {path}: {sentence}"
            errors.append({"image": printable(path), "error": printable(sentence)})
            logger.error(f"error: {printable(sentence)}")
            continue
        drawn = draw_pose(image, pose.joints, pose.scores, predictor.skeleton)
        write_image(output / name, drawn, mark=overlay_mark(path, output))
        height, width = image.shape[:2]
        entry = {"image": printable(path), "width": width, "height": height, "overlay": name}
        done.append(entry | pose.as_dict())
        print(f"{printable(path)} -> {printable(output / name)} ({sureness(pose)})")

    results = {
        "checkpoint": printable(arguments.checkpoint or predictor.name),
        "settings": {
            "input_size": predictor.input_size,
            "flip": predictor.flip,
            "search": predictor.search,
            "precision": predictor.precision,
            "pixels": "0-based; an integer is the center of a pixel; after the image's EXIF orientation",
        },
        "predictions": done,
        "errors": errors,
    }
    text = json.dumps(results, indent=2, allow_nan=False)
    atomic_write(output / "predictions.json", lambda file: file.write(text.encode()))
    failed = f", {len(errors)} of {len(arguments.images)} images failed" if errors else ""
    print(f"wrote {printable(output / 'predictions.json')}{failed}")
    return cli.BAD_INPUT if errors else 0


def sureness(pose: Pose) -> str:
    """How far a pose can be trusted, for people to read."""
    text = f"mean score {pose.mean_score:.2f}"
    if pose.chances is None:
        return text
    text += f", about {pose.chances.mean():.0%} of joints of such scores are right"
    return text if pose.trustworthy else f"{text}: do not trust this pose"


def _box(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers X,Y,W,H")
    return values


def overlay_names(images: Sequence[str], output: Path) -> list[str]:
    """A file name for each image's overlay: ``NAME_pose.png``, numbered where another image has that name.

    No two are the same, on a file system that ignores case or the form of accents either, and none is an image still to
    be read, or a file in ``output`` that is not the overlay of the same image by an earlier run: rerunning a command
    replaces its overlays, and those of other images stay. A number is given to an image only after all images have got
    their own name where it is free, so that ``x-2.jpg`` is not in the way of the second ``x``.
    """
    inputs = {_key(Path(image)) for image in images}
    there = {_alike(path.name): path for path in output.iterdir()} if output.is_dir() else {}
    names: dict[int, str] = {}
    taken: set[str] = set()

    def free(name: str, image: str) -> bool:
        if _alike(name) in taken or _key(output / name) in inputs:
            return False
        before = there.get(_alike(name))
        return before is None or read_mark(before) == overlay_mark(image, output)

    def give(at: int, candidates: Iterable[str]) -> None:
        name = next((name for name in candidates if free(name, images[at])), None)
        if name is not None:
            names[at] = name
            taken.add(_alike(name))

    stems = [printable(Path(image).stem) for image in images]
    for at, stem in enumerate(stems):
        give(at, [_overlay(stem)])
    for at, stem in enumerate(stems):
        if at not in names:
            give(at, (_overlay(stem, f"-{number}") for number in itertools.count(2)))
    return [names[at] for at in range(len(images))]


def overlay_mark(image: str, output: Path) -> str:
    """What tells the overlay of one image from those of others: a hash of the image's place as seen from ``output``."""
    try:
        place = os.path.relpath(Path(image).resolve(), output.resolve())
    except (OSError, ValueError, RuntimeError):  # another drive, a null character, a loop of links
        place = image
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def _overlay(stem: str, number: str = "") -> str:
    return f"{stem.encode()[:200].decode('utf-8', 'ignore')}{number}_pose.png"  # file systems allow 255 bytes in all


def _alike(name: str) -> str:
    """The same for names that some file system takes for one: equal up to case and the form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _key(path: Path) -> str:
    try:
        return _alike(str(path.resolve()))
    except (OSError, ValueError, RuntimeError):
        return _alike(str(path))


def printable(path: object) -> str:
    """A path as text that any terminal and JSON can hold: bytes that are no UTF-8 become question marks."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
