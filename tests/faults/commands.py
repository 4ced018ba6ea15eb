"""What is killed: each command on a few synthetic people, small enough that it ends within seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyranet_fast import evaluate, predict, train
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data import pack
from pyranet_fast.data.image_io import write_image
from pyranet_fast.data.synthetic.source import SyntheticSource
from pyranet_fast.inference.video import VideoWriter
from pyranet_fast.models import PyraNet

NETWORK = {"stacks": 1, "features": 24, "depth": 2}
SIZE = 64
PEOPLE = {"train": 24, "val": 8}
FRAMES = 12


@dataclass(frozen=True)
class Command:
    """A command as it is killed and run again.

    Attributes:
        main: of the command's module.
        arguments: from the folder with the data; its results go to ``out`` in the current folder.
        resumes: whether a second run goes on from what the first one saved; otherwise it starts anew.
    """

    main: Callable[[Sequence[str]], int]
    arguments: Callable[[Path], list[str]]
    resumes: bool


def write_data(folder: Path, counts: dict[str, int] = PEOPLE) -> None:
    """Write people as PNG files with COCO labels, some of each split, a video of one, and an untrained network."""
    for split, count in counts.items():
        people = SyntheticSource(count, split=split)
        images, annotations = [], []
        for index in range(count):
            name = f"{split}_{index:02d}.png"
            pixels, points = people.image(index), people.person(index).joints.astype(float)
            write_image(folder / name, pixels)
            low, high = points.min(0), points.max(0)
            images.append({"id": index, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [*low, *(high - low)],
                    "keypoints": [value for x, y in points for value in (x, y, 2)],
                }
            )
        category = {"id": 1, "name": "person", "keypoints": list(people.skeleton.joints)}
        content = {"images": images, "annotations": annotations, "categories": [category]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    with VideoWriter(folder / "walk.mp4") as video:
        still = SyntheticSource(1).image(0)
        for frame in range(FRAMES):
            video.write(np.roll(still, 2 * frame, axis=1), frame / 25)
    torch.manual_seed(0)
    model = PyraNet(joints=len(people.skeleton), **NETWORK)
    save_checkpoint(folder / "net.pt", Checkpoint(model.config, model.state_dict(), people.skeleton.as_value(), SIZE))


def _people(data: Path) -> list[str]:
    return ["--dataset", f"coco:{data}/train.json,{data}/val.json", "--root", str(data)]


def train_arguments(data: Path, *more: str) -> list[str]:
    """Of the command, which writes to ``out``; the last of a flag counts."""
    flags = [f"--{name}={value}" for name, value in NETWORK.items()]
    return [
        *_people(data), *flags, "--input-size", str(SIZE), "--batch-size", "4", "--epochs", "2", "--ema", "0.9",
        "--device", "cpu", "--precision", "fp32", "--output", "out", *more,
    ]  # fmt: skip


def evaluate_arguments(data: Path) -> list[str]:
    """Of the command, on the training people; it writes to ``out``."""
    network = ["--checkpoint", str(data / "net.pt"), "--split", "train", "--batch-size", "4", "--worst", "2"]
    return [*_people(data), *network, "--device", "cpu", "--precision", "fp32", "--output", "out"]


def _pack(data: Path) -> list[str]:
    return [*_people(data), "--input-size", str(SIZE), "--splits", "train,val", "--output", "out/people.pack"]


def predict_arguments(data: Path, *more: str) -> list[str]:
    """Of the command, for all validation people; it writes to ``out``."""
    return _predict(data, *(str(data / f"val_{index:02d}.png") for index in range(PEOPLE["val"])), *more)


def track_arguments(data: Path) -> list[str]:
    """Of the command, for the video; it writes to ``out``."""
    return _predict(data, str(data / "walk.mp4"), "--track", "--write", "csv,jsonl")


def _predict(data: Path, *more: str) -> list[str]:
    return [
        *more, "--checkpoint", str(data / "net.pt"), "--device", "cpu", "--precision", "fp32", "--no-search",
        "--output", "out",
    ]  # fmt: skip


# A command that is added needs an entry here and nothing else.
COMMANDS: dict[str, Command] = {
    "train": Command(train.main, lambda data: train_arguments(data, "--save-every", "1"), resumes=True),
    "train, two loaders": Command(
        train.main, lambda data: train_arguments(data, "--workers", "2", "--no-cache"), resumes=True
    ),
    "evaluate": Command(evaluate.main, evaluate_arguments, resumes=True),
    "data.pack": Command(pack.main, _pack, resumes=False),
    "predict": Command(predict.main, predict_arguments, resumes=False),
    "predict, resumed": Command(predict.main, lambda data: predict_arguments(data, "--resume"), resumes=True),
    "predict, video": Command(predict.main, track_arguments, resumes=False),
}
