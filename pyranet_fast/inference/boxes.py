"""Boxes of people from an external detector: COCO detections, CSV, or a user's function."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Image
from ..errors import UserError
from ..io import reading
from .result import Box

Boxes = Callable[[str, Image], Sequence[Sequence[float]]]
"""Gives the boxes of all people in a picture, from its name and its (H, W, 3) uint8 RGB pixels."""
EXPECTED = "COCO detections (.json), a table file,x,y,w,h[,score] (.csv) or MODULE:FUNCTION"
PERSON = 1  # COCO's category


def read_boxes(source: str, *, least_score: float = 0.3) -> Boxes:
    """The boxes that a file or a function gives for each picture.

    A picture is looked up by its name as it stands, else by its file name, else by the number that its file name is.
    One that the file does not name has no people.

    Args:
        source: a ``.json`` file with COCO's list of detections (``image_id``, ``bbox``, ``score``; of category 1 where
            there are categories) or a COCO data set (``images`` and ``annotations``); a ``.csv`` file with rows
            ``file,x,y,w,h[,score]``, with or without a line of names; or ``MODULE:FUNCTION``, a function of a picture's
            (H, W, 3) uint8 RGB pixels, found from the current folder, which gives rows ``x, y, w, h[, score]``.
        least_score: boxes of lower scores are left out.

    Raises:
        UserError: it cannot be read, or is none of these.
    """
    suffix = Path(source).suffix.lower()
    if suffix == ".json":
        return _Table(source, _from_json(source), least_score)
    if suffix == ".csv":
        return _Table(source, _from_csv(source), least_score)
    module, colon, name = source.partition(":")
    if not colon or not name.isidentifier() or os.path.exists(source):
        raise UserError(f"boxes are {source!r}; expected {EXPECTED}")
    return _from_function(source, module, name, least_score)


class _Table:
    """Boxes by the names of pictures."""

    def __init__(self, source: str, rows: Iterable[tuple[str, Sequence[Any]]], least_score: float) -> None:
        self._boxes: dict[str, list[Box]] = {}
        with reading(source, EXPECTED):
            for number, (picture, row) in enumerate(rows, 1):
                box, score = _box(row, f"{source}: box {number}")
                if score >= least_score:
                    self._boxes.setdefault(picture, []).append(box)

    def __call__(self, name: str, image: Image) -> Sequence[Box]:
        path = Path(name)
        keys = [name, path.name, path.stem]
        if path.stem.isascii() and path.stem.isdigit():
            keys.append(str(int(path.stem)))  # COCO's ids are numbers and its files have leading zeros
        return next((self._boxes[key] for key in keys if key in self._boxes), [])


def _from_json(source: str) -> list[tuple[str, Sequence[Any]]]:
    with reading(source, EXPECTED):
        content = json.loads(Path(source).read_text(encoding="utf-8"))
        names: dict[Any, str] = {}
        if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
            names = {entry["id"]: str(entry["file_name"]) for entry in content.get("images", [])}
            content = content["annotations"]
        if not isinstance(content, list) or not all(isinstance(entry, Mapping) for entry in content):
            raise UserError(f"{source} has no list of detections; expected objects with image_id, bbox and score")
        rows: list[tuple[str, Sequence[Any]]] = []
        for number, entry in enumerate(content, 1):
            if entry.get("category_id", PERSON) != PERSON:
                continue
            if "image_id" not in entry or not isinstance(entry.get("bbox"), list):
                raise UserError(f"{source}: detection {number} has no image_id or no bbox [x, y, w, h]")
            image = entry["image_id"]
            rows.append(
                (names.get(image, str(image)), [*entry["bbox"], *([entry["score"]] if "score" in entry else [])])
            )
        return rows


def _from_csv(source: str) -> list[tuple[str, Sequence[Any]]]:
    with reading(source, EXPECTED), open(source, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if rows and len(rows[0]) > 1 and not _is_number(rows[0][1]):
        rows = rows[1:]
    return [(row[0].strip(), row[1:]) for row in rows]


def _from_function(source: str, module: str, name: str, least_score: float) -> Boxes:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"boxes are {source!r}, which cannot be imported: {error}") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise UserError(f"boxes are {source!r}, which is a {type(function).__name__}; expected a function of a picture")

    def boxes(name: str, image: Image) -> list[Box]:
        rows = np.asarray(function(image), dtype=object)
        found = [_box(row, f"image {name}: box {number} of {source}") for number, row in enumerate(rows, 1)]
        return [box for box, score in found if score >= least_score]

    return boxes


def _box(row: Sequence[Any], where: str) -> tuple[Box, float]:
    try:
        values = [float(value) for value in row]
    except (TypeError, ValueError):
        values = []
    if len(values) not in (4, 5) or not np.isfinite(values).all() or min(values[2:4]) <= 0:
        raise UserError(f"{where} is {list(row)!r}; expected numbers x, y, w, h[, score] with w and h above 0")
    x, y, width, height = values[:4]
    return (x, y, width, height), values[4] if len(values) == 5 else float("inf")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
