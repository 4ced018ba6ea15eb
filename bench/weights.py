"""`python -m bench.weights`: evaluates a network on all validation people and prints one table for the model card.

Leeds Sports Pose 1001-1500 at one scale and at six, the validation people of an MPII folder, whether scores tell a
person from an empty scene, and how far the expected accuracy can be trusted. Everything is with flipping.
Writes table.md, results.json and the calibration that `export_weights --calibration` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench import report
from pyranet_fast import cli
from pyranet_fast.data.dataset import PeopleSource, joint_origins
from pyranet_fast.data.left_out import with_images
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.evaluation.evaluator import SINGLE_SCALE, evaluate_pose
from pyranet_fast.evaluation.presence import measure_presence
from pyranet_fast.evaluation.worst_page import people_errors
from pyranet_fast.inference.calibration import Calibration, calibrate
from pyranet_fast.inference.heatmaps import SIX_SCALES, JointMaps, prepare
from pyranet_fast.io import atomic_write, output_folder
from pyranet_fast.keypoints import Skeleton, resolve_skeleton
from pyranet_fast.metrics import Score
from pyranet_fast.models.zoo import build_model, find_checkpoint, load_checkpoint, resolve_device

BINS = 10
LEEDS_STEP = 3
"""Of LSP's joints one in so many is calibrated with: there are twice as many as everyday people's, and harder ones."""
BEGIN, END = "<!-- weights: begin -->", "<!-- weights: end -->"

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Outcome(NamedTuple):
    """Joints with a label, or of nobody: their scores, whether they are right, and which picture they are from."""

    scores: Float64Array
    right: BoolArray
    pictures: npt.NDArray[np.int64]


def outcome(people: PeopleSource, predictions: npt.NDArray[np.float32]) -> Outcome:
    """The labeled joints of predictions (N, K, 3)."""
    errors = people_errors(people, predictions)
    scores = predictions[..., 2].astype(np.float64)
    known = np.isfinite(scores) & ~np.isnan(errors)
    names: dict[str, int] = {}
    numbers = [names.setdefault(people.image_name(index), len(names)) for index in range(len(people))]
    pictures = np.broadcast_to(np.array(numbers)[:, None], known.shape)
    return Outcome(scores[known], people.metric.right(errors[known]), pictures[known])


def fitted(parts: Sequence[Outcome]) -> Calibration:
    """The calibration of all joints of some parts, in twice as many bins as are looked at."""
    return calibrate(np.concatenate([p.scores for p in parts]), np.concatenate([p.right for p in parts]), 2 * BINS)


def thinned(measured: Outcome) -> Outcome:
    """Every `LEEDS_STEP`-th joint."""
    return Outcome(measured.scores[::LEEDS_STEP], measured.right[::LEEDS_STEP], measured.pictures[::LEEDS_STEP])


def expected_and_right(
    measured: Outcome, others: Sequence[Outcome], thin: bool = False
) -> tuple[Float64Array, Float64Array]:
    """What is expected of joints and what is right of them, in bins of equally many.

    A calibration that has seen half of the pictures, and the ``others``, is tried on the other half, and the other way
    round; where ``thin``, it has seen only some of the joints of that half, see `thinned`.

    Returns:
        (B,) the mean expectation of each bin, rising, and (B,) the share of right joints in it.
    """
    chances = np.empty(len(measured.scores))
    for half in (0, 1):
        seen = measured.pictures % 2 == half
        kept = Outcome(*(values[seen] for values in measured))
        chances[~seen] = fitted([thinned(kept) if thin else kept, *others]).chance(measured.scores[~seen])
    bins = np.array_split(np.argsort(chances, kind="stable"), BINS)
    return np.array([chances[b].mean() for b in bins]), np.array([measured.right[b].mean() for b in bins])


def evaluate_part(
    network: nn.Module, skeleton: Skeleton, people: PeopleSource, size: int, scales: Sequence[float], autocast: str
) -> tuple[Score, npt.NDArray[np.float32]]:
    """Score a network on people who may have other joints than it.

    Raises:
        UserError: the joints have nothing to do with the network's.
    """
    origins = joint_origins(skeleton, people.skeleton)
    if origins is None:
        raise UserError(f"the checkpoint has the joints of {skeleton.name!r}; those of MPII or LSP are needed")
    if people.skeleton.joints != skeleton.joints:
        network = JointMaps(network, origins).eval()
    return evaluate_pose(network, people, size, flip=True, scales=scales, precision=autocast)


def table(results: dict[str, Any]) -> str:
    """Markdown: the scores by joint, and the figures about confidence."""
    rows = results["scores"]
    columns = list(next(iter(rows.values()))["columns"])
    lines = report.markdown_table(
        ["", *columns, "Mean"],
        [
            [name, *(f"{row['columns'][column]:.1f}" for column in columns), f"{row['mean']:.2f}"]
            for name, row in rows.items()
        ],
    )
    presence = results["presence"]

    def pairs(kind: str) -> str:
        part = results["calibration"][kind]
        both = ", ".join(f"{e:.2f} {r:.2f}" for e, r in zip(part["expected"], part["right"], strict=True))
        return f"{both} (difference at most {part['worst']:.2f})"

    return "\n".join(
        [
            *lines,
            "",
            f"Area under the ROC curve of person or no person by mean score: {100 * presence['area']:.2f} % "
            f"({presence['people']} crops of everyday people, {presence['empty']} crops of their pictures outside "
            f"everybody's box); at a threshold that keeps 95 % of the people, "
            f"{100 * presence['mistaken_at_95']:.1f} % of the empty crops pass.",
            "",
            f"Expected and measured accuracy of joints in {BINS} bins, by calibrations fitted on other pictures; "
            f"everyday people: {pairs('everyday')}; LSP: {pairs('leeds')}.",
        ]
    )


def measure(
    checkpoint_or_name: str | None, root: str, input_size: int | None, precision: str, six: bool
) -> tuple[dict[str, Any], Calibration]:
    """All figures of a checkpoint, and the calibration that belongs to it."""
    path = find_checkpoint(checkpoint_or_name)
    checkpoint = load_checkpoint(path)
    skeleton = resolve_skeleton(checkpoint.skeleton)
    size = input_size or checkpoint.input_size
    device = resolve_device("cpu")
    prepared = prepare(build_model(checkpoint, path), device, precision, size, 32)
    network, autocast = prepared.network, prepared.autocast
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        leeds, everyday = (with_images(open_dataset(name, root, "val")) for name in ("lsp", "mpii"))
    parts: dict[str, tuple[PeopleSource, Sequence[float]]] = {
        f"LSP {leeds.name.removeprefix('lsp ')}, PCK@0.2, one scale": (leeds, SINGLE_SCALE)
    }
    if six:
        parts["the same, six scales"] = (leeds, SIX_SCALES)
    parts[f"{len(everyday)} of MPII, validation, PCKh@0.5, one scale"] = (everyday, SINGLE_SCALE)
    scores: dict[str, Any] = {}
    joints: dict[str, Outcome] = {}
    for name, (people, scales) in parts.items():
        score, predictions = evaluate_part(network, skeleton, people, size, scales, autocast)
        found = score.as_dict()
        scores[name] = {"mean": found["mean"], "columns": found["columns"]}
        print(f"{name}: {found['mean']:.2f}", flush=True)
        if scales == SINGLE_SCALE:
            joints[people.name] = outcome(people, predictions)
    presence = measure_presence(network, everyday, skeleton, size, precision=autocast)
    print(f"presence: {presence.as_dict()}", flush=True)
    kinds = {"everyday": (everyday, leeds), "leeds": (leeds, everyday)}
    calibration = {}
    for kind, (people, other) in kinds.items():
        thin = people is leeds
        others = [joints[other.name] if thin else thinned(joints[other.name])]
        expected, right = expected_and_right(joints[people.name], others, thin)
        calibration[kind] = {
            "expected": expected.round(4).tolist(),
            "right": right.round(4).tolist(),
            "worst": round(float(np.abs(expected - right).max()), 4),
        }
    results = {
        "checkpoint": str(checkpoint_or_name or path.stem),
        "input_size": size,
        "precision": prepared.precision,
        "parameters": sum(p.numel() for p in build_model(checkpoint, path).parameters()),
        "scores": scores,
        "presence": presence.as_dict(),
        "calibration": calibration,
    }
    return results, fitted([joints[everyday.name], thinned(joints[leeds.name])])


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="file, or a name in models.available() (default: its first)")
    parser.add_argument("--root", required=True, help="folder that contains lsp_dataset/ and mpii/")
    parser.add_argument("--output", default="weights", help="folder for the results (default: %(default)s)")
    parser.add_argument(
        "--input-size", type=int, default=None, help="input size in pixels (default: that of the checkpoint)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--six-scales", action=argparse.BooleanOptionalAction, default=True, help="(default: on)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--card", default=None, metavar="FILE", help=f"update the table between {BEGIN} and {END} in FILE"
    )
    arguments = cli.parse_arguments(parser, argv)
    torch.set_num_threads(arguments.threads)
    folder = output_folder(arguments.output)
    if arguments.card is not None:
        filled_in(arguments.card, "")  # fails now, not after the measurement
    results, calibration = measure(
        arguments.checkpoint, arguments.root, arguments.input_size, arguments.precision, arguments.six_scales
    )
    text = table(results)
    contents = {
        "results.json": json.dumps(results, indent=1),
        "calibration.json": json.dumps(calibration.as_dict()),
        "table.md": f"{text}\n",
    }
    for name, content in contents.items():
        atomic_write(folder / name, lambda file, content=content: file.write(content.encode()))
    print(text)
    if arguments.card is not None:
        card = filled_in(arguments.card, text)
        atomic_write(Path(arguments.card), lambda file: file.write(card.encode()))
    return 0


def filled_in(path: str, text: str) -> str:
    """A Markdown page with another text between its marks.

    Raises:
        UserError: the page cannot be read, or has not each mark once.
    """
    try:
        page = Path(path).read_text()
    except OSError as error:
        raise UserError(f"--card {path} cannot be read: {error.strerror or error}") from error
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise UserError(f"--card {path} needs {BEGIN} and {END}, once each and in this order")
    return page[: page.index(BEGIN) + len(BEGIN)] + f"\n{text}\n" + page[page.index(END) :]


if __name__ == "__main__":
    sys.exit(cli.run(main))
