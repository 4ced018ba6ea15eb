"""`python -m bench.photos`: people in photos without a box, as they are, small, cut off and turned.

People of a data set's test split are put into larger pictures, turned, or cut off, and looked for with and without the
search for other framings. Prints and writes a table: right joints (PCK@0.2, PCKh@0.5) of those that are in the picture,
seconds a photo, and how many poses are called trustworthy, with the right joints among them. Pictures are of synthetic
people, whom everybody may show.
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

from bench import record
from pyranet_fast import Predictor, cli
from pyranet_fast.data.dataset import Image, PeopleSource, Subset
from pyranet_fast.data.image_io import write_image
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.errors import UserError
from pyranet_fast.io import atomic_write, output_folder
from pyranet_fast.visualization import contact_sheet, draw_pose

Floats = npt.NDArray[np.float64]
Photo = tuple[Image, Floats]
# Right within this share of the unit of length.
WITHIN = {"pck": 0.2, "pckh": 0.5}
CUT = 0.55


def as_it_is(image: Image, joints: Floats, other: Image, rng: np.random.Generator) -> Photo:
    """The picture itself."""
    return image, joints


def in_a_larger_picture(times: int) -> Callable[[Image, Floats, Image, np.random.Generator], Photo]:
    """Somewhere in another picture, blurred, whose sides are so many times longer."""

    def place(image: Image, joints: Floats, other: Image, rng: np.random.Generator) -> Photo:
        height, width = image.shape[:2]
        # Blurred until nobody can be made out in it.
        ground: Image = np.asarray(cv2.resize(other, (times * width, times * height)), np.uint8)
        ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), max(ground.shape) / 12), np.uint8)
        x, y = int(rng.integers((times - 1) * width + 1)), int(rng.integers((times - 1) * height + 1))
        ground[y : y + height, x : x + width] = image
        return ground, joints + np.array([x, y])

    return place


def upside_down(image: Image, joints: Floats, other: Image, rng: np.random.Generator) -> Photo:
    """Turned by 180 degrees."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[::-1, ::-1]), np.array([width - 1, height - 1]) - joints


def on_the_side(image: Image, joints: Floats, other: Image, rng: np.random.Generator) -> Photo:
    """Turned by 90 degrees counter-clockwise."""
    turned = np.stack([joints[:, 1], image.shape[1] - 1 - joints[:, 0]], axis=1)
    return np.ascontiguousarray(np.rot90(image)), turned


def upper_part(image: Image, joints: Floats, other: Image, rng: np.random.Generator) -> Photo:
    """Cut off below 0.55 of the height of all joints."""
    low, high = joints[:, 1].min(), joints[:, 1].max()
    return image[: int(np.clip(low + CUT * (high - low), 16, len(image)))], joints


PHOTOS: dict[str, Callable[[Image, Floats, Image, np.random.Generator], Photo]] = {
    "as it is": as_it_is,
    "half as large": in_a_larger_picture(2),
    "a third as large": in_a_larger_picture(3),
    "upside down": upside_down,
    "on the side": on_the_side,
    "upper part": upper_part,
}


def photos(people: PeopleSource, kind: str, count: int) -> list[tuple[Image, Floats, npt.NDArray[np.bool_], float]]:
    """Image, joints, which of them are labelled and in it, unit of length; the same for the same arguments."""
    rng = np.random.default_rng(0)
    found = []
    for index in np.linspace(0, len(people) - 1, min(count, len(people))).astype(int).tolist():
        person, other = people.person(index), people.image(int(rng.integers(len(people))))
        image, joints = PHOTOS[kind](people.image(index), person.joints.astype(np.float64), other, rng)
        inside = ((joints > -0.5) & (joints < np.array(image.shape[1::-1]) - 0.5)).all(axis=1)
        found.append((image, joints, person.labelled & inside, people.reference_length(index)))
    return found


def measure(predictor: Predictor, people: PeopleSource, kind: str, count: int) -> dict[str, Any]:
    """What a predictor makes of one kind of photos.

    Raises:
        UserError: the people have other joints than the network.
    """
    if people.skeleton.joints != predictor.skeleton.joints:
        raise UserError(
            f"--dataset has the joints of {people.skeleton.name!r} and the checkpoint those of "
            f"{predictor.skeleton.name!r}; the same are needed"
        )
    right, trusted, seconds = [], [], 0.0
    for image, joints, visible, length in photos(people, kind, count):
        start = time.perf_counter()
        pose = predictor(image)
        seconds += time.perf_counter() - start
        near = np.linalg.norm(pose.joints - joints, axis=1) < people.metric.threshold * length
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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line a kind of photo."""
    lines = [
        "| photo | right, whole image | with the search | seconds | with the search | trusted | right of them |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in dict.fromkeys(row["photo"] for row in rows):
        plain, searched = sorted((row for row in rows if row["photo"] == kind), key=lambda row: bool(row["search"]))
        lines.append(
            f"| {kind} | {plain['right']:.1f} % | {searched['right']:.1f} % | {plain['seconds']:.3f} "
            f"| {searched['seconds']:.3f} | {searched['trusted']:.0f} % | {searched['right_of_trusted']:.1f} % |"
        )
    return "\n".join(lines)


def sheet(predictor: Predictor, images: Sequence[Image], names: Sequence[str]) -> Image:
    """Pictures with what was found in them, three in a row, and how many of its joints are expected to be right."""
    cells, captions = [], []
    for image, name in zip(images, names, strict=True):
        pose = predictor(image)
        cells.append(draw_pose(image, pose.joints, pose.scores, predictor.skeleton))
        expected = "" if pose.chances is None else f"{pose.chances.mean():.0%} expected right"
        captions.append(", ".join(part for part in (name, expected) if part))
    return contact_sheet(cells, columns=3, cell=300, captions=captions)


def worst(predictor: Predictor, people: PeopleSource, count: int = 6) -> list[tuple[int, str]]:
    """Indices of the people of whom the fewest joints are right (PCKh@0.5), and what to write below them.

    Joints are those that both skeletons have by name.
    """
    names = [name for name in predictor.skeleton.joints if name in people.skeleton.joints]
    ours, theirs = ([s.index(name) for name in names] for s in (predictor.skeleton, people.skeleton))
    shares = []
    for index in range(len(people)):
        away = np.linalg.norm(predictor(people.image(index)).joints[ours] - people.person(index).joints[theirs], axis=1)
        shares.append(float((away < people.metric.threshold * people.reference_length(index)).mean()))
    return [(int(i), f"{shares[i]:.0%} right") for i in np.argsort(shares, kind="stable")[:count]]


def draw(predictor: Predictor, folder: Path) -> None:
    """people.jpg: six synthetic people as they are; photos.jpg: one in each kind; failures.jpg: the worst of 60."""
    people = open_dataset("demo", None, "test", count=60)
    write_image(folder / "people.jpg", sheet(predictor, [people.image(index) for index in range(6)], [""] * 6))
    made = [photos(Subset(people, range(12)), kind, 12)[6 + number][0] for number, kind in enumerate(PHOTOS)]
    write_image(folder / "photos.jpg", sheet(predictor, made, list(PHOTOS)))
    failed = worst(predictor, people)
    write_image(folder / "failures.jpg", sheet(predictor, [people.image(i) for i, _ in failed], [t for _, t in failed]))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.photos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="file, or a name in models.available() (default: the first one there)")
    parser.add_argument("--dataset", default="lsp", help="demo, lsp, mpii, packed:FILE, … (default: %(default)s)")
    parser.add_argument("--root", help="folder that holds lsp_dataset/, mpii/; none for demo and packed:FILE")
    parser.add_argument("--count", type=int, default=100, help="people of each kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--output", default="photos", help="folder for table.md and pictures (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count is {arguments.count}; a whole number above 0 is accepted")
    torch.set_num_threads(arguments.threads)
    folder = output_folder(arguments.output)
    people = open_dataset(arguments.dataset, arguments.root, "test")
    rows = []
    for search in (False, True):
        predictor = Predictor(arguments.checkpoint, "cpu", search=search)
        predictor(np.zeros((8, 8, 3), np.uint8))
        for kind in PHOTOS:
            rows.append(measure(predictor, people, kind, arguments.count))
            print(f"{kind}, {'with' if search else 'without'} the search: {rows[-1]['right']:.1f} %", flush=True)
    draw(predictor, folder)
    text = f"{table(rows)}\n\n{record.machine('cpu', arguments.threads)}; `{record.command()}`\n"
    atomic_write(folder / "table.md", lambda file: file.write(text.encode()))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
