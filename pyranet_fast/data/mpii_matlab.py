"""MPII's official annotations, ``mpii_human_pose_v1_u12_1.mat`` (Andriluka et al. 2014).

One struct ``RELEASE``: ``annolist`` (image.name, annorect with one element per person), ``img_train``
(1: labels are public) and ``single_person`` (indices, from 1, of the people that stand apart from others).
MATLAB writes one-element arrays as the element, and missing values as empty arrays of whatever type; here both
are read as lists.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pyranet_fast.data.mpii_files import JOINTS, box_sizes, placed, present
from pyranet_fast.data.people_table import Table
from pyranet_fast.errors import UserError


def read_matlab(path: Path) -> tuple[Table, Counter[str]]:
    """Read everybody whose labels are public.

    People who are not in ``single_person`` are left out where that list is there, and so are people without
    ``objpos``, ``scale`` or any labelled joint. Lengths are 0.6 times the diagonal of the head box.

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
            f"{path}: RELEASE has {len(images)} images in annolist and {len(public)} values in img_train; "
            "as many of both are accepted, at least one"
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
            raise UserError(f"{where}: image.name is {name!r}; the name of a file is accepted")
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
        raise UserError(f"{path} holds nobody with public labels (img_train = 1, joints in annopoints)")
    names, places, joints, objpos, scales, boxes = zip(*rows, strict=True)
    raw = np.stack(joints)
    centres, wide = placed(np.stack(objpos), np.array(scales))
    table = Table(list(names), raw - 1, present(raw), centres, wide, box_sizes(np.stack(boxes)), np.array(places))
    return table, left_out


def _release(path: Path) -> Any:
    from scipy.io import loadmat

    try:
        content = loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise UserError(f"{path} cannot be read; it is truncated or not a MATLAB file") from error
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
        raise UserError(f"{where}: scale is {scale:g}; a number above 0 is accepted")
    annopoints = _items(getattr(person, "annopoints", None))
    points = _items(getattr(annopoints[0], "point", None)) if annopoints else []
    joints = np.zeros((JOINTS, 2))  # is_visible is not asked for: occluded joints are labelled too
    for point in points:
        x, y, joint = (_number(point, field, f"{where}, annopoints") for field in ("x", "y", "id"))
        if x is None or y is None or joint is None:
            raise UserError(f"{where}: a point of annopoints lacks x, y or id")
        if joint not in range(JOINTS):
            raise UserError(f"{where}: a point of annopoints has id {joint:g}; 0 to {JOINTS - 1} is accepted")
        joints[int(joint)] = x, y
    if not present(joints).any():
        return "without labelled joints"
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
        raise UserError(f"{where}: {field} is {getattr(struct, field)!r}; a finite number is accepted")
    return number
