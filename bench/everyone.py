"""`python -m bench.everyone`: multi-person prediction in photos without boxes, compared with ground-truth boxes.

Predicts the people of a data set's pictures by `Predictor.everyone`, by one pose in each picture, and in the boxes
around their labeled joints. A person is found where an unmatched pose has an object keypoint similarity (OKS) of at
least 0.5; poses are matched in the order of their scores, as COCO does. Prints and writes a table: recall, recall of
people who are at least a sixth of the picture high and alone in their box, precision, COCO's AP, seconds a picture.
Where a data set leaves people without labels, as MPII does, poses of these count as wrong: precision and AP are then
bounds from below. The processor's seconds are those of all threads together, and mean something on a busy machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bench import report, runner
from pyranet_fast import Predictor, cli
from pyranet_fast.data.dataset import Image, PeopleSource
from pyranet_fast.data.image_io import write_image
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.errors import UserError
from pyranet_fast.inference.result import Pose
from pyranet_fast.io import atomic_write, output_folder
from pyranet_fast.keypoints import Skeleton
from pyranet_fast.metrics import keypoint_similarity, oks_sigmas, pose_areas
from pyranet_fast.visualization import contact_sheet, draw_poses

Array = npt.NDArray[Any]
FOUND = 0.5  # the least similarity of a found person
HIGH, OVERLAP = 1 / 6, 0.2  # of the picture's height; of a box that others' boxes cover, for people who are "alone"
ALIASES = {"neck": "upper neck", "upper neck": "neck"}  # LSP's name and MPII's for about the same joint


@dataclass
class Scene:
    """A picture with its labeled people, joints in the order of `Common`.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        joints, labeled: (M, K, 2) and (M, K).
        boxes: (M, 4), x, y, w, h around the labeled joints, widened by a tenth of their longer sides.
        easy: (M,), at least a sixth of the picture high and alone.
    """

    image: Image
    joints: Array
    labeled: Array
    boxes: Array
    easy: Array


class Common:
    """The joints that a network and a data set share, by their names."""

    def __init__(self, network: Skeleton, people: Skeleton) -> None:
        pairs = [
            (at, people.joints.index(known))
            for at, name in enumerate(network.joints)
            if (known := name if name in people.joints else ALIASES.get(name, "")) in people.joints
        ]
        if len(pairs) < 5:
            raise UserError(f"--dataset and the checkpoint share {len(pairs)} joints; expected at least 5")
        self.network, self.people = ([pair[side] for pair in pairs] for side in (0, 1))
        self.sigmas = oks_sigmas([network.joints[at] for at in self.network])


def scenes(people: PeopleSource, common: Common, count: int, side: int | None = None) -> list[Scene]:
    """The first images of a data set, each with all its people who have at least five of the shared joints.

    Args:
        people: of the data set.
        common: joints to keep.
        count: maximum number of images.
        side: resize images to this longer side, pixels; None: as they are.
    """
    groups: dict[Any, list[int]] = {}
    for index in range(len(people)):
        groups.setdefault(people.record(index).image_id, []).append(index)
    made = []
    for indices in list(groups.values())[:count]:
        persons = [people.person(index) for index in indices]
        labeled = np.stack([person.labeled[common.people] for person in persons])
        joints = np.stack([person.joints[common.people] for person in persons]).astype(np.float64)
        full = labeled.sum(axis=1) >= 5
        joints, labeled = joints[full], labeled[full]
        low = np.where(labeled[..., None], joints, np.inf).min(axis=1, initial=np.inf)
        high = np.where(labeled[..., None], joints, -np.inf).max(axis=1, initial=-np.inf)
        pad = 0.1 * (high - low).max(axis=1, initial=0.0, keepdims=True)
        boxes = np.concatenate([low - pad, high - low + 2 * pad], axis=1)
        image = people.image(indices[0])
        if side is not None:
            times = side / max(image.shape[:2])
            image = np.asarray(cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR), np.uint8)
            low, high, joints, boxes = low * times, high * times, joints * times, boxes * times
        tall = (high - low)[:, 1] >= HIGH * len(image)
        made.append(Scene(image, joints, labeled, boxes, tall & (_covered(boxes) <= OVERLAP)))
    return made


def _covered(boxes: Array) -> Array:
    """The largest share of each box that another one covers."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    share = sides.clip(0).prod(axis=2) / boxes[:, 2:].prod(axis=1)[:, None]
    np.fill_diagonal(share, 0)
    return np.asarray(share.max(axis=1, initial=0.0))


def matches(similarity: Array, scores: Array) -> list[int]:
    """For each pose (N, M similarities) the person it is matched to, or -1, best scores first."""
    taken, found = np.zeros(similarity.shape[1], dtype=bool), [-1] * len(scores)
    for at in np.argsort(-scores, kind="stable"):
        free = np.where(taken, -1.0, similarity[at])
        if free.size and free.max() >= FOUND:
            found[at] = int(free.argmax())
            taken[found[at]] = True
    return found


def score(made: Sequence[Scene], poses: Sequence[Sequence[Pose]], common: Common) -> dict[str, Any]:
    """Recall, precision and AP, in percent."""
    found = easy = right = total = 0
    for scene, people in zip(made, poses, strict=True):
        total += len(people)
        if not people or not len(scene.joints):
            continue
        joints = np.stack([pose.joints[common.network] for pose in people])
        alike = keypoint_similarity(joints, scene.joints, common.sigmas, labeled=scene.labeled)
        hit = [m for m in matches(alike, np.array([pose.mean_score for pose in people])) if m >= 0]
        found += len(hit)
        right += len(hit)
        easy += int(scene.easy[hit].sum())
    labels, alone = sum(len(scene.easy) for scene in made), int(sum(scene.easy.sum() for scene in made))
    return {
        "people": labels,
        "easy people": alone,
        "poses": total,
        "recall": 100 * found / max(1, labels),
        "recall of easy people": 100 * easy / max(1, alone),
        "precision": 100 * right / max(1, total),
        **_coco_precision(made, poses, common),
    }


def _coco_precision(made: Sequence[Scene], poses: Sequence[Sequence[Pose]], common: Common) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (scene, people) in enumerate(zip(made, poses, strict=True), 1):
        areas = pose_areas(scene.joints, scene.labeled)
        for joints, labeled, box, area in zip(scene.joints, scene.labeled, scene.boxes, areas, strict=True):
            keypoints = np.where(labeled[:, None], np.column_stack([joints, 2 * labeled]), 0.0)
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
            }
            annotation |= {"keypoints": keypoints.ravel().tolist(), "num_keypoints": int(labeled.sum())}
            annotations.append(annotation | {"bbox": box.tolist(), "area": float(area)})
        for pose in people:
            keypoints = np.column_stack([pose.joints[common.network], np.ones(len(common.network))])
            results.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": keypoints.ravel().tolist(),
                    "score": pose.mean_score,
                }
            )
    if not results or not annotations:
        return {"AP": 0.0, "AP50": 0.0}
    truth = COCO()
    images = [{"id": number} for number in range(1, len(made) + 1)]
    truth.dataset = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array([0.079 if s is None else s for s in common.sigmas])
        evaluation.params.areaRng = [[0, 1e10]] * 3  # people of all sizes: COCO leaves those below 32 x 32 pixels out
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": 100 * float(evaluation.stats[0]), "AP50": 100 * float(evaluation.stats[1])}


def measure(predictor: Predictor, made: Sequence[Scene], way: str) -> tuple[list[list[Pose]], float, float]:
    """The poses of each picture, seconds and seconds of the processor a picture."""
    predictor(np.zeros((8, 8, 3), np.uint8))
    poses, seconds, processor = [], 0.0, 0.0
    for number, scene in enumerate(made, 1):
        begin = time.perf_counter(), time.process_time()
        if way == "everyone":
            poses.append(predictor.everyone(scene.image))
        elif way == "one person":
            poses.append([predictor(scene.image)])
        else:
            poses.append(predictor.predict_batch([scene.image] * len(scene.boxes), scene.boxes.tolist()))
        seconds += time.perf_counter() - begin[0]
        processor += time.process_time() - begin[1]
        if sys.stderr.isatty():
            print(f"\r{way}: {number} of {len(made)}", end="", file=sys.stderr, flush=True)
    return poses, seconds / max(1, len(made)), processor / max(1, len(made))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each way."""
    shares = ["recall", "recall of easy people", "precision", "AP", "AP50"]
    head = ["", "poses", *shares, "s/picture", "CPU s/picture"]
    body = [
        [
            row["way"],
            str(row["poses"]),
            *(f"{row[name]:.1f} %" for name in shares),
            f"{row['seconds']:.2f}",
            f"{row['processor']:.2f}",
        ]
        for row in rows
    ]
    return "\n".join(report.markdown_table(head, body))


def sheet(made: Sequence[Scene], poses: Sequence[Sequence[Pose]], common: Common, skeleton: Skeleton) -> Image:
    """The pictures with the most mistakes, missed people and wrong poses together, most first."""
    rows = []
    for scene, people in zip(made, poses, strict=True):
        hits = 0
        if people and len(scene.joints):
            joints = np.stack([pose.joints[common.network] for pose in people])
            alike = keypoint_similarity(joints, scene.joints, common.sigmas, labeled=scene.labeled)
            hits = sum(m >= 0 for m in matches(alike, np.array([pose.mean_score for pose in people])))
        rows.append((len(scene.joints) - hits, len(people) - hits, scene, people))
    rows.sort(key=lambda row: -(row[0] + row[1]))
    cells, captions = [], []
    for missed, wrong, scene, people in rows[:24]:
        cells.append(draw_poses(scene.image, [(pose.joints, pose.scores) for pose in people], skeleton))
        captions.append(f"{missed} missed, {wrong} wrong or unlabeled")
    return contact_sheet(cells, columns=6, cell=256, captions=captions)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes the table, its figures and a sheet of failures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.everyone", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="file, or a name in models.available() (default: its first)")
    parser.add_argument("--searcher", help="file or name of the network for the crop search (default: see Predictor)")
    parser.add_argument("--dataset", default="mpii", help="demo, mpii, coco:FILE, … (default: %(default)s)")
    parser.add_argument("--root", help="folder that contains mpii/, …; not for demo and packed:FILE")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="maximum number of images (default: %(default)s)")
    parser.add_argument("--side", type=int, help="resize images to this longer side in pixels (default: as they are)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--output", default="everyone", help="folder for table.md, figures.json, failures.jpg (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count must be at least 1, got {arguments.count}")
    if arguments.side is not None and arguments.side < 1:
        parser.error(f"--side must be at least 1, got {arguments.side}")
    torch.set_num_threads(arguments.threads)
    folder = output_folder(arguments.output)
    people = open_dataset(arguments.dataset, arguments.root, arguments.split)
    searcher: Any = "auto" if arguments.searcher is None else Predictor(arguments.searcher, "cpu", precision="auto")
    predictor = Predictor(arguments.checkpoint, "cpu", precision="auto", searcher=searcher)
    common = Common(predictor.skeleton, people.skeleton)
    made = scenes(people, common, arguments.count, arguments.side)
    rows = []
    for way in ("everyone", "one person", "true boxes"):
        poses, seconds, processor = measure(predictor, made, way)
        rows.append({"way": way, **score(made, poses, common), "seconds": seconds, "processor": processor})
        print(
            f"{way}: {seconds:.2f} s, recall {rows[-1]['recall']:.1f} %, precision {rows[-1]['precision']:.1f} %",
            flush=True,
        )
        if way == "everyone":
            write_image(folder / "failures.jpg", sheet(made, poses, common, predictor.skeleton))
    said = (
        f"{len(made)} pictures, {rows[0]['people']} labeled people. {rows[0]['easy people']} of them are easy: at "
        f"least a sixth of the picture high and alone (others' boxes cover at most {OVERLAP:.0%} of theirs). "
        f"{len(common.network)} joints count. Poses of people without labels count as wrong."
    )
    text = f"{table(rows)}\n\n{said}\n\n{runner.machine('cpu', arguments.threads)}; `{runner.command()}`\n"
    atomic_write(folder / "table.md", lambda file: file.write(text.encode()))
    atomic_write(folder / "figures.json", lambda file: file.write(json.dumps(rows, indent=2).encode()))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
