"""Your own people in COCO's keypoint format: one JSON file, any joints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..keypoints import Skeleton, flip_pairs_from_names
from ..metrics import box_metric
from .annotations import AnnotatedSource, Annotations, is_held_out, number_field, read_json
from .dataset import PIXELS_PER_SCALE

# The crop's side in longer sides of the person's box, as for boxes given to the predictor.
_MARGIN = 1.25


class COCOSource(AnnotatedSource):
    """People of a COCO keypoint file.

    ``images`` lists ``id`` and ``file_name`` (which may hold folders), ``annotations`` the people: ``image_id``,
    ``category_id``, ``keypoints`` [x, y, v] for each joint, labeled where v > 0, and ``bbox`` [x, y, width,
    height]. ``categories`` gives the joints, see ``skeleton_from_category``.

    Keypoints are taken as 0-based pixel indices: (0, 0) is the center of the first pixel. The box counts from
    the picture's corner, as the predictor's does: its center is half a pixel less. The crop is the square of 1.25
    times the box's longer side; the metric is PCK-box@0.05, in units of that longer side.

    Attributes:
        skipped: number of annotations left out, by reason; ``notes`` lists them.
    """

    def __init__(self, path: str | Path, root: str | Path = ".", part: str = "all") -> None:
        """Open a file.

        Args:
            path: the JSON file, relative to ``root`` or absolute; ``.json.gz`` too.
            root: folder of the images; they are looked for there, in ``root/images`` and beside the JSON file:
                in the first of these that has the first image.
            part: ``"all"``, ``"train"`` or ``"val"``: all images, nine tenths of them, or the tenth
                that is held out by a hash of its file name and so is always the same.

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
        self.skeleton, self._has_keypoints, self.notes = _read_categories(lists["categories"], self.path)
        self.metric = box_metric(self.skeleton)
        self.skipped: Counter[str] = Counter()
        self._outside = 0
        self._annotations = self._read(lists["annotations"], _images_by_id(lists["images"], self.path))
        if not len(self._annotations):
            raise UserError(f"{self.path} holds no annotation with keypoints{_counts(self.skipped)}")
        if part != "all":
            self._choose(part)
        self.name = f"coco {self.path.name}" + ("" if part == "all" else f" {part}")
        notes = [f"{count} annotations {reason} were left out" for reason, count in sorted(self.skipped.items())]
        if self._outside:
            notes.append(f"{self._outside} labeled joints lie outside their image; they count like all others")
        self.notes += tuple(f"{self.path}: {note}" for note in notes)
        self._image_folder = self._find_images(Path(root))

    def _read(self, annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, Mapping[str, Any]]) -> Annotations:
        names, joints, labeled, centers, scales, sides = [], [], [], [], [], []
        self._ids = {image["file_name"]: key for key, image in images.items()}
        count = len(self.skeleton)
        for number, entry in enumerate(annotations):
            where = f"{self.path}: annotation {entry.get('id', f'number {number}')}"
            reason = self._reason_to_skip(entry, where)
            if reason:
                self.skipped[reason] += 1
                continue
            points = number_field(entry, "keypoints", (3 * count,), where).reshape(count, 3)
            if not np.any(points[:, 2] > 0):
                self.skipped["without labeled keypoints"] += 1
                continue
            key = entry.get("image_id")
            image = images.get(key) if isinstance(key, int | str) else None
            if image is None:
                raise UserError(f"{where}: image_id is {key!r}; the id of one of the images is accepted")
            x, y, width, height = number_field(entry, "bbox", (4,), where)
            if width <= 0 or height <= 0:
                raise UserError(f"{where}: bbox has width {width:g} and height {height:g}; both must be above 0")
            self._outside += _joints_outside(points, image)
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

    def _reason_to_skip(self, entry: Mapping[str, Any], where: str) -> str | None:
        if entry.get("iscrowd"):
            return "of crowds"
        category = entry.get("category_id")
        if not isinstance(category, int | str) or category not in self._has_keypoints:
            raise UserError(f"{where}: category_id is {category!r}; the id of one of the categories is accepted")
        if not self._has_keypoints[category]:
            return "of categories without keypoints"
        return None if entry.get("keypoints") else "without keypoints"

    def _choose(self, part: str) -> None:
        """Keep the people of a part."""
        names = self._annotations.names
        self._annotations = self._annotations.select([is_held_out(name) == (part == "val") for name in names])
        if not len(self._annotations):
            raise UserError(
                f"{self.path}: none of its {len(set(names))} images with people falls into part {part!r} (a "
                "tenth of the images is held out by their names); give two files: coco:TRAIN.json,VAL.json"
            )

    def _find_images(self, root: Path) -> Path:
        folders = [root, root / "images", self.path.parent]
        first = self._annotations.names[0]
        for folder in folders:
            if (folder / first).is_file():
                return folder
        tried = ", ".join(dict.fromkeys(map(str, folders)))
        raise UserError(f"{self.path}: its first image {first} is in none of {tried}")

    def available(self) -> list[int]:
        """Return the indices of the people whose image is there."""
        there = {name: (self._image_folder / name).is_file() for name in set(self._annotations.names)}
        return [index for index, name in enumerate(self._annotations.names) if there[name]]

    def image_id(self, index: int) -> int | str:
        found: int | str = self._ids[self._annotations.names[index]]
        return found


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
    train = read_skeleton(Path(root) / paths[0])
    if (train.joints, train.flip_pairs) != (held_out.skeleton.joints, held_out.skeleton.flip_pairs):
        raise UserError(
            f"{held_out.path} has other joints than {Path(root) / paths[0]}: {', '.join(held_out.skeleton.joints)} "
            f"instead of {', '.join(train.joints)}"
        )
    return held_out


def read_skeleton(path: Path) -> Skeleton:
    """Return the skeleton of a COCO file; UserError where it cannot be read or has none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; a COCO object is accepted")
    return _read_categories(_objects(content, "categories", path), path)[0]


def _objects(content: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        got = "is missing" if value is None else f"is a {type(value).__name__} with other things in it"
        raise UserError(f"{path}: {name} {got}; a list of objects is accepted")
    if not value:
        raise UserError(f"{path}: {name} is empty; at least one is needed")
    return value


def _read_categories(categories: list[dict[str, Any]], path: Path) -> tuple[Skeleton, dict[Any, bool], tuple[str, ...]]:
    """The one skeleton of the categories, by id whether a category has keypoints, and notes."""
    found: list[tuple[Skeleton, tuple[str, ...]]] = []
    ids: dict[Any, bool] = {}
    for category in categories:
        if not isinstance(category.get("id"), int | str):
            raise UserError(f"{path}: a category has id {category.get('id')!r}; a number is accepted")
        ids[category["id"]] = bool(category.get("keypoints"))
        if ids[category["id"]]:
            found.append(skeleton_from_category(category, f"{path}: category {category.get('name')!r}"))
    if not found:
        raise UserError(f"{path}: no category has keypoints; one needs a list of joint names")
    first = found[0]
    for skeleton, _ in found[1:]:
        if (skeleton.joints, skeleton.flip_pairs) != (first[0].joints, first[0].flip_pairs):
            raise UserError(
                f"{path}: categories {first[0].name} and {skeleton.name} have different joints; all need the same"
            )
    return first[0], ids, first[1]


def skeleton_from_category(category: Mapping[str, Any], where: str) -> tuple[Skeleton, tuple[str, ...]]:
    """Return the skeleton of a category of a COCO keypoint file.

    Args:
        category: object with ``name``, ``keypoints`` (K names), optionally ``skeleton`` (pairs of joint numbers
            from 1) and ``flip_pairs`` (pairs of names, or of joint indices from 0). Without ``flip_pairs`` joints
            whose names differ in their side alone mirror each other, see ``keypoints.sides_of``.
        where: what messages call it.

    Returns:
        The skeleton, and notes for the user.

    Raises:
        UserError: a field is not as above.
    """
    name = category.get("name", "person")
    joints = category.get("keypoints")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: name is {name!r}; a text is accepted")
    if not isinstance(joints, list) or not joints or not all(isinstance(j, str) and j.strip() for j in joints):
        raise UserError(f"{where}: keypoints is {joints!r}; a list of joint names is accepted")
    bones = _bones(category.get("skeleton") or [], joints, where)
    notes: tuple[str, ...] = ()
    if "flip_pairs" in category:
        flip_pairs = _given_flip_pairs(category["flip_pairs"], joints, where)
    else:
        flip_pairs, unpaired = flip_pairs_from_names(joints)
        if unpaired:
            names = ", ".join(map(repr, unpaired))
            notes = (
                f"{where}: no partner on the other side for {names}, so a mirrored picture keeps the name; if there "
                "is one, give the category a field flip_pairs: all pairs of joint names, or [] to say that none mirror",
            )
        elif not flip_pairs:
            notes = (
                f"{where}: no left and right found in the joint names, so a mirrored picture keeps every joint's "
                "name; if joints have sides, give the category a field flip_pairs, or [] to say that there are none",
            )
    try:
        return Skeleton(f"coco:{name}", tuple(joints), tuple(flip_pairs), tuple(bones)), notes
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _bones(value: Any, joints: Sequence[str], where: str) -> list[tuple[int, int]]:
    bones = []
    for pair in _list_of_pairs(value, f"{where}: skeleton", "joint numbers from 1"):
        if not all(type(number) is int and 1 <= number <= len(joints) for number in pair):
            raise UserError(f"{where}: skeleton holds {pair!r}; pairs of joint numbers 1 to {len(joints)} are accepted")
        bones.append((pair[0] - 1, pair[1] - 1))
    return bones


def _given_flip_pairs(value: Any, joints: Sequence[str], where: str) -> list[tuple[int, int]]:
    where = f"{where}: flip_pairs"
    accepted = f"pairs of joint names, or of joint indices 0 to {len(joints) - 1}, are accepted"
    pairs: list[tuple[int, int]] = []
    for pair in _list_of_pairs(value, where, "joint names or indices from 0"):
        indices = []
        for joint in pair:
            if isinstance(joint, str) and joint in joints:
                indices.append(joints.index(joint))
            elif type(joint) is int and 0 <= joint < len(joints):
                indices.append(joint)
            else:
                raise UserError(f"{where} holds {joint!r}; {accepted}")
        first, second = min(indices), max(indices)
        if first == second:
            raise UserError(f"{where} holds {pair!r}; two different joints are accepted")
        if (first, second) not in pairs:  # some write both directions
            pairs.append((first, second))
    return pairs


def _list_of_pairs(value: Any, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}; a list of pairs of {what} is accepted")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where} holds {pair!r}; a list of pairs of {what} is accepted")
    return value


def _images_by_id(images: list[dict[str, Any]], path: Path) -> dict[Any, dict[str, Any]]:
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


def _joints_outside(points: np.ndarray, image: Mapping[str, Any]) -> int:
    """How many labeled joints lie outside an image whose size the file gives."""
    size = [image.get("width"), image.get("height")]
    if not all(isinstance(side, int | float) for side in size):
        return 0
    inside = np.all((points[:, :2] >= -0.5) & (points[:, :2] <= np.array(size, dtype=np.float64) - 0.5), axis=1)
    return int(np.sum((points[:, 2] > 0) & ~inside))


def _counts(skipped: Mapping[str, int]) -> str:
    return "".join(f"; {count} {reason}" for reason, count in sorted(skipped.items()))
