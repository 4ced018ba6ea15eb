"""`python -m bench.labels`: writes LSP-extended's labels again, without those that a network is sure are wrong.

LSP-extended was labeled by many people. Where a network finds arms or legs at the places of the other side's labels,
left and right are exchanged; where it is confident of a joint far from its label, the label is removed. OUTPUT becomes
a `train --root`: lspet_dataset/joints.mat as corrected, its images and everything else in DATA by links.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io
import torch

from bench.weights import evaluate_part
from pyranet_fast import cli
from pyranet_fast.data.dataset import PIXELS_PER_SCALE
from pyranet_fast.data.lsp import LSPExtendedSource
from pyranet_fast.evaluation.evaluator import SINGLE_SCALE
from pyranet_fast.inference.heatmaps import prepare
from pyranet_fast.io import atomic_write, output_folder
from pyranet_fast.keypoints import resolve_skeleton
from pyranet_fast.models.zoo import build_model, find_checkpoint, load_checkpoint, resolve_device
from pyranet_fast.pose import LSP

LIMBS = {"legs": ("ankle", "knee", "hip"), "arms": ("wrist", "elbow", "shoulder")}
# Lengths are in units of the crop's side.
FITS, MISFITS = 0.05, 0.075
"""Limbs are exchanged if the mean distance to the labels of the other side is below, and to their own above this."""
LEAST = 4
"""Labels of six that a pair of limbs needs."""
FAR, SURE = 0.12, 0.5
"""A label farther from the predicted joint than this is removed if the score is above that."""
KEPT = 3
"""Labels that a person keeps at least; with fewer nothing of the person is changed."""

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Corrected:
    """Labels as they should be.

    Attributes:
        joints: (N, 14, 2) pixels.
        labeled: (N, 14).
        exchanged: people whose sides were exchanged, by the name of the limbs.
        removed: number of labels that were removed.
    """

    joints: Float64Array
    labeled: BoolArray
    exchanged: dict[str, int]
    removed: int


def correct(joints: Float64Array, labeled: BoolArray, predictions: Float64Array, sides: Float64Array) -> Corrected:
    """Correct the labels of people by a network's predictions.

    Args:
        joints: (N, 14, 2) pixels.
        labeled: (N, 14).
        predictions: (N, 14, 3): x, y and score.
        sides: (N,) side of the crop of each person, pixels.
    """
    other = np.array(LSP.flip_permutation)
    new, known = joints.copy(), labeled.copy()

    def distances(labels: Float64Array) -> Float64Array:
        return np.asarray(np.linalg.norm(predictions[..., :2] - labels, axis=-1) / sides[:, None])

    def mean(values: Float64Array, seen: BoolArray) -> Float64Array:
        return np.asarray(np.where(seen, values, 0).sum(1) / np.maximum(1, seen.sum(1)))

    own, exchanged = distances(joints), distances(joints[:, other])
    counts = {}
    for name, parts in LIMBS.items():
        limbs = [at for at, joint in enumerate(LSP.joints) if joint.endswith(parts)]
        as_is, mirrored = (labeled[:, limbs], labeled[:, other[limbs]])
        swap = (as_is.sum(1) >= LEAST) & (mean(exchanged[:, limbs], mirrored) < FITS)
        swap &= mean(own[:, limbs], as_is) > MISFITS
        for at in limbs:
            new[swap, at], known[swap, at] = joints[swap, other[at]], labeled[swap, other[at]]
        counts[name] = int(swap.sum())
    wrong = known & (predictions[..., 2] > SURE) & (distances(new) > FAR)
    few = (known & ~wrong).sum(1) < KEPT
    new[few], known[few], wrong[few] = joints[few], labeled[few], False
    return Corrected(new, known & ~wrong, counts, int(wrong.sum()))


def main(argv: Sequence[str] | None = None) -> int:
    """Predicts everybody, corrects and writes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.labels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="file, or a name in models.available() (default: its first)")
    parser.add_argument("--root", required=True, help="folder that contains lspet_dataset/")
    parser.add_argument("--output", required=True, help="folder for links and lspet_dataset/joints.mat")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    arguments = cli.parse_arguments(parser, argv)
    torch.set_num_threads(arguments.threads)
    root, output = Path(arguments.root).resolve(), output_folder(arguments.output)
    people = LSPExtendedSource(root)
    path = find_checkpoint(arguments.checkpoint)
    checkpoint = load_checkpoint(path)
    size = checkpoint.input_size
    prepared = prepare(build_model(checkpoint, path), resolve_device("cpu"), arguments.precision, size, 32)
    skeleton = resolve_skeleton(checkpoint.skeleton)
    score, predictions = evaluate_part(prepared.network, skeleton, people, size, SINGLE_SCALE, prepared.autocast)
    every = [people.person(index) for index in range(len(people))]
    joints = np.stack([person.joints for person in every]).astype(np.float64)
    labeled = np.stack([person.labeled for person in every])
    sides = np.array([PIXELS_PER_SCALE * person.scale for person in every])
    found = correct(joints, labeled, predictions.astype(np.float64), sides)
    content = np.concatenate([found.joints + 1, found.labeled[..., None]], -1).transpose(1, 2, 0)  # pixels from 1
    folder = output_folder(output / "lspet_dataset")
    atomic_write(folder / "joints.mat", lambda file: scipy.io.savemat(file, {"joints": content}))
    _link(folder / "images", people.folder / "images")
    for entry in root.iterdir():
        if entry.name != "lspet_dataset":
            _link(output / entry.name, entry)
    sides_exchanged = ", ".join(f"{name} of {count}" for name, count in found.exchanged.items())
    print(
        f"{len(people)} people, {100 * float(score.mean):.1f} % of their joints as labeled (PCK@0.2); sides exchanged: "
        f"{sides_exchanged}; {found.removed} of {int(labeled.sum())} labels removed; wrote {folder / 'joints.mat'}"
    )
    return 0


def _link(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


if __name__ == "__main__":
    sys.exit(cli.run(main))
