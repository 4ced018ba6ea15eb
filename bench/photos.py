"""`python -m bench.photos`: accuracy in photos without boxes: people as they are, small, truncated and rotated.

Places the people of a data set's test split in larger photos, turns them or cuts them off, and predicts their poses
with and without the search for other crops. Prints and writes a table: correct joints (PCK@0.2, PCKh@0.5) of those that
are inside the photo, seconds a photo, the share of poses that are called trustworthy, and the correct joints of these.
The pictures show synthetic people, which anybody may publish.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bench import report, runner
from pyranet_fast import Predictor, cli
from pyranet_fast.data.dataset import Image, PeopleSource, Subset, joint_origins
from pyranet_fast.data.image_io import write_image
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.errors import UserError
from pyranet_fast.io import atomic_write, output_folder
from pyranet_fast.visualization import contact_sheet, draw_pose

Joints = npt.NDArray[np.float64]
Photo = tuple[Image, Joints]
CUT = 0.55


def as_it_is(image: Image, joints: Joints, other: Image, rng: np.random.Generator) -> Photo:
    """The image itself."""
    return image, joints


def in_a_larger_picture(times: int) -> Callable[[Image, Joints, Image, np.random.Generator], Photo]:
    """Pasted somewhere into another image, blurred, whose sides are so many times longer."""

    def place(image: Image, joints: Joints, other: Image, rng: np.random.Generator) -> Photo:
        height, width = image.shape[:2]
        # So blurred that nobody can be made out in it; before it is enlarged, which is the same for less work.
        ground: Image = np.asarray(cv2.resize(other, (width, height)), np.uint8)
        ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), max(ground.shape) / 12), np.uint8)
        ground = np.asarray(cv2.resize(ground, (times * width, times * height)), np.uint8)
        x, y = int(rng.integers((times - 1) * width + 1)), int(rng.integers((times - 1) * height + 1))
        ground[y : y + height, x : x + width] = image
        return ground, joints + np.array([x, y])

    return place


def upside_down(image: Image, joints: Joints, other: Image, rng: np.random.Generator) -> Photo:
    """Turned by 180 degrees."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[::-1, ::-1]), np.array([width - 1, height - 1]) - joints


def on_the_side(image: Image, joints: Joints, other: Image, rng: np.random.Generator) -> Photo:
    """Turned by 90 degrees counterclockwise."""
    turned = np.stack([joints[:, 1], image.shape[1] - 1 - joints[:, 0]], axis=1)
    return np.ascontiguousarray(np.rot90(image)), turned


def upper_part(image: Image, joints: Joints, other: Image, rng: np.random.Generator) -> Photo:
    """Cut off below 0.55 of the height of all joints."""
    low, high = joints[:, 1].min(), joints[:, 1].max()
    return image[: int(np.clip(low + CUT * (high - low), 16, len(image)))], joints


PHOTOS: dict[str, Callable[[Image, Joints, Image, np.random.Generator], Photo]] = {
    "as it is": as_it_is,
    "half as large": in_a_larger_picture(2),
    "a third as large": in_a_larger_picture(3),
    "upside down": upside_down,
    "on the side": on_the_side,
    "upper part": upper_part,
}


def photos(people: PeopleSource, kind: str, count: int) -> list[tuple[Image, Joints, npt.NDArray[np.bool_], float]]:
    """Image, joints, which of them are annotated and inside it, reference length; the same for the same arguments."""
    rng = np.random.default_rng(0)
    found = []
    for index in np.linspace(0, len(people) - 1, min(count, len(people))).astype(int).tolist():
        person, other = people.person(index), people.image(int(rng.integers(len(people))))
        image, joints = PHOTOS[kind](people.image(index), person.joints.astype(np.float64), other, rng)
        inside = ((joints > -0.5) & (joints < np.array(image.shape[1::-1]) - 0.5)).all(axis=1)
        found.append((image, joints, person.labeled & inside, people.reference_length(index)))
    return found


def accuracy_of(predictor: Predictor, people: PeopleSource, kind: str, count: int) -> dict[str, Any]:
    """Accuracy and time of a predictor on one kind of photo.

    Raises:
        UserError: the people and the network have different joints.
    """
    origins = joint_origins(predictor.skeleton, people.skeleton)
    if origins is None:
        raise UserError(
            f"--dataset has the joints of {people.skeleton.name!r} and the checkpoint those of "
            f"{predictor.skeleton.name!r}; the same are needed, or MPII's and LSP's"
        )
    right, trusted, seconds = [], [], 0.0
    for image, joints, visible, length in photos(people, kind, count):
        start = time.perf_counter()
        pose = predictor(image)
        seconds += time.perf_counter() - start
        found = np.stack([pose.joints[places].mean(axis=0) for places in origins])
        near = np.linalg.norm(found - joints, axis=1) < people.metric.threshold * length
        right.append(near[visible])
        trusted.append(bool(pose.trustworthy))
    sure = [hits for hits, trust in zip(right, trusted, strict=True) if trust]
    return {
        "photo": kind,
        "search": predictor.search,
        "right": 100 * float(np.concatenate(right).mean()),
        "seconds": seconds / len(right),
        "trusted": 100 * len(sure) / len(right),
        "right_of_trusted": 100 * float(np.concatenate(sure).mean()) if sure else float("nan"),
    }


def accuracy_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each kind of photo."""
    head = ["photo", "right, whole image", "with the search", "seconds", "with the search", "trusted", "right of them"]
    body = []
    for kind in dict.fromkeys(row["photo"] for row in rows):
        plain, searched = sorted((row for row in rows if row["photo"] == kind), key=lambda row: bool(row["search"]))
        accuracy = [f"{row['right']:.1f} %" for row in (plain, searched)]
        seconds = [f"{row['seconds']:.3f}" for row in (plain, searched)]
        trust = [f"{searched['trusted']:.0f} %", f"{searched['right_of_trusted']:.1f} %"]
        body.append([kind, *accuracy, *seconds, *trust])
    return "\n".join(report.markdown_table(head, body))


def sheet(predictor: Predictor, images: Sequence[Image], names: Sequence[str]) -> Image:
    """Images with the predicted poses, three in a row, and the share of joints expected to be right below each."""
    cells, captions = [], []
    for image, name in zip(images, names, strict=True):
        pose = predictor(image)
        cells.append(draw_pose(image, pose.joints, pose.scores, predictor.skeleton))
        expected = "" if pose.chances is None else f"{pose.chances.mean():.0%} expected right"
        captions.append(", ".join(part for part in (name, expected) if part))
    return contact_sheet(cells, columns=3, cell=300, captions=captions)


def worst(predictor: Predictor, people: PeopleSource, count: int = 6) -> list[tuple[int, str]]:
    """Indices of the people with the fewest correct joints (PCKh@0.5), and captions.

    Only joints that both skeletons have by name count.
    """
    names = [name for name in predictor.skeleton.joints if name in people.skeleton.joints]
    ours, theirs = ([s.index(name) for name in names] for s in (predictor.skeleton, people.skeleton))
    shares = []
    for index in range(len(people)):
        away = np.linalg.norm(predictor(people.image(index)).joints[ours] - people.person(index).joints[theirs], axis=1)
        shares.append(float((away < people.metric.threshold * people.reference_length(index)).mean()))
    return [(int(i), f"{shares[i]:.0%} right") for i in np.argsort(shares, kind="stable")[:count]]


def draw_pictures(predictor: Predictor, folder: Path) -> None:
    """Writes people.jpg (six synthetic people), photos.jpg (one of each kind) and failures.jpg (the worst of 60)."""
    people = open_dataset("demo", None, "test", count=60)
    write_image(folder / "people.jpg", sheet(predictor, [people.image(index) for index in range(6)], [""] * 6))
    made = [photos(Subset(people, range(12)), kind, 12)[6 + number][0] for number, kind in enumerate(PHOTOS)]
    write_image(folder / "photos.jpg", sheet(predictor, made, list(PHOTOS)))
    failed = worst(predictor, people)
    write_image(folder / "failures.jpg", sheet(predictor, [people.image(i) for i, _ in failed], [t for _, t in failed]))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes table and pictures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.photos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="file, or a name in models.available() (default: its first)")
    parser.add_argument("--dataset", default="lsp", help="demo, lsp, mpii, packed:FILE, … (default: %(default)s)")
    parser.add_argument("--root", help="folder that contains lsp_dataset/, mpii/; not for demo and packed:FILE")
    parser.add_argument("--count", type=int, default=100, help="people per condition (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--output", default="photos", help="folder for table.md and images (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count must be a positive integer, got {arguments.count}")
    torch.set_num_threads(arguments.threads)
    folder = output_folder(arguments.output)
    people = open_dataset(arguments.dataset, arguments.root, "test")
    rows = []
    for search in (False, True):
        predictor = Predictor(arguments.checkpoint, "cpu", search=search)
        predictor(np.zeros((8, 8, 3), np.uint8))
        for kind in PHOTOS:
            rows.append(accuracy_of(predictor, people, kind, arguments.count))
            print(f"{kind}, {'with' if search else 'without'} the search: {rows[-1]['right']:.1f} %", flush=True)
    draw_pictures(predictor, folder)
    text = f"{accuracy_table(rows)}\n\n{runner.machine('cpu', arguments.threads)}; `{runner.command()}`\n"
    atomic_write(folder / "table.md", lambda file: file.write(text.encode()))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
