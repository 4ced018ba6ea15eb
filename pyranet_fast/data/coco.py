"""Your own people in COCO's keypoint format: one JSON file, any joints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..keypoints import Skeleton, skeleton_of
from ..metrics import box_metric
from .annotations import Annotations, is_held_out, numbers, read_json
from .dataset import PIXELS_PER_SCALE, Image, PeopleSource, Person
from .image_io import read_image

# The crop's side in longer sides of the person's box, as for boxes given to the predictor.
_MARGIN = 1.25


class COCOSource(PeopleSource):
    """People of a COCO keypoint file.

    ``images`` lists ``id`` and ``file_name`` (which may hold folders), ``annotations`` the people: ``image_id``,
    ``category_id``, ``keypoints`` [x, y, v] for each joint, labeled where v > 0, and ``bbox`` [x, y, width,
    height]. ``categories`` gives the joints, see ``skeleton_of``.

    Keypoints are taken as 0-based pixel indices: (0, 0) is the center of the first pixel. The box counts from
    the picture's corner, as the predictor's does: its center is half a pixel less. The crop is the square of 1.25
    times the box's longer side; the metric is PCK-box@0.05, in units of that longer side.

    Attributes:
        skipped: number of annotations left out, by reason; ``notes`` says them.
    """

    def __init__(self, path: str | Path, root: str | Path = ".", part: str = "all") -> None:
        """Open a file.

        Args:
            path: the JSON file, relative to ``root`` or absolute; ``.json.gz`` too.
            root: folder of the images; they are looked for there, in ``root/images`` and beside the JSON file:
                in the first of these that has the first image.
            part: ``"all"``, ``"train"`` or ``"val"``: all images, nine tenths of them, or the tenth
                that is held out by a hash of its file name, which is always the same.

        Raises:
            UserError: a file or folder is missing, the JSON or one of its fields is not as described, the part
                is empty, or there is not a single image.
        """
        if part not in ("all", "train", "val"):
            raise UserError(f"unknown part {part!r}; all, train and val are accepted")
        self.path = Path(root) / path
        content = read_json(self.path)
        if not isinstance(content, dict):
            raise UserError(f"{self.path} holds a {type(content).__name__}; a COCO object is accepted")
        lists = {name: _objects(content, name, self.path) for name in ("images", "annotations", "categories")}
        self.skeleton, self._categories, self.notes = _joints_of(lists["categories"], self.path)
        self.metric = box_metric(self.skeleton)
        self.skipped: Counter[str] = Counter()
        self._outside = 0
        table = self._people(lists["annotations"], _image_records(lists["images"], self.path))
        if not len(table):
            raise UserError(f"{self.path} holds no annotation with keypoints{_listed(self.skipped)}")
        if part != "all":
            kept = table.chosen(np.array([is_held_out(name) for name in table.names]) == (part == "val"))
            if not len(kept):
                raise UserError(
                    f"{self.path}: none of its {len(set(table.names))} images with people falls into part {part!r} (a "
                    "tenth of the images is held out by their names); give two files: coco:TRAIN.json,VAL.json"
                )
            table = kept
        self._table = table
        self.name = f"coco {self.path.name}" + ("" if part == "all" else f" {part}")
        notes = [f"{count} annotations {reason} were left out" for reason, count in sorted(self.skipped.items())]
        if self._outside:
            notes.append(f"{self._outside} labeled joints lie outside their image; they count like all others")
        self.notes += tuple(f"{self.path}: {note}" for note in notes)
        self._folder = self._image_folder(Path(root))

    def _people(self, annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, Mapping[str, Any]]) -> Annotations:
        names, joints, labeled, centers, scales, sides = [], [], [], [], [], []
        self._ids = {image["file_name"]: key for key, image in images.items()}
        count = len(self.skeleton)
        for number, entry in enumerate(annotations):
            where = f"{self.path}: annotation {entry.get('id', f'number {number}')}"
            if entry.get("iscrowd"):
                self.skipped["of crowds"] += 1
                continue
            kind = entry.get("category_id")
            if not isinstance(kind, int | str) or kind not in self._categories:
                raise UserError(f"{where}: category_id is {kind!r}; the id of one of the categories is accepted")
            if not self._categories[kind]:
                self.skipped["of categories without keypoints"] += 1
                continue
            if not entry.get("keypoints"):
                self.skipped["without keypoints"] += 1
                continue
            points = numbers(entry, "keypoints", (3 * count,), where).reshape(count, 3)
            if not np.any(points[:, 2] > 0):
                self.skipped["without labeled keypoints"] += 1
                continue
            key = entry.get("image_id")
            image = images.get(key) if isinstance(key, int | str) else None
            if image is None:
                raise UserError(f"{where}: image_id is {key!r}; the id of one of the images is accepted")
            x, y, width, height = numbers(entry, "bbox", (4,), where)
            if width <= 0 or height <= 0:
                raise UserError(f"{where}: bbox has width {width:g} and height {height:g}; both must be above 0")
            self._outside += _outside(points, image)
            names.append(image["file_name"])
            joints.append(points[:, :2])
            labeled.append(points[:, 2] > 0)
            centers.append((x + width / 2 - 0.5, y + height / 2 - 0.5))
            sides.append(max(width, height))
            scales.append(_MARGIN * sides[-1] / PIXELS_PER_SCALE)
        return Annotations(
            names,
            np.array(joints, dtype=np.float64).reshape(-1, count, 2),
            np.array(labeled, dtype=bool).reshape(-1, count),
            np.array(centers, dtype=np.float64).reshape(-1, 2),
            np.array(scales, dtype=np.float64),
            np.array(sides, dtype=np.float64),
        )

    def _image_folder(self, root: Path) -> Path:
        folders = [root, root / "images", self.path.parent]
        first = self._table.names[0]
        for folder in folders:
            if (folder / first).is_file():
                return folder
        tried = ", ".join(dict.fromkeys(map(str, folders)))
        raise UserError(f"{self.path}: its first image {first} is in none of {tried}")

    def __len__(self) -> int:
        return len(self._table)

    def available(self) -> list[int]:
        """Return the indices of the people whose image is there."""
        there = {name: (self._folder / name).is_file() for name in set(self._table.names)}
        return [index for index, name in enumerate(self._table.names) if there[name]]

    def image(self, index: int) -> Image:
        return read_image(self._folder / self._table.names[index])

    def image_name(self, index: int) -> str:
        return self._table.names[index]

    def image_id(self, index: int) -> int | str:
        found: int | str = self._ids[self._table.names[index]]
        return found

    def person(self, index: int) -> Person:
        return self._table.person(index)

    def reference_length(self, index: int) -> float:
        return float(self._table.lengths[index])


def open_coco(files: str, root: str | Path, split: str) -> COCOSource:
    """Open ``split`` of ``"TRAIN.json"`` or ``"TRAIN.json,VAL.json"``; ``"val"`` and ``"test"`` are the same.

    Raises:
        UserError: as for ``COCOSource``, more than two files, or two files with different joints.
    """
    whole = (Path(root) / files).is_file()  # a comma may be part of a name
    paths = [files] if whole else [part.strip() for part in files.split(",")]
    if not 1 <= len(paths) <= 2 or not all(paths):
        raise UserError(f"dataset 'coco:{files}' names {len(paths)} files; coco:TRAIN.json[,VAL.json] is accepted")
    if len(paths) == 1:
        return COCOSource(paths[0], root, "train" if split == "train" else "val")
    if split == "train":
        return COCOSource(paths[0], root)
    held_out = COCOSource(paths[1], root)
    train = skeleton_in(Path(root) / paths[0])
    if (train.joints, train.flip_pairs) != (held_out.skeleton.joints, held_out.skeleton.flip_pairs):
        raise UserError(
            f"{held_out.path} has other joints than {Path(root) / paths[0]}: {', '.join(held_out.skeleton.joints)} "
            f"instead of {', '.join(train.joints)}"
        )
    return held_out


def skeleton_in(path: Path) -> Skeleton:
    """Return the skeleton of a COCO file; UserError where it cannot be read or has none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; a COCO object is accepted")
    return _joints_of(_objects(content, "categories", path), path)[0]


def _objects(content: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        got = "is missing" if value is None else f"is a {type(value).__name__} with other things in it"
        raise UserError(f"{path}: {name} {got}; a list of objects is accepted")
    if not value:
        raise UserError(f"{path}: {name} is empty; at least one is needed")
    return value


def _joints_of(categories: list[dict[str, Any]], path: Path) -> tuple[Skeleton, dict[Any, bool], tuple[str, ...]]:
    """The one skeleton of the categories, by id whether a category has keypoints, and notes."""
    found: list[tuple[Skeleton, tuple[str, ...]]] = []
    ids: dict[Any, bool] = {}
    for category in categories:
        if not isinstance(category.get("id"), int | str):
            raise UserError(f"{path}: a category has id {category.get('id')!r}; a number is accepted")
        ids[category["id"]] = bool(category.get("keypoints"))
        if ids[category["id"]]:
            found.append(skeleton_of(category, f"{path}: category {category.get('name')!r}"))
    if not found:
        raise UserError(f"{path}: no category has keypoints; one needs a list of joint names")
    first = found[0]
    for skeleton, _ in found[1:]:
        if (skeleton.joints, skeleton.flip_pairs) != (first[0].joints, first[0].flip_pairs):
            raise UserError(
                f"{path}: categories {first[0].name} and {skeleton.name} have different joints; all need the same"
            )
    return first[0], ids, first[1]


def _image_records(images: list[dict[str, Any]], path: Path) -> dict[Any, dict[str, Any]]:
    records = {}
    for number, image in enumerate(images):
        name, key = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: image {key!r}: file_name is {name!r}; a path is accepted")
        if not isinstance(key, int | str):
            raise UserError(f"{path}: image number {number} has id {key!r}; a number is accepted")
        if key in records:
            raise UserError(f"{path}: two images have id {key!r}; each needs an id of its own")
        records[key] = image
    return records


def _outside(points: np.ndarray, image: Mapping[str, Any]) -> int:
    """How many labeled joints lie outside an image whose size the file gives."""
    size = [image.get("width"), image.get("height")]
    if not all(isinstance(side, int | float) for side in size):
        return 0
    inside = np.all((points[:, :2] >= -0.5) & (points[:, :2] <= np.array(size, dtype=np.float64) - 0.5), axis=1)
    return int(np.sum((points[:, 2] > 0) & ~inside))


def _listed(skipped: Mapping[str, int]) -> str:
    return "".join(f"; {count} {reason}" for reason, count in sorted(skipped.items()))
