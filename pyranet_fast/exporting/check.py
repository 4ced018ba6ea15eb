"""Check of an exported file against its checkpoint: differences, PCK and run times."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import ops
from ..data import PeopleSource, Subset
from ..data.crops import ScaledCrops
from ..data.image_io import read_image
from ..data.transforms import crop
from ..errors import UserError
from ..evaluation.evaluator import score_predictions
from ..inference.crop_search import whole_image
from ..inference.exported import ONNX, OPENVINO, ExportedNetwork
from ..inference.heatmaps import decode, score_maps
from ..keypoints import Skeleton
from ..models import PyraNet, optimize_for_inference

MAPS, JOINTS = 1e-4, 0.01
"""Largest differences of a right float32 file: of score maps, whose peaks are about 1, and of joints in pixels."""
TIED = 1e-3
"""Share of joints that may move farther: where two pixels are equal but for rounding, either may win."""
LOST = 2.0
"""Points of PCK that an int8 file may lose."""
ROUNDS, LEAST_ROUNDS = 15, 3
SECONDS = 20.0
"""After which no further round begins."""
_BATCH = 16
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Crops:
    """Crops for a check.

    Attributes:
        images: (N, 3, S, S) uint8 RGB.
        inverse: (N, 2, 3), crop to image pixels.
        frames: (N, 4) positions of the published images, see ``PeopleSource.frame``; None without people.
        people: labeled joints, if known.
        name: source of the crops.
    """

    images: Tensor
    inverse: npt.NDArray[np.float64]
    frames: npt.NDArray[np.float64] | None
    people: PeopleSource | None
    name: str


def crops_of_people(people: PeopleSource, count: int, input_size: int, skeleton: Skeleton) -> Crops:
    """Return crops of ``count`` people (0: all), evenly spaced in a dataset."""
    total = len(people)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total) if count else total).round().astype(int))
    some = Subset(people, chosen.tolist())
    crops = ScaledCrops(some, input_size, (1.0,))
    items = [crops[i] for i in range(len(some))]
    images = torch.cat([item["images"] for item in items])
    same = people.skeleton.joints == skeleton.joints
    inverse, frames = (np.stack([item[name].numpy() for item in items]) for name in ("inverse", "frame"))
    return Crops(images, inverse, frames, some if same else None, some.name)


def crops_of_images(folder: str | Path, count: int, input_size: int) -> Crops:
    """Return entire images of a folder, the first ``count`` by name (0: all).

    Raises:
        UserError: no folder, or no image in it.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES) if folder.is_dir() else []
    paths = paths[: count or None]
    if not paths:
        raise UserError(f"{folder} must hold images ({', '.join(_PICTURES)}), got none")
    made = []
    for path in paths:
        image = read_image(path)
        made.append(crop(image, whole_image(image.shape).matrix(input_size), input_size).transpose(2, 0, 1))
    inverse = np.tile(np.eye(2, 3), (len(made), 1, 1))
    return Crops(torch.from_numpy(np.stack(made)), inverse, None, None, f"{len(made)} images of {folder}")


@dataclass
class Form:
    """One way to run the network.

    Attributes:
        name: name in the table.
        model: model for `score_maps`.
        file: file of the model, if any.
        backend: backend of this package's operators.
    """

    name: str
    model: nn.Module
    file: Path | None = None
    backend: str | None = None

    def __call__(self, images: Tensor, skeleton: Skeleton, flip: bool) -> tuple[Float32, Float32, Float32]:
        """Score maps, joints (N, K, 2) in pixels of the crop and scores (N, K) of uint8 images (N, 3, S, S)."""
        if isinstance(self.model, ExportedNetwork) and self.model.description.decoded:
            made = self.model.decoded(images)
            return made["heatmaps"], made["joints"], made["scores"]
        with ops.backend(self.backend) if self.backend else contextlib.nullcontext():
            maps = score_maps(self.model, images, skeleton, flip=flip, device="cpu")
            joints, scores = decode(maps, np.tile(np.eye(2, 3), (len(images), 1, 1)))
        return maps.numpy(), joints, scores


def forms_of(model: PyraNet, files: Sequence[tuple[str, Path]]) -> list[Form]:
    """Return the network in PyTorch, optimized by this package, and in every runtime that reads a file.

    Args:
        model: from the checkpoint.
        files: path by name, such as ``"int8"``.
    """
    forms = [Form("pyranet_fast", optimize_for_inference(model)), Form("PyTorch", model, backend="reference")]
    for name, path in files:
        forms.append(Form(f"{_RUNTIMES[path.suffix]} {name}", ExportedNetwork(path), path))
        if path.suffix == ONNX and importlib.util.find_spec("openvino") is not None:
            forms.append(Form(f"{_RUNTIMES[OPENVINO]} {name}", ExportedNetwork(path, "openvino"), path))
    return forms


_RUNTIMES = {ONNX: "onnxruntime", OPENVINO: "OpenVINO", ".pt2": "torch"}


@dataclass(frozen=True)
class Row:
    """Row of a form in the table.

    Attributes:
        maps, joints: largest difference from the first form's, joints in pixels of the crop.
        moved: number of joints farther from the first form's than `JOINTS`, and number of all joints.
        pck: percent; NaN without labels.
        megabytes: of its file, 10^6 bytes; NaN without one.
        milliseconds: a crop, from uint8 pixels to joints; the median of rounds in which all forms take turns.
        best: the same for the fastest round, least affected by load.
    """

    name: str
    precision: str
    maps: float
    joints: float
    moved: tuple[int, int]
    pck: float
    megabytes: float
    milliseconds: float
    best: float


def compare(forms: Sequence[Form], crops: Crops, skeleton: Skeleton, *, flip: bool, rounds: int = ROUNDS) -> list[Row]:
    """Run every form on all crops; differences are from the first."""
    results = [_run(form, crops.images, skeleton, flip) for form in forms]
    times = _times(forms, crops.images[:1], skeleton, flip, rounds)
    exact_maps, exact_joints, _ = results[0]
    rows = []
    for form, (maps, joints, scores), taken in zip(forms, results, times, strict=True):
        distance = np.linalg.norm(joints - exact_joints, axis=-1)
        pck = math.nan
        if crops.people is not None:
            placed = np.einsum("nij,nkj->nki", crops.inverse[:, :, :2], joints) + crops.inverse[:, None, :, 2]
            predictions = np.concatenate([placed, scores[..., None]], -1).astype(np.float32)
            pck = score_predictions(crops.people, predictions, None, crops.frames).mean
        exported = form.model if isinstance(form.model, ExportedNetwork) else None
        rows.append(
            Row(
                form.name,
                exported.description.precision if exported else "float32",
                float(np.abs(maps - exact_maps).max()),
                float(distance.max()),
                (int((distance > JOINTS).sum()), distance.size),
                pck,
                math.nan if form.file is None else _megabytes(form.file),
                statistics.median(taken),
                min(taken),
            )
        )
    return rows


def _megabytes(path: Path) -> float:
    parts = [path, path.with_suffix(".bin")] if path.suffix == OPENVINO else [path]
    return sum(part.stat().st_size for part in parts) / 1e6


def _run(form: Form, images: Tensor, skeleton: Skeleton, flip: bool) -> tuple[Float32, Float32, Float32]:
    parts = [form(batch, skeleton, flip) for batch in images.split(_BATCH)]
    maps, joints, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return maps, joints, scores


def _times(forms: Sequence[Form], image: Tensor, skeleton: Skeleton, flip: bool, rounds: int) -> list[list[float]]:
    """Milliseconds of one crop; the forms take turns, so that other load slows all of them equally."""
    times: list[list[float]] = [[] for _ in forms]
    end = time.perf_counter() + SECONDS
    for turn in range(rounds + 1):
        if turn > LEAST_ROUNDS and time.perf_counter() > end:
            break
        for form, taken in zip(forms, times, strict=True):
            started = time.perf_counter()
            form(image, skeleton, flip)
            if turn:  # the first prepares
                taken.append(1000 * (time.perf_counter() - started))
    return times


def table(rows: Sequence[Row], metric: str) -> str:
    """Format the rows as a Markdown table."""
    head = ("form", metric, "maps differ", "joints differ / px", "file / MB", "ms a crop", "best")
    cells = [
        (
            row.name,
            _number(row.pck, "{:.2f}"),
            f"{row.maps:.1e}",
            f"{row.joints:.3f}" + (f" ({row.moved[0]} of {row.moved[1]} moved)" if row.moved[0] else ""),
            _number(row.megabytes, "{:.2f}"),
            f"{row.milliseconds:.1f}",
            f"{row.best:.1f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)


def faults(rows: Sequence[Row]) -> list[str]:
    """Return one sentence per failed check."""
    found, first = [], rows[0]
    for row in rows:
        if row.megabytes != row.megabytes:
            continue
        moved, joints = row.moved
        if row.precision == "int8":
            lost = first.pck - row.pck
            if lost > LOST:
                found.append(f"{row.name}: PCK may drop by at most {LOST:g} points, got {lost:.2f}")
        elif not row.maps <= MAPS:
            found.append(f"{row.name}: score maps may differ by at most {MAPS:g}, got {row.maps:.1e}")
        elif moved > TIED * joints:
            found.append(
                f"{row.name}: {moved} of {joints} joints differ by more than {JOINTS:g} px, up to {row.joints:.2f}; "
                f"at most {TIED:.1%} of them may"
            )
    return found


def verdict(rows: Sequence[Row]) -> list[str]:
    """Return one sentence per runtime on whether int8 helps."""
    said = []
    for row in rows:
        if row.precision != "int8":
            continue
        runtime = row.name.split()[0]
        base = next((r for r in rows if r.precision == "float32" and r.name.split()[0] == runtime), None)
        if base is None or math.isnan(base.megabytes):
            continue
        speed, size = base.best / row.best, row.megabytes / base.megabytes
        unknown = "; without people of these joints (--root, --dataset) what it loses is not known"
        lost = unknown if math.isnan(row.pck) else f", PCK {row.pck - base.pck:+.2f} points"
        what = f"{speed:.2f}x float32's speed, {size:.2f} of its size{lost}"
        pays = "pays" if speed >= 1.1 else "pays for the size alone" if speed >= 0.95 else "does not pay here"
        said.append(f"int8 in {runtime} {pays}: {what}")
    return said
