"""`python -m pyranet_fast.evaluate`: evaluates a checkpoint on a dataset, or a file of predictions."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import cli
from .cli import keep_pages
from .data import PeopleSource, Subset, open_dataset
from .data.dataset import digest_of_people, joint_origins
from .data.left_out import missing_images
from .evaluation.evaluator import SINGLE_SCALE, EvaluationState, evaluate_pose, precision_of
from .evaluation.oks import oks_precision, oks_unavailable
from .evaluation.prediction_reader import read_pair, score_pair
from .evaluation.report import (
    mpii_numbers,
    published_points,
    write_curves,
    write_metrics,
    write_predictions,
    write_worst,
)
from .inference.heatmaps import SIX_SCALES, JointMaps, constant_sizes, prepare
from .io import output_folder
from .keypoints import Skeleton, resolve_skeleton
from .metrics import Score, relative_errors
from .models.precision import AUTO, CHOICES
from .models.zoo import build_model, find_checkpoint, load_checkpoint, resolve_device

logger = logging.getLogger("pyranet_fast")

SCALES = (1, 6)
# What belongs to one way of using the command alone.
_OF_FILES = ("ground_truth", "people", "pixels")
_OF_CHECKPOINT = ("checkpoint", "dataset", "root")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.evaluate",
        description="Evaluate a checkpoint on a split, or a file of predictions with --predictions and "
        "--ground-truth. Prints the table of the paper with published results and other definitions of the mean. "
        "Writes metrics.json, table.txt, .md and .tex, and curves.png to OUTPUT; for a checkpoint also predictions.h5 "
        "(preds N x K x 3: x, y in 0-based image pixels, score), calibration.json and .png (accuracy as a function of "
        "confidence) and worst.html (the worst predictions). Rerun the same command to resume an interrupted "
        "evaluation.",
    )
    parser.add_argument(
        "--checkpoint",
        default=None,
        metavar="FILE",
        help="file written by train, or a name in models.available() (default: its first)",
    )
    parser.add_argument(
        "--dataset",
        default=None,
        help="as for train: demo, lsp, mpii, packed:FILE, …; networks for MPII can be evaluated on LSP and vice versa "
        "(default: demo)",
    )
    parser.add_argument("--root", default=None, help="folder that contains lsp_dataset/, mpii/, …; not for packed:FILE")
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="allow coco: images outside --root",
    )
    parser.add_argument("--split", default="test", choices=("val", "test", "train"), help="(default: %(default)s)")
    parser.add_argument(
        "--scales",
        type=int,
        choices=SCALES,
        default=1,
        help="6: average the score maps of six scales, 0.8 to 1.3 (default: %(default)s)",
    )
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=True, help="average with the mirrored crop"
    )
    parser.add_argument("--predictions", default=None, metavar="FILE", help=".h5 or .mat file with preds or pred")
    parser.add_argument(
        "--ground-truth", default=None, metavar="FILE", help="MPII's detections_our_format.mat or LSP's joints.mat"
    )
    parser.add_argument(
        "--people", default=None, metavar="RANGE", help="people of the ground truth to use, such as 1001-2000"
    )
    parser.add_argument(
        "--pixels",
        choices=("auto", "0-based", "1-based"),
        default="auto",
        help="pixel origin of --predictions; auto: 0-based in files of this package, 1-based in others (default: auto)",
    )
    parser.add_argument("--output", default="output", help="folder for the results (default: %(default)s)")
    parser.add_argument("--name", default=None, help="row name in the table (default: the file name)")
    parser.add_argument(
        "--write", default="", metavar="FORMATS", help="also write predictions as coco, mpii or coco,mpii"
    )
    parser.add_argument(
        "--worst", type=int, default=24, metavar="N", help="number of predictions in worst.html (default: 24)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="crops per forward pass (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        default=AUTO,
        help="auto: the faster one, measured in a few passes (default: auto)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes; 0: one thread (default: %(default)s)")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="raise: stop at a missing or corrupt image; skip: leave the person out and count it (default: raise)",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "none"),
        default="auto",
        help="auto: resume an interrupted evaluation with the same settings from OUTPUT (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = cli.parse_arguments(parser, argv)
    if arguments.batch_size < 1:
        parser.error(f"--batch-size must be a positive integer, got {arguments.batch_size}")
    if not 0 <= arguments.workers <= 256:
        parser.error(f"--workers must be 0 to 256, got {arguments.workers}")
    if arguments.worst < 0:
        parser.error(f"--worst must be an integer of at least 0 (0 for no page), got {arguments.worst}")
    formats = [part.strip() for part in arguments.write.split(",") if part.strip()]
    if unknown := sorted(set(formats) - {"coco", "mpii"}):
        parser.error(f"--write must be coco or mpii, got {unknown[0]!r}")
    of_files = arguments.predictions is not None or arguments.ground_truth is not None
    for name in _OF_CHECKPOINT if of_files else _OF_FILES:
        if getattr(arguments, name) not in (None, "auto"):
            flag = "--" + name.replace("_", "-")
            other = "--predictions" if of_files else "--checkpoint"
            parser.error(f"{flag} does not go with {other}: give a checkpoint and a dataset, or two files")
    if of_files:
        if arguments.predictions is None or arguments.ground_truth is None:
            parser.error("--predictions and --ground-truth go together: give both files")
        return _score_files(arguments)
    return _score_checkpoint(parser, arguments, formats)


def _score_files(arguments: argparse.Namespace) -> int:
    predicted, truth = read_pair(
        arguments.predictions, arguments.ground_truth, arguments.people, pixels=arguments.pixels
    )
    score = score_pair(predicted, truth)
    output = output_folder(arguments.output)
    name = arguments.name or Path(arguments.predictions).name
    text, files = write_metrics(output, truth.metric, score, name, truth.name)
    errors = relative_errors(predicted.points, truth.points, truth.length)
    errors[~truth.labeled] = float("nan")
    files += write_curves(output, errors, truth.metric, name, truth.name)
    print(text)
    _print_files(files)
    return 0


def _score_checkpoint(parser: argparse.ArgumentParser, arguments: argparse.Namespace, formats: list[str]) -> int:
    device = resolve_device(arguments.device)
    file = find_checkpoint(arguments.checkpoint).resolve()
    checkpoint = load_checkpoint(file)
    skeleton = resolve_skeleton(checkpoint.skeleton)
    people, origins = _people_for(parser, arguments, skeleton)
    if "mpii" in formats:
        mpii_numbers(people)  # fails now, not after hours
    output = output_folder(arguments.output)
    part = output / "evaluation.part"
    model = build_model(checkpoint, file)
    pictures = arguments.batch_size * (2 if arguments.flip else 1)
    asked = arguments.precision
    if asked == AUTO and arguments.resume == "auto":
        asked = precision_of(part) or AUTO
    prepared = prepare(model, device, asked, checkpoint.input_size, pictures)
    if prepared.choice is not None:
        logger.info(f"precision auto: {prepared.choice}")
    network = prepared.network
    if people.skeleton.joints != skeleton.joints:
        network = JointMaps(network, origins).eval()
    scales = SIX_SCALES if arguments.scales == 6 else SINGLE_SCALE
    settings: dict[str, Any] = {
        "checkpoint": str(arguments.checkpoint or file.stem),
        "dataset": arguments.dataset,
        "split": arguments.split,
        "people": people.name,
        "precision": prepared.precision,
    }
    # What an interrupted evaluation must have been of for its predictions to be kept.
    identity = {**settings, "scales": scales, "flip": arguments.flip, "on_error": arguments.on_error}
    identity |= {"file": f"{file} {file.stat().st_mtime_ns}", "root": str(arguments.root)}
    identity["labels"] = digest_of_people(people).hex()
    state = EvaluationState(
        len(people),
        len(people.skeleton),
        part,
        identity,
        resume=arguments.resume == "auto",
    )
    if state.done.any():
        done = f"{int(state.done.sum())} of {len(people)} people were done before"
        logger.info(f"{done}; --resume none starts over")
    elif state.refused:
        logger.info(f"{state.path} is not resumed: {state.refused}")
    if arguments.on_error == "skip" and (missing := missing_images(people)):
        logger.warning(f"{people.name}: {missing.sentence(len(people))}")
    try:
        with constant_sizes():
            score, predictions = evaluate_pose(
                network,
                people,
                checkpoint.input_size,
                flip=arguments.flip,
                scales=scales,
                batch_size=arguments.batch_size,
                device=device,
                precision=prepared.autocast,
                workers=arguments.workers,
                on_error=arguments.on_error,
                progress=logger.isEnabledFor(logging.INFO),
                state=state,
            )
    except KeyboardInterrupt:
        done = f"{int(state.done.sum())} of {len(people)} people are done"
        logger.warning(f"{done}; rerun the same command to resume")
        raise
    score.settings.update(settings)
    oks = _add_oks(people, predictions, state.readable, score)
    _report(arguments, formats, output, people, score, predictions, f"{file.parent.name}/{file.name}", oks)
    if left_out := state.left_out(people):
        logger.warning(f"{people.name}: {left_out.sentence(len(people))}")
    state.finish()
    return 0


def _add_oks(
    people: PeopleSource, predictions: npt.NDArray[np.float32], readable: npt.NDArray[np.bool_], score: Score
) -> str:
    """Put COCO's average precision among the settings of the score; returns what is said of it."""
    if people.record(0).box is None:
        return ""
    why = oks_unavailable(people)
    if why is not None:
        return f"no OKS-based average precision: {why}"
    chosen = np.flatnonzero(readable)
    points = published_points(people, predictions)[chosen]
    found = oks_precision(Subset(people, chosen.tolist()), points, predictions[chosen, :, 2])
    score.settings["oks"] = {"boxes": "of the labels", "sigmas": people.metric.oks_sigmas, **found}
    shown = ", ".join(f"{key} {100 * value:.1f}" for key, value in found.items() if not math.isnan(value))
    return f"COCO's OKS-based precision and recall by pycocotools, in the boxes of the labels: {shown}"


def _people_for(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, skeleton: Skeleton
) -> tuple[PeopleSource, list[list[int]]]:
    """The people of --dataset, and of which of the checkpoint's joints theirs are made."""
    arguments.dataset = arguments.dataset or "demo"
    people = open_dataset(arguments.dataset, arguments.root, arguments.split, allow_outside=arguments.allow_outside)
    origins = joint_origins(skeleton, people.skeleton)
    if origins is None:
        parser.error(
            f"--dataset {arguments.dataset} has the {len(people.skeleton)} joints of {people.skeleton.name}, "
            f"the checkpoint predicts the {len(skeleton)} of {skeleton.name}"
        )
    if people.skeleton.joints == skeleton.joints and people.skeleton.flip_permutation != skeleton.flip_permutation:
        parser.error(
            f"--dataset {arguments.dataset} has other mirror pairs than the checkpoint was trained with; "
            f"give its file these in flip_pairs: {skeleton.mirroring}"
        )
    return people, origins


def _report(
    arguments: argparse.Namespace,
    formats: list[str],
    output: Path,
    people: PeopleSource,
    score: Score,
    predictions: npt.NDArray[np.float32],
    default_name: str,
    oks: str,
) -> None:
    """Write the results and print them."""
    how = f"{'six scales' if arguments.scales == 6 else 'one scale'}, {'flip' if arguments.flip else 'no flip'}"
    name = arguments.name or default_name
    unreadable = score.settings["unreadable"]
    note = f"{how}, {unreadable} of {len(people)} without a readable image" if unreadable else how
    attributes = {k: score.settings[k] for k in ("checkpoint", "dataset", "split", "people", "precision")}
    files = write_predictions(output, people, predictions, formats, {**attributes, "testing": how})
    text, more = write_metrics(output, people.metric, score, name, people.name, note)
    files += [*more, *write_worst(output, people, predictions, name, people.name, arguments.worst)]
    print(f"{people.name}: {len(people)} people, {how}")
    print(f"{text}\n{oks}" if oks else text)
    share = score.settings.get("network_share")
    of_network = "" if share is None else f", {100 * share:.0f} % of the time in the network"
    print(f"{score.settings['people_per_second']:g} people a second{of_network}")
    _print_files(files)


def _print_files(files: list[Path]) -> None:
    print(f"wrote {files[0].parent}: {', '.join(file.name for file in files)}")


if __name__ == "__main__":
    keep_pages()
    sys.exit(cli.run(main))
