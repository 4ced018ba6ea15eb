"""MPII annotations from JSON, HDF5 and the official MATLAB file (Andriluka et al. 2014), and head sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..io import reader
from .annotations import Annotations, number_field, read_json
from .hdf5 import read_datasets
from .matlab import load_matlab

JOINTS = 16
UPPER_NECK, HEAD_TOP = 8, 9
# Raw annotations center on the torso; the crop's center lies this many scales lower, and is this much wider.
_LOWER, _WIDER = 15.0, 1.25
# Head size in units of upper neck to head top. Least squares on the 2,932 validation people where both are
# labeled gives 0.74999, with a spread of 0.003: MPII draws both joints from the head box.
HEAD_FACTOR = 0.75


def crop_placement(
    objpos: npt.NDArray[np.float64], raw_scale: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn raw ``objpos`` (N, 2), from 1, and scale (N,) into crop centers, from 0, and scales."""
    lower = np.stack([np.zeros_like(raw_scale), _LOWER * raw_scale], axis=1)
    return objpos + lower - 1, _WIDER * raw_scale


def labeled_joints(joints: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Labeled joints (N, K) of raw coordinates (N, K, 2), which count from 1: x > 0."""
    found: npt.NDArray[np.bool_] = joints[..., 0] > 0
    return found


# The raw list, mpii_annotations.json.


@reader("MPII's list of people in JSON")
def read_json_list(path: Path) -> tuple[Annotations, npt.NDArray[np.bool_]]:
    """Read the raw JSON list.

    Returns:
        All people, their lengths NaN, and (N,) bool: who is for validation.

    Raises:
        UserError: the file cannot be read, is no list or an empty one, or an entry's field is not as it should be.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} must hold a list of people, got {type(entries).__name__}")
    if not entries:
        raise UserError(f"{path} must hold at least one person, got an empty list")
    names, joints, objpos, scales, held_out, places = [], [], [], [], [], []
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} must be an object, got {type(entry).__name__}")
        name = entry.get("img_paths")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: field 'img_paths' must be an image name, got {name!r}")
        names.append(name)
        where = f"{where} ({name})"
        joints.append(number_field(entry, "joint_self", (JOINTS, 3), where)[:, :2])
        objpos.append(number_field(entry, "objpos", (2,), where))
        scales.append(number_field(entry, "scale_provided", (), where, above=0))
        held_out.append(bool(number_field(entry, "isValidation", (), where)))
        if "annolist_index" in entry and "people_index" in entry:
            places.append([int(number_field(entry, field, (), where)) for field in ("annolist_index", "people_index")])
    raw = np.stack(joints)
    centers, wide = crop_placement(np.stack(objpos), np.stack(scales))
    people = Annotations(names, raw - 1, labeled_joints(raw), centers, wide, np.full(len(names), np.nan))
    people.numbers = np.array(places) if len(places) == len(names) else None
    return people, np.array(held_out)


# The HDF5 files, train.h5, valid.h5 and test.h5.


_DATASETS = ("imgname", "part", "center", "scale", "normalize", "index", "person")


@reader("MPII's annotations in HDF5")
def read_hdf5(path: Path) -> Annotations:
    """Read ``train.h5``, ``valid.h5`` or ``test.h5``, whose centers and scales have been adjusted already.

    Its joints are the raw ones with their fractions cut off, so up to a pixel from the raw ones. A joint
    between 0 and 1 has become 0 there; it counts as labeled, as in the raw form, by its y.

    Raises:
        UserError: the file cannot be read, or a data set is missing or of another shape.
    """
    content = read_datasets(path, _DATASETS)
    names = _image_names(content.get("imgname"), path)
    count = len(names)
    joints = _column(content, "part", (count, JOINTS, 2), path)
    centers = _column(content, "center", (count, 2), path)
    scales = _column(content, "scale", (count,), path)
    if not np.all(scales > 0):
        worst = int(np.argmin(scales))
        raise UserError(f"{path}: scale of person {worst} ({names[worst]}) must be positive, got {scales[worst]:g}")
    labeled = labeled_joints(joints) | ((joints[..., 0] == 0) & (joints[..., 1] > 0))
    lengths = np.full(count, np.nan)
    if "normalize" in content:
        lengths = _column(content, "normalize", (count,), path, finite=False)
        lengths = np.where(np.isfinite(lengths) & (lengths > 0), lengths, np.nan)
    people = Annotations(names, joints - 1, labeled, centers - 1, scales, lengths)
    if "index" in content and "person" in content:  # from 0 in these files
        places = [_column(content, name, (count,), path) for name in ("index", "person")]
        people.numbers = np.stack(places, axis=1).astype(np.int64) + 1
    return people


def _image_names(value: Any, path: Path) -> list[str]:
    """Names as bytes, as texts, or as rows of character codes filled up with zeros, as Torch wrote them."""
    if value is None:
        raise UserError(f"{path} has no dataset 'imgname'; expected imgname, part, center and scale")
    if value.ndim == 2 and value.dtype.kind in "iuf":
        return ["".join(chr(int(code)) for code in row if code > 0) for row in value]
    if value.ndim != 1 or value.dtype.kind not in "SOU":
        raise UserError(f"{path}: imgname must hold N names, got shape {value.shape} and type {value.dtype}")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in value]


def _column(
    content: dict[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...], path: Path, *, finite: bool = True
) -> npt.NDArray[np.float64]:
    value = content.get(name)
    if value is None:
        raise UserError(f"{path} has no dataset {name!r}; expected imgname, part, center and scale")
    if value.shape != shape or value.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: {name} must hold numbers of shape {shape}, got shape {value.shape} and type {value.dtype}"
        )
    result = value.astype(np.float64)
    if finite and not np.all(np.isfinite(result)):
        raise UserError(f"{path}: {name} holds values that are not finite")
    return result


# The official file, mpii_human_pose_v1_u12_1.mat, holds one struct RELEASE: annolist (image.name, annorect with one
# element per person), img_train (1: labels are public) and single_person (indices, from 1, of the people that stand
# apart from others). MATLAB writes one-element arrays as the element, and missing values as empty arrays of whatever
# type; here both are read as lists.


@reader("MPII's annotations of MATLAB")
def read_matlab(path: Path) -> tuple[Annotations, Counter[str]]:
    """Read the people whose labels are public.

    People who are not in ``single_person`` are left out where that list is there, and so are people without
    ``objpos``, ``scale`` or any labeled joint. Lengths are 0.6 times the diagonal of the head box.

    Returns:
        The people, and how many were left out, by reason.

    Raises:
        UserError: the file cannot be read, has no ``RELEASE`` with these fields, or a number is not one.
    """
    release = _release(path)
    images = _items(getattr(release, "annolist", None))
    public = _items(getattr(release, "img_train", None))
    if not images or len(public) != len(images):
        raise UserError(
            f"{path}: annolist and img_train of RELEASE must have the same length, at least 1, got {len(images)} and "
            f"{len(public)}"
        )
    apart = _items(getattr(release, "single_person", None))
    if apart and len(apart) != len(images):
        raise UserError(f"{path}: RELEASE.single_person has {len(apart)} elements for {len(images)} images")
    left_out: Counter[str] = Counter()
    rows: list[tuple[str, tuple[int, int], np.ndarray, np.ndarray, float, np.ndarray]] = []
    for number, image in enumerate(images):
        if not bool(public[number]):
            continue
        where = f"{path}: image {number + 1}"
        name = getattr(getattr(image, "image", None), "name", None)
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: image.name must be a file name, got {name!r}")
        chosen = {int(index) for index in _items(apart[number])} if apart else None
        for index, person in enumerate(_items(getattr(image, "annorect", None)), 1):
            row = _person(person, f"{where} ({name}), person {index}")
            if chosen is not None and index not in chosen:
                left_out["not in single_person"] += 1
            elif isinstance(row, str):
                left_out[row] += 1
            else:
                rows.append((name, (number + 1, index), *row))
    if not rows:
        raise UserError(f"{path} has no people with public labels (img_train = 1, joints in annopoints)")
    names, places, joints, objpos, scales, boxes = zip(*rows, strict=True)
    raw = np.stack(joints)
    centers, wide = crop_placement(np.stack(objpos), np.array(scales))
    sizes = head_sizes_of_boxes(np.stack(boxes))
    people = Annotations(list(names), raw - 1, labeled_joints(raw), centers, wide, sizes, np.array(places))
    return people, left_out


def _release(path: Path) -> Any:
    content = load_matlab(path, struct_as_record=False, squeeze_me=True)
    if not hasattr(content.get("RELEASE"), "annolist"):
        names = ", ".join(sorted(name for name in content if not name.startswith("__"))) or "nothing"
        raise UserError(f"{path} has no struct RELEASE with annolist; it holds {names}")
    return content["RELEASE"]


def _items(value: Any) -> list[Any]:
    """A struct array, a single struct or nothing at all, as a list."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return [value]


def _person(person: Any, where: str) -> tuple[np.ndarray, np.ndarray, float, np.ndarray] | str:
    """Raw joints (16, 2), objpos (2,), scale and head box (2, 2) of a person, or why the person is left out."""
    position = _items(getattr(person, "objpos", None))
    scale = _number(person, "scale", where)
    if not position or scale is None:
        return "without objpos or scale"
    place = [_number(position[0], axis, f"{where}, objpos") for axis in ("x", "y")]
    if place[0] is None or place[1] is None:
        return "without objpos or scale"
    if scale <= 0:
        raise UserError(f"{where}: scale must be positive, got {scale:g}")
    annopoints = _items(getattr(person, "annopoints", None))
    points = _items(getattr(annopoints[0], "point", None)) if annopoints else []
    joints = np.zeros((JOINTS, 2))  # is_visible is not asked for: occluded joints are labeled too
    for point in points:
        x, y, joint = (_number(point, field, f"{where}, annopoints") for field in ("x", "y", "id"))
        if x is None or y is None or joint is None:
            raise UserError(f"{where}: a point of annopoints lacks x, y or id")
        if joint not in range(JOINTS):
            raise UserError(f"{where}: the id of a point of annopoints must be 0 to {JOINTS - 1}, got {joint:g}")
        joints[int(joint)] = x, y
    if not labeled_joints(joints).any():
        return "without labeled joints"
    corners = [_number(person, field, where) for field in ("x1", "y1", "x2", "y2")]
    box = np.zeros(4) if None in corners else np.array(corners, dtype=np.float64)
    return joints, np.array(place, dtype=np.float64), scale, box.reshape(2, 2)


def _number(struct: Any, field: str, where: str) -> float | None:
    """A field as a number; None where it is missing or empty."""
    values = _items(getattr(struct, field, None))
    if not values or values[0] == "":
        return None
    try:
        number = float(values[0])
    except (TypeError, ValueError):
        number = float("nan")
    if len(values) != 1 or not np.isfinite(number):
        raise UserError(f"{where}: {field} must be a finite number, got {getattr(struct, field)!r}")
    return number


# Head sizes.


def estimate_head_sizes(joints: npt.NDArray[np.float64], labeled: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Head sizes (N,) from upper neck and head top; NaN where one is missing or both are one point."""
    span = np.linalg.norm(joints[:, HEAD_TOP] - joints[:, UPPER_NECK], axis=1)
    known = labeled[:, UPPER_NECK] & labeled[:, HEAD_TOP] & (span > 0)
    return np.where(known, HEAD_FACTOR * span, np.nan)


def head_sizes_of_boxes(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Head sizes (N,) of head boxes (N, 2, 2), two opposite corners; NaN for a box of no size."""
    size = 0.6 * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
    return np.where(size > 0, size, np.nan)


@reader("MPII's detections_our_format.mat")
def read_head_boxes(path: Path, people: Annotations) -> npt.NDArray[np.float64] | None:
    """Head sizes (N,) from ``detections_our_format.mat``, which lists the validation people in ``valid.h5``'s order.

    Returns:
        The sizes, NaN for a box of no size; None where the file lists other people or another order.

    Raises:
        UserError: the file cannot be read or lacks ``headboxes_src`` or ``pos_gt_src``.
    """
    content = load_matlab(path)
    boxes, truth = (np.asarray(content.get(name)) for name in ("headboxes_src", "pos_gt_src"))
    count = boxes.shape[-1] if boxes.ndim == 3 else 0
    if boxes.shape != (2, 2, count) or truth.shape != (JOINTS, 2, count):
        raise UserError(
            f"{path}: headboxes_src and pos_gt_src must have shapes (2, 2, N) and ({JOINTS}, 2, N), got {boxes.shape} "
            f"and {truth.shape}"
        )
    if count != len(people):
        return None
    # The same people in the same order: most joints of each agree (a few were corrected between the releases).
    distance = np.abs(truth.transpose(2, 0, 1) - 1 - people.joints).max(axis=2)
    close = ((distance <= 1.0) & people.labeled).sum(axis=1)
    if np.any(2 * close < people.labeled.sum(axis=1)):
        return None
    return head_sizes_of_boxes(boxes.transpose(2, 0, 1).astype(np.float64))


def match_head_sizes(known: Annotations, people: Annotations) -> npt.NDArray[np.float64]:
    """Head sizes (N,) of ``people`` from the same ones in ``known``; NaN for a person who is missing there.

    The same are people of one image with the same joints labeled, none more than a pixel apart.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(known.names):
        rows.setdefault(name, []).append(row)
    sizes = np.full(len(people), np.nan)
    for index, name in enumerate(people.names):
        labeled = people.labeled[index]
        for row in rows.get(name, ()):
            apart = np.abs(known.joints[row] - people.joints[index])[labeled]
            if np.array_equal(known.labeled[row], labeled) and np.all(apart <= 1.01):
                sizes[index] = known.lengths[row]
    return sizes
