"""Your own people in COCO's keypoint format: one JSON file, any joints."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnreadableImageError, UserError
from ..io import reader, reading
from ..keypoints import Skeleton, flip_pairs_from_names
from ..metrics import box_metric, oks_sigmas
from .annotations import AnnotatedSource, Annotations, is_held_out, number_field, read_json
from .dataset import PIXELS_PER_SCALE, Image, PersonRecord
from .image_io import image_size
from .left_out import LeftOut

# The crop's side in longer sides of the person's box, as for boxes given to the predictor.
_MARGIN = 1.25

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Labels:
    """One annotation that has keypoints.

    Attributes:
        name: of the image, with slashes.
        where: what messages call the annotation.
        points: (K, 3) x, y, v.
        box: (4,) x, y, width, height, as the file has them.
        size: width and height of the image as the file has them, or None.
        record: ids, category, box and area.
    """

    name: str
    where: str
    points: Float64Array
    box: Float64Array
    size: tuple[float, float] | None
    record: PersonRecord

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.points[:, 2] > 0)

    @property
    def center(self) -> Float64Array:
        return self.box[:2] + self.box[2:] / 2 - 0.5

    @property
    def side(self) -> float:
        return float(self.box[2:].max())

    def in_crop(self) -> npt.NDArray[np.bool_]:
        """(K,) which labeled joints lie inside the crop that the network sees."""
        apart = np.abs(self.points[:, :2] - self.center).max(axis=1)
        return np.asarray(self.labeled & (apart <= _MARGIN * self.side / 2))


class COCOSource(AnnotatedSource):
    """People of a COCO keypoint file.

    ``images`` lists ``id`` and ``file_name`` (which may contain folders; backslashes are read as slashes if there is no
    such file), ``annotations`` the people: ``image_id``, ``category_id``, ``keypoints`` [x, y, v] for each joint,
    labeled where v > 0, and ``bbox`` [x, y, width, height]. ``categories`` names the joints, see
    ``skeleton_from_category``; several categories may have joints if they are the same.

    Keypoints are 0-based pixel indices: (0, 0) is the center of the first pixel. The box starts at
    the corner of the image, as the predictor's does: its center is shifted by half a pixel. The crop is the square of
    1.25 times the box's longer side; the metric is PCK-box@0.05, in units of that longer side.

    People with invalid labels are left out: a box that is empty, outside the image, relative to its size, or given as
    two corners; labeled joints that are not finite, or none of them in the crop; an image whose size, after EXIF
    orientation, differs from the file. ``notes`` counts them by reason.

    Attributes:
        left_out: number of people left out, by reason.
        categories: names of the categories with joints, by id.
    """

    def __init__(
        self, path: str | Path, root: str | Path = ".", part: str = "all", *, allow_outside: bool = False
    ) -> None:
        """Open a file.

        Args:
            path: the JSON file, relative to ``root`` or absolute; ``.json.gz`` too.
            root: folder of the images; they are looked for there, in ``root/images`` and beside the JSON file:
                in the one that holds most of them.
            part: ``"all"``, ``"train"`` or ``"val"``: all images, nine tenths of them, or the tenth
                that is held out by a hash of its file name and so is always the same.
            allow_outside: images may lie outside of the folder that they are looked for in: absolute names, ``..``,
                and links that lead out of it.

        Raises:
            UserError: a file or folder is missing, an image lies outside, the JSON or one of its fields is not as
                described, the part is empty, no person is left, or there is not a single image.
        """
        if part not in ("all", "train", "val"):
            raise UserError(f"part must be all, train or val, got {part!r}")
        self.path = Path(root) / path
        with reading(self.path, "a COCO keypoint file"):
            self._open(Path(root), part, allow_outside)

    def _open(self, root: Path, part: str, allow_outside: bool) -> None:
        content = read_json(self.path)
        if not isinstance(content, dict):
            raise UserError(f"{self.path} must hold a COCO object, got {type(content).__name__}")
        lists = {name: _objects(content, name, self.path) for name in ("images", "annotations", "categories")}
        categories = _read_categories(lists["categories"], self.path)
        self.skeleton, self.categories = categories.skeleton, categories.names
        self.metric = box_metric(self.skeleton, categories.oks_sigmas)
        self.name = f"coco {self.path.name}" + ("" if part == "all" else f" {part}")

        self._reasons, self._total = LeftOut(), 0
        people = self._read(lists["annotations"], _images_by_id(lists["images"], self.path), categories, part)
        people = _without_wrong_boxes(people, self._reasons)
        if not people:
            self._raise_nobody(part)
        self._image_folder, found = _find_images(self.path, root, [person.name for person in people])
        if not allow_outside:
            _refuse_outside(self.path, self._image_folder, found)
        people = [replace(person, name=name) for person, name in zip(people, found, strict=True)]
        self._sizes = {person.name: person.size for person in people if person.size is not None}
        people = self._without_wrong_sizes(people)
        if not people:
            self._raise_nobody(part)
        self._annotations = _as_annotations(people, len(self.skeleton))
        self.left_out = self._reasons.counts()
        self.notes = (*categories.notes, *self._notes(people))

    def _read(
        self,
        annotations: Sequence[Mapping[str, Any]],
        images: Mapping[Any, Mapping[str, Any]],
        categories: _Categories,
        part: str,
    ) -> list[_Labels]:
        """The people of a part that have labels which are numbers; the others are counted."""
        people: list[_Labels] = []
        count, self._images = len(self.skeleton), set()
        for number, entry in enumerate(annotations):
            where = f"{self.path}: annotation {entry.get('id', f'number {number}')}"
            image = _of(images, entry.get("image_id"))
            name = "" if image is None else str(image["file_name"])
            if part != "all" and image is not None:
                self._images.add(name)
                if is_held_out(name) != (part == "val"):
                    continue
            self._total += 1
            person = _read_person(entry, where, image, categories, count)
            if isinstance(person, str):
                self._reasons.add(person, name, first=where.removeprefix(f"{self.path}: "))
            else:
                people.append(person)
        return people

    def _raise_nobody(self, part: str) -> None:
        if part != "all" and not self._total:
            raise UserError(
                f"{self.path}: none of its {len(self._images)} images with people falls into part {part!r} (a "
                "tenth of the images is held out by their names); give two files: coco:TRAIN.json,VAL.json"
            )
        raise UserError(f"{self.path}: none of {self._total} annotations can be used: {self._reasons.reasons()}")

    def _without_wrong_sizes(self, people: list[_Labels]) -> list[_Labels]:
        """Return the people whose image has the size given in the file, judged by its header."""
        names = sorted(self._sizes)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            found = dict(zip(names, pool.map(lambda name: image_size(self._image_folder / name), names), strict=True))
        kept = []
        for person in people:
            size = found.get(person.name)
            if size is not None and person.size is not None and not _same_size(size, person.size):
                first = f"{person.name} has {size[0]} x {size[1]} pixels, the file says {_times(person.size)}"
                self._reasons.add("whose picture has another size than the file says", person.name, first=first)
            else:
                kept.append(person)
        return kept

    def _notes(self, people: list[_Labels]) -> list[str]:
        notes = [self._reasons.sentence(self._total)] if self._reasons else []
        outside = sum(map(_joints_outside, people))
        if outside:
            notes.append(f"{outside} labeled joints lie outside their image; they count like all others")
        return [f"{self.path}: {note}" for note in notes]

    def image(self, index: int) -> Image:
        image = super().image(index)
        name = self._annotations.names[index]
        said = self._sizes.get(name)
        if said is not None and not _same_size((image.shape[1], image.shape[0]), said):
            raise UnreadableImageError(
                f"image {self._image_folder / name} has {image.shape[1]} x {image.shape[0]} pixels, "
                f"{self.path.name} says {_times(said)}",
                "has another size than the file says",
            )
        return image

    def available(self) -> list[int]:
        """Return the indices of the people whose image exists."""
        there = {name: (self._image_folder / name).is_file() for name in set(self._annotations.names)}
        return [index for index, name in enumerate(self._annotations.names) if there[name]]


def _same_size(size: tuple[float, float], said: tuple[float, float]) -> bool:
    return abs(size[0] - said[0]) < 1 and abs(size[1] - said[1]) < 1


def _times(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g}"


def _of(images: Mapping[Any, Mapping[str, Any]], key: Any) -> Mapping[str, Any] | None:
    return images.get(key) if isinstance(key, int | str) else None


def _read_person(
    entry: Mapping[str, Any], where: str, image: Mapping[str, Any] | None, categories: _Categories, count: int
) -> _Labels | str:
    """The labels of an annotation, or why it is left out."""
    if _flag(entry.get("iscrowd"), f"{where}: iscrowd"):
        return "of crowds"
    category = entry.get("category_id")
    if not isinstance(category, int | str) or category not in categories.has_joints:
        raise UserError(f"{where}: category_id must be the id of one of the categories, got {category!r}")
    if not categories.has_joints[category]:
        return "of categories without keypoints"
    if not entry.get("keypoints"):
        return "without keypoints"
    points = _keypoints(entry, count, where)
    if image is None:
        key = entry.get("image_id")
        raise UserError(f"{where}: image_id must be the id of one of the images, got {key!r}")
    seen = points[:, 2] > 0
    if not seen.any():
        return "without labeled keypoints"
    if not np.isfinite(points[seen]).all():
        return "with a labeled joint that is not a number"
    box = number_field(entry, "bbox", (4,), where, finite=False)
    if not np.isfinite(box).all() or box[2:].min() <= 0:
        return "whose box has no size"
    sides = [image.get("width"), image.get("height")]
    known = all(isinstance(side, int | float) and math.isfinite(side) and side > 0 for side in sides)
    area, own = entry.get("area"), entry.get("id")
    record = PersonRecord(
        image_id=image["id"],
        category_id=category,
        annotation_id=own if isinstance(own, int | str) else None,
        box=tuple(box.tolist()),
        area=float(area) if isinstance(area, int | float) and math.isfinite(area) and area > 0 else None,
    )
    points[~seen, :2] = 0
    size = (float(sides[0]), float(sides[1])) if known else None  # type: ignore[arg-type]
    return _Labels(str(image["file_name"]), where, points, box, size, record)


def _keypoints(entry: Mapping[str, Any], count: int, where: str) -> Float64Array:
    """(K, 3) x, y, v; x and y are NaN where there is no number, v is 0 there."""
    given = entry["keypoints"]
    if isinstance(given, list) and None in given:  # how JSON says NaN
        entry = {**entry, "keypoints": [math.nan if value is None else value for value in given]}
    points = number_field(entry, "keypoints", (3 * count,), where, finite=False).reshape(count, 3)
    points[np.isnan(points[:, 2]), 2] = 0
    return points


def _flag(value: Any, where: str) -> bool:
    """A truth value as people write them: 0 and 1, true and false, also as texts."""
    if isinstance(value, str):
        value = {"0": 0, "1": 1, "false": 0, "true": 1, "": 0}.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool | int | float):
        return bool(value)
    raise UserError(f"{where} must be 0 or 1, got {value!r}")


# Labels that cannot be right. Each rule gives a reason for leaving a person out, or None.

_SHARES = "whose box is given in shares of the picture, not in pixels"
_JOINTS_IN_SHARES = "whose joints are given in shares of the picture, not in pixels"
_CORNERS = "whose box is given as x1, y1, x2, y2, not as x, y, width, height"
_OUTSIDE = "whose box lies outside the picture"
_NO_JOINT = "without a labeled joint in the crop around their box"


def _without_wrong_boxes(people: list[_Labels], left_out: LeftOut) -> list[_Labels]:
    """The people whose box can be right; the others are counted."""
    reasons = [_box_fault(person) for person in people]
    # A box of two corners is seen as such only where it would reach far out of the picture. Where most do, all that
    # could be corners are.
    corners = reasons.count(_CORNERS)
    if corners and 2 * corners >= len(people) - sum(r is not None and r != _CORNERS for r in reasons):
        reasons = [_CORNERS if r is None and _fits_as_corners(p) else r for p, r in zip(people, reasons, strict=True)]
    kept = []
    for person, reason in zip(people, reasons, strict=True):
        if reason is None:
            kept.append(person)
        else:
            box = ", ".join(f"{value:.4g}" for value in person.box)
            left_out.add(reason, person.name, first=f"{person.where.rsplit(': ', 1)[-1]}, bbox {box}")
    return kept


def _box_fault(person: _Labels) -> str | None:
    joints = person.points[person.labeled, :2]
    if person.side <= 1.5 and np.abs(person.box[:2]).max() <= 1.5:
        return _SHARES
    if len(joints) > 1 and person.side > 4 and np.abs(joints).max() <= 1.5:
        return _JOINTS_IN_SHARES
    if person.size is not None:
        low, high, size = person.box[:2], person.box[:2] + person.box[2:], np.array(person.size)
        if np.any(high > 1.1 * size + 2) and _fits_as_corners(person):
            return _CORNERS
        if np.any(low >= size) or np.any(high <= 0) or person.side > 100 * size.max():
            return _OUTSIDE
    return None if person.in_crop().any() else _NO_JOINT


def _fits_as_corners(person: _Labels) -> bool:
    """Whether a box makes sense as two corners: in the picture, with the joints inside but for a tenth of its side."""
    if person.size is None:
        return False
    low, high = person.box[:2], person.box[2:]
    joints, slack = person.points[person.labeled, :2], 0.1 * float((high - low).max())
    return bool(
        np.all(high > low)
        and np.all(high <= np.array(person.size) + 1)
        and np.all(joints >= low - slack)
        and np.all(joints <= high + slack)
    )


def _joints_outside(person: _Labels) -> int:
    """How many labeled joints lie outside an image whose size the file gives."""
    if person.size is None:
        return 0
    places = person.points[:, :2]
    inside = np.all((places >= -0.5) & (places <= np.array(person.size) - 0.5), axis=1)
    return int(np.sum(person.labeled & ~inside))


def _as_annotations(people: Sequence[_Labels], count: int) -> Annotations:
    sides = np.array([person.side for person in people], dtype=np.float64)
    return Annotations(
        [person.name for person in people],
        np.array([person.points[:, :2] for person in people], dtype=np.float64).reshape(-1, count, 2),
        np.array([person.labeled for person in people], dtype=bool).reshape(-1, count),
        np.array([person.center for person in people], dtype=np.float64).reshape(-1, 2),
        _MARGIN * sides / PIXELS_PER_SCALE,
        sides,
        records=[person.record for person in people],
    )


def _find_images(path: Path, root: Path, names: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder that holds most of the images, and their names there.

    Args:
        path: the JSON file.
        root: folder of the images or of ``images``.
        names: of the people's images as the file has them.

    Raises:
        UserError: all images are missing.
    """
    folders = list(dict.fromkeys([root, root / "images", path.parent]))
    distinct = list(dict.fromkeys(names))
    best: tuple[int, Path, dict[str, str]] = (0, root, {})
    for folder in folders:
        found = {name: _name_there(folder, name) for name in distinct}
        count = sum(there is not None for there in found.values())
        if count > best[0]:
            best = (count, folder, {name: there or name.replace("\\", "/") for name, there in found.items()})
    if best[0] == 0:
        tried = ", ".join(map(str, folders))
        raise UserError(f"{path}: none of its {len(distinct)} images is in any of {tried}; the first is {names[0]}")
    return best[1], [best[2][name] for name in names]


def _refuse_outside(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Refuse images outside of their folder: a file of labels is no reason to read, or show, any file there is.

    Raises:
        UserError: it names the first.
    """
    base = folder.resolve()
    for name in dict.fromkeys(names):
        try:
            place = (folder / name).resolve()
        except (OSError, ValueError, RuntimeError):  # no file can have the name: it is missing
            continue
        if not place.is_relative_to(base):
            raise UserError(
                f"{path}: image {name!r} lies outside of {folder}, at {place}; expected images below it, or "
                "--allow-outside"
            )


def _name_there(folder: Path, name: str) -> str | None:
    """An image's name below a folder, with slashes for Windows' backslashes; None where it is not there."""
    try:
        if (folder / name).is_file():
            return name
        slashes = name.replace("\\", "/")
        return slashes if slashes != name and (folder / slashes).is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def open_coco(files: str, root: str | Path, split: str, *, allow_outside: bool = False) -> COCOSource:
    """Open ``split`` of ``"TRAIN.json"`` or ``"TRAIN.json,VAL.json"``; ``"val"`` and ``"test"`` are the same.

    ``allow_outside`` as for ``COCOSource``.

    Raises:
        UserError: as for ``COCOSource``, more than two files, or two files with different joints.
    """
    whole = (Path(root) / files).is_file()  # a comma may be part of a name
    paths = [files] if whole else [part.strip() for part in files.split(",")]
    if not 1 <= len(paths) <= 2 or not all(paths):
        raise UserError(f"dataset must be coco:TRAIN.json[,VAL.json], got {len(paths)} files in 'coco:{files}'")
    if len(paths) == 1:
        return COCOSource(paths[0], root, "train" if split == "train" else "val", allow_outside=allow_outside)
    if split == "train":
        return COCOSource(paths[0], root, allow_outside=allow_outside)
    held_out = COCOSource(paths[1], root, allow_outside=allow_outside)
    train = read_skeleton(Path(root) / paths[0])
    if (train.joints, train.flip_pairs) != (held_out.skeleton.joints, held_out.skeleton.flip_pairs):
        raise UserError(
            f"{held_out.path} has other joints than {Path(root) / paths[0]}: {', '.join(held_out.skeleton.joints)} "
            f"instead of {', '.join(train.joints)}"
        )
    return held_out


@reader("a COCO keypoint file")
def read_skeleton(path: Path) -> Skeleton:
    """Return the skeleton of a COCO file; raise UserError if it cannot be read or has none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a COCO object, got {type(content).__name__}")
    return _read_categories(_objects(content, "categories", path), path).skeleton


def _objects(content: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        got = "nothing" if value is None else f"a {type(value).__name__} with other things in it"
        raise UserError(f"{path}: {name} must be a list of objects, got {got}")
    if not value:
        raise UserError(f"{path}: {name} must not be empty")
    return value


@dataclass(frozen=True)
class _Categories:
    """What the categories of a file say.

    Attributes:
        skeleton: the joints, the same in all categories that have any.
        has_joints: by id, whether a category has joints.
        names: by id, of those that have.
        oks_sigmas: constants of COCO's similarity, as in ``Metric``.
        notes: for the user.
    """

    skeleton: Skeleton
    has_joints: dict[int | str, bool]
    names: dict[int | str, str]
    oks_sigmas: tuple[float, ...] | None
    notes: tuple[str, ...]


def _read_categories(categories: list[dict[str, Any]], path: Path) -> _Categories:
    found: list[tuple[Skeleton, tuple[str, ...], tuple[float, ...] | None]] = []
    has_joints: dict[int | str, bool] = {}
    names: dict[int | str, str] = {}
    for category in categories:
        key = category.get("id")
        if not isinstance(key, int | str):
            raise UserError(f"{path}: the id of a category must be a number, got {key!r}")
        has_joints[key] = bool(category.get("keypoints"))
        if has_joints[key]:
            where = f"{path}: category {category.get('name')!r}"
            skeleton, notes = skeleton_from_category(category, where)
            found.append((skeleton, notes, _oks_sigmas(category, skeleton, where)))
            names[key] = skeleton.name.removeprefix("coco:")
    if not found:
        raise UserError(f"{path}: no category has keypoints; one needs a list of joint names")
    first, notes, sigmas = found[0]
    for skeleton, _, _ in found[1:]:
        if (skeleton.joints, skeleton.flip_pairs) != (first.joints, first.flip_pairs):
            raise UserError(
                f"{path}: categories {first.name} and {skeleton.name} have different joints; all need the same"
            )
    return _Categories(first, has_joints, names, sigmas, notes)


def _oks_sigmas(category: Mapping[str, Any], skeleton: Skeleton, where: str) -> tuple[float, ...] | None:
    """A category's own ``sigmas``, or those that are published for its joints' names; None where there are none."""
    if "sigmas" in category:
        return tuple(number_field(category, "sigmas", (len(skeleton),), where, above=0).tolist())
    known = [sigma for sigma in oks_sigmas(skeleton.joints) if sigma is not None]
    return tuple(known) if len(known) == len(skeleton) else None


def skeleton_from_category(category: Mapping[str, Any], where: str) -> tuple[Skeleton, tuple[str, ...]]:
    """Return the skeleton of a category of a COCO keypoint file.

    Args:
        category: object with ``name``, ``keypoints`` (K names), optionally ``skeleton`` (pairs of joint numbers
            from 1) and ``flip_pairs`` (pairs of names, or of joint indices from 0). Without ``flip_pairs``, joints
            whose names differ only in their side are paired, see ``keypoints.sides_of``.
        where: name in messages.

    Returns:
        The skeleton, and notes for the user.

    Raises:
        UserError: a field is invalid.
    """
    name = category.get("name", "person")
    joints = category.get("keypoints")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: name must be a string, got {name!r}")
    if not isinstance(joints, list) or not joints or not all(isinstance(j, str) and j.strip() for j in joints):
        raise UserError(f"{where}: keypoints must be a list of joint names, got {joints!r}")
    bones, notes = _bones(category.get("skeleton"), len(joints), where)
    if "flip_pairs" in category:
        flip_pairs = _given_flip_pairs(category["flip_pairs"], joints, where)
    else:
        flip_pairs, unpaired = flip_pairs_from_names(joints)
        if unpaired:
            names = ", ".join(map(repr, unpaired))
            notes += (
                f"{where}: no partner on the other side for {names}, so a mirrored picture keeps the name; if there "
                "is one, give the category a field flip_pairs: all pairs of joint names, or [] to say that none mirror",
            )
        elif not flip_pairs:
            notes += (
                f"{where}: no left and right found in the joint names, so a mirrored picture keeps every joint's "
                "name; if joints have sides, give the category a field flip_pairs, or [] to say that there are none",
            )
    try:
        return Skeleton(f"coco:{name}", tuple(joints), tuple(flip_pairs), tuple(bones)), notes
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _bones(value: Any, joints: int, where: str) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    """Bones, and notes on those that are left out: only drawings use them, so an invalid bone rejects no file."""
    bones: dict[frozenset[int], tuple[int, int]] = {}
    wrong = []
    for pair in value if isinstance(value, list) else [] if value is None else [value]:
        fits = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        fits = fits and all(1 <= number <= joints for number in pair) and pair[0] != pair[1]
        if fits and frozenset(pair) not in bones:
            bones[frozenset(pair)] = (pair[0] - 1, pair[1] - 1)
        else:
            wrong.append(pair)
    if not wrong:
        return list(bones.values()), ()
    which = f"{len(wrong)} of {len(wrong) + len(bones)} bones left out, first {wrong[0]!r}"
    note = f"{where}: skeleton: {which}; expected different pairs of joint numbers from 1 to {joints}"
    return list(bones.values()), (note,)


def _given_flip_pairs(value: Any, joints: Sequence[str], where: str) -> list[tuple[int, int]]:
    where = f"{where}: flip_pairs"
    expected = f"pairs of joint names, or of joint indices 0 to {len(joints) - 1}"
    pairs: list[tuple[int, int]] = []
    for pair in _list_of_pairs(value, where, "joint names or indices from 0"):
        indices = []
        for joint in pair:
            if isinstance(joint, str) and joint in joints:
                indices.append(joints.index(joint))
            elif type(joint) is int and 0 <= joint < len(joints):
                indices.append(joint)
            else:
                raise UserError(f"{where} must hold {expected}, got {joint!r}")
        first, second = min(indices), max(indices)
        if first == second:
            raise UserError(f"{where} must hold two different joints in a pair, got {pair!r}")
        if (first, second) not in pairs:  # some write both directions
            pairs.append((first, second))
    return pairs


def _list_of_pairs(value: Any, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list of pairs of {what}, got {value!r}")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where} must be a list of pairs of {what}, got {pair!r} in it")
    return value


def _images_by_id(images: list[dict[str, Any]], path: Path) -> dict[Any, dict[str, Any]]:
    records = {}
    for number, image in enumerate(images):
        name, key = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: image {key!r}: file_name must be a path, got {name!r}")
        if not isinstance(key, int | str):
            raise UserError(f"{path}: the id of image number {number} must be a number or a string, got {key!r}")
        if key in records:
            raise UserError(f"{path}: image ids must be unique, got {key!r} twice")
        records[key] = image
    return records
