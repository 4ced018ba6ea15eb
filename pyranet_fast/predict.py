"""`python -m pyranet_fast.predict`: poses of people in images, folders, videos, cameras and more."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import dataset  # noqa: F401  # isort: skip  # first: it names the extra of a package that is missing
import numpy as np
import torch.distributed
from tqdm import tqdm

from . import cli
from .cli import keep_pages
from .errors import UserError
from .evaluation.prediction_writer import write_coco_json
from .inference.boxes import read_boxes
from .inference.journal import Journal
from .inference.overlays import SHEET_PICTURES, Drawer, printable, write_sheet
from .inference.predictor import Predictor
from .inference.result import Prediction
from .inference.sources import CAMERA, Picture, is_listed, is_live, pictures
from .inference.track_video import track_video
from .inference.video import EXTRA, VIDEO_SUFFIXES
from .io import atomic_write, output_folder
from .keypoints import Skeleton
from .models.precision import AUTO, CHOICES
from .training.distributed import process_group, rank, world_size

logger = logging.getLogger("pyranet_fast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 where a picture could not be done."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.predict",
        description="Predict the poses of people in images and videos. OUTPUT gets NAME_pose.png for each image (with "
        "a number if the name is taken) and predictions.json: joints by name in image pixels, scores, box, rotation; "
        "for a video, NAME_pose.mp4. predictions.jsonl has a line per image; --resume continues from there. torchrun "
        "--nproc-per-node=N -m pyranet_fast.predict … distributes the images.",
    )
    _add_source(parser)
    _add_network(parser)
    _add_outputs(parser)
    arguments = cli.parse_arguments(parser, argv)
    with process_group(arguments.device, None) as device:
        return _run(arguments, str(device))


def _add_source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="image file, folder of images, quoted glob, .txt file with one path per line, - (paths on standard "
        "input), video file, camera:0, .tar shard in WebDataset's layout (shard-{000..009}.tar for several), or URL "
        "(s3://…, with fsspec installed)",
    )
    group.add_argument("--recursive", action="store_true", help="include subfolders")
    group.add_argument(
        "--box",
        type=_box,
        default=None,
        metavar="X,Y,W,H",
        help="box of the person in every image: top left corner and size in pixels (for a negative X write --box=-5,…; "
        "default: the entire image, then the box of the detected joints)",
    )
    group.add_argument(
        "--boxes",
        default=None,
        metavar="FILE",
        help="boxes of the people in each image: COCO detections (.json), a table file,x,y,w,h[,score] (.csv), or "
        "MODULE:FUNCTION, which takes an RGB array and returns rows x, y, w, h[, score]",
    )
    group.add_argument(
        "--box-score",
        type=_score,
        default=0.3,
        metavar="SCORE",
        help="ignore boxes of --boxes with lower scores (default: %(default)s)",
    )
    group.add_argument(
        "--people",
        type=_people,
        default=1,
        metavar="all|N",
        help="1: one person per image; all: every confident person, searched for at several scales; N: at most N of "
        "them (default: 1, or those of --boxes)",
    )
    group.add_argument(
        "--search",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without --box, try wider, closer and rotated crops if scores are low: for small, truncated "
        "or upside-down people (default: on)",
    )
    group.add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="follow people through a video file or camera, and write NAME_pose.mp4 with their skeletons instead of a "
        "PNG per frame; --write csv,jsonl: NAME_pose.csv and .jsonl, a row per frame and person, with ids (default: on "
        "for one video file, unless an option asks for images)",
    )
    group.add_argument(
        "--smooth",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --track, smooth joints over time with the 1 euro filter (default: on)",
    )
    group.add_argument("--audio", action="store_true", help="with --track, copy the video's sound")
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run: skip images in OUTPUT's predictions.jsonl",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--checkpoint",
        default=None,
        metavar="FILE",
        help="file of train or of export (.onnx, .xml, .pt2), or a name in models.available() (default: its first)",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; under torchrun cuda is the GPU of LOCAL_RANK (default: %(default)s)",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="average with the mirrored image (default: on)",
    )
    group.add_argument(
        "--precision",
        choices=CHOICES,
        default=AUTO,
        help="auto: the faster one, measured at the start (default: auto)",
    )
    group.add_argument(
        "--batch-size", type=_count, default=16, metavar="N", help="images and crops per batch (default: %(default)s)"
    )
    group.add_argument(
        "--threads", type=_count, default=4, metavar="N", help="threads that decode images (default: %(default)s)"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", default="predictions", help="folder for the results (default: %(default)s)")
    group.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="NAME_pose.png: the image with skeletons (default: on)",
    )
    group.add_argument(
        "--heatmaps", action="store_true", help="NAME_heatmaps.png: the score map of each joint over the crop"
    )
    group.add_argument("--crops", action="store_true", help="NAME_crop.png: the network input of each person")
    group.add_argument(
        "--sheet",
        action="store_true",
        help=f"sheet.jpg: the overlays of the first {SHEET_PICTURES} images side by side",
    )
    group.add_argument("--show", action="store_true", help="show each overlay in a window")
    group.add_argument(
        "--write",
        default="",
        metavar="KIND,…",
        help="coco: coco_results.json, COCO keypoint results; csv: predictions.csv, a row per joint; with --track csv "
        "and jsonl",
    )
    group.add_argument(
        "--joints",
        default=None,
        metavar="NAME,…",
        help="draw and write only these joints (default: all)",
    )
    group.add_argument(
        "--threshold",
        type=_score,
        default=0.2,
        metavar="SCORE",
        help="draw joints with lower scores as hollow rings with faint limbs (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace, device: str) -> int:
    _decide_tracking(arguments)
    kinds = _kinds(arguments.write, ("csv", "jsonl") if arguments.track else ("coco", "csv"))
    if arguments.sheet and not arguments.overlay:
        raise UserError("--sheet needs the overlays; expected --sheet or --no-overlay, got both")
    if world_size() > 1 and any(text == "-" or text.startswith("camera:") for text in arguments.sources):
        raise UserError("standard input and cameras need one process, got several of torchrun")
    predictor = Predictor(
        arguments.checkpoint,
        None if arguments.device == "auto" and world_size() == 1 else device,
        flip=arguments.flip,
        search=arguments.search,
        precision=arguments.precision,
    )
    if arguments.box is not None and arguments.boxes is not None:
        raise UserError("expected --box or --boxes, got both")
    if arguments.people != 1 and (arguments.box is not None or arguments.boxes is not None):
        raise UserError(
            "expected --people or boxes, got both: --people searches for people, --box and --boxes say where they are"
        )
    output = output_folder(arguments.output)
    if arguments.track:
        return _track(arguments, predictor, output, kinds)
    head = {
        "checkpoint": printable(arguments.checkpoint or predictor.name),
        "settings": {
            "input_size": predictor.input_size,
            "flip": predictor.flip,
            "search": predictor.search,
            "precision": predictor.precision,
            "pixels": "0-based; an integer is the center of a pixel; after the image's EXIF orientation",
        },
    }
    joints = _joints(arguments.joints, predictor.skeleton)
    # The requested precision: "auto" may find another one on another day, and still be resumed.
    asked = {
        name: getattr(arguments, name)
        for name in ("flip", "search", "precision", "box", "boxes", "box_score", "people")
    }
    with (
        Journal(output, {"network": head["checkpoint"], "joints": joints} | asked, rank()) as journal,
        Drawer(
            output,
            predictor.skeleton,
            joints,
            overlay=arguments.overlay,
            heatmaps=arguments.heatmaps,
            crops=arguments.crops,
            show=arguments.show,
            threshold=arguments.threshold,
        ) as drawer,
    ):
        if rank() == 0:
            journal.prepare(resume=arguments.resume)
        meet()
        journal.open()
        try:
            _predict_all(arguments, predictor, journal, drawer)
        except KeyboardInterrupt:
            if not is_live(arguments.sources):
                raise
            logger.info("stopped")  # the usual end of a camera
        journal.close()
        meet()
        if rank() != 0:
            return 0
        done, failed = journal.finish(head)
        _write_more(kinds, journal, output, predictor.skeleton)
        if arguments.sheet:
            write_sheet(journal, output)
    failures = f", {failed} of {done + failed} images failed" if failed else ""
    print(f"wrote {printable(output / 'predictions.json')}{failures}")
    return cli.BAD_INPUT if failed else 0


_OF_IMAGES = ("resume", "box", "boxes", "heatmaps", "crops", "sheet", "show")
"""Options that tracking has no use for."""


def _decide_tracking(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together with ``--track``, or decide where it was not given."""
    source = arguments.sources[0]
    film = len(arguments.sources) == 1 and source.lower().endswith(VIDEO_SUFFIXES)
    given = [name for name in _OF_IMAGES if getattr(arguments, name) not in (None, False)]
    if arguments.track is None:
        fits = film and Path(source).is_file() and not given and world_size() == 1 and "coco" not in arguments.write
        arguments.track = fits and importlib.util.find_spec("av") is not None
        if fits and not arguments.track:
            logger.warning(f"note: PyAV is not installed, so each frame becomes an image; to write a video: {EXTRA}")
    if not arguments.track:
        if arguments.audio:
            raise UserError("--audio needs --track, which is for one video file")
        return
    if "://" in source or (not film and (len(arguments.sources) > 1 or not source.startswith(CAMERA))):
        raise UserError(f"--track needs one video file of this machine or camera:N, got {' '.join(arguments.sources)}")
    if world_size() > 1:
        raise UserError(
            "--track follows people from frame to frame, which processes cannot share; expected one process"
        )
    if given:
        raise UserError(f"--{given[0]} does not work with --track; expected one of them")


def _track(arguments: argparse.Namespace, predictor: Predictor, output: Path, kinds: Sequence[str]) -> int:
    summary = track_video(
        predictor,
        arguments.sources[0],
        output,
        people=arguments.people,
        smooth=arguments.smooth,
        audio=arguments.audio,
        video=arguments.overlay,
        kinds=kinds,
        joints=_joints(arguments.joints, predictor.skeleton),
        threshold=arguments.threshold,
    )
    print(f"{'stopped; ' if summary.stopped else ''}{summary}, in {printable(output)}")
    return cli.INTERRUPTED if summary.stopped and not is_live(arguments.sources) else 0  # a camera has no other end


def meet() -> None:
    """Wait for the other processes, where there are any."""
    if world_size() > 1:
        torch.distributed.barrier()


def _predict_all(arguments: argparse.Namespace, predictor: Predictor, journal: Journal, drawer: Drawer) -> None:
    keys: dict[int, tuple[str, int]] = {}
    boxes = arguments.box
    if arguments.boxes is not None:
        boxes = read_boxes(arguments.boxes, least_score=arguments.box_score)
    source: Any = arguments.sources
    if len(source) == 1:
        source = source[0]
    total = None
    listed: list[Picture] = []
    if is_listed(source):
        listed = list(pictures(source, recursive=arguments.recursive, exclude=Path(arguments.output)))
        drawer.names.reserve([picture.name for picture in listed])
        source, total = listed, -(-(len(listed) - rank()) // world_size())

    def skip(index: int, name: str) -> bool:
        key, done = journal.turn(index, printable(name))
        drawer.names.give(index, name)
        if done or index % world_size() != rank():
            drawer.names.forget(index)
            return True
        keys[index] = key
        return False

    found = predictor.stream(
        source,
        boxes=boxes,
        people=arguments.people,
        recursive=arguments.recursive,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        skip=skip,
        exclude=Path(arguments.output),
    )
    if journal.done and rank() == 0:
        logger.info(f"{journal.done} pictures are done already")
    with _Progress(None if total is None else total) as progress:
        for prediction in found:
            entry = drawer.entry(prediction)
            journal.write(prediction.index, keys.pop(prediction.index), entry)
            progress.count(prediction)


class _Progress:
    """A bar on a terminal: pictures, pictures and people a second."""

    def __init__(self, total: int | None) -> None:
        self._bar = tqdm(total=total, unit=" pictures", disable=None if rank() == 0 else True, file=sys.stderr)
        self._people, self._begin = 0, time.monotonic()

    def count(self, prediction: Prediction) -> None:
        self._people += len(prediction.poses)
        self._bar.set_postfix_str(
            f"{self._people / max(1e-9, time.monotonic() - self._begin):.1f} people/s", refresh=False
        )
        self._bar.update()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _write_more(kinds: Sequence[str], journal: Journal, output: Path, skeleton: Skeleton) -> None:
    if "coco" in kinds:
        points, scores, ids = [], [], []
        for line in journal:
            for person in line.get("people", []):
                known = [person["joints"].get(name) for name in skeleton.joints]
                points.append([(math.nan, math.nan) if j is None else (j["x"], j["y"]) for j in known])
                scores.append([math.nan if j is None else j["score"] for j in known])
                stem = Path(line["image"]).stem
                ids.append(int(stem) if stem.isascii() and stem.isdigit() else line["image"])
        shape = (len(points), len(skeleton))
        write_coco_json(output / "coco_results.json", np.reshape(points, (*shape, 2)), np.reshape(scores, shape), ids)
    if "csv" in kinds:
        atomic_write(
            output / "predictions.csv", lambda file: _write_csv(io.TextIOWrapper(file, "utf-8", newline=""), journal)
        )


def _write_csv(file: io.TextIOWrapper, journal: Journal) -> None:
    table = csv.writer(file)
    table.writerow(["image", "person", "joint", "x", "y", "score"])
    for line in journal:
        for number, person in enumerate(line.get("people", []), 1):
            for name, joint in person["joints"].items():
                table.writerow([line["image"], number, name, joint["x"], joint["y"], joint["score"]])
    file.flush()
    file.detach()


def _kinds(text: str, known: tuple[str, str]) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in known:
            raise UserError(f"--write must be {known[0]}, {known[1]} or both, separated by a comma, got {text!r}")
    return kinds


def _joints(text: str | None, skeleton: Skeleton) -> list[int]:
    if text is None:
        return list(range(len(skeleton)))
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in skeleton.joints:
            raise UserError(f"--joints has {name!r}; expected names among {', '.join(skeleton.joints)}")
    return sorted({skeleton.joints.index(name) for name in names})


def _box(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers X,Y,W,H")
    return values


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _people(text: str) -> int | None:
    return None if text == "all" else _count(text)


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
