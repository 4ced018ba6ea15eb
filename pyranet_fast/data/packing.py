"""People of one split as pictures and arrays of a packed file."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

from pyranet_fast.cli import one_line
from pyranet_fast.data.base import Image, PeopleSource
from pyranet_fast.data.images import decode
from pyranet_fast.data.kept import keep
from pyranet_fast.data.packed import ARRAYS
from pyranet_fast.errors import UserError

_WORST = 5  # no limit forces a lower quality
_FULL_CHROMA = 90  # from this quality on, colour is kept at every pixel
_AT_ONCE = 64  # people in work
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@dataclass(frozen=True)
class Plan:
    """What is kept of the people of a split.

    Attributes:
        reach, detail: as for `keep`.
        quality: of JPEG, 1 to 100.
        limit: bytes; a picture that would be longer gets the highest lower quality that fits. None: no limit.
    """

    reach: float
    detail: float
    quality: int
    limit: int | None = None


@dataclass(frozen=True)
class _One:
    """A person's row of the arrays, the picture, and what the split has to know of it."""

    row: dict[str, Any]
    picture: bytes = b""
    failure: str | None = None
    cut: bool = False
    reduced: bool = False
    quality: int = 0
    psnr: float = math.nan


def pack_split(
    split: str,
    source: PeopleSource,
    plan: Plan,
    pictures: IO[bytes],
    *,
    skip: bool,
    say: Callable[[str], None] | None,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Append the pictures of a split's people to ``pictures``; see `pack.pack`.

    Returns:
        What the header says of the split, and its arrays.

    Raises:
        UserError: an image cannot be read and ``skip`` is false, or not a single one can.
    """
    everybody, there = range(len(source)), set(source.available())
    if say and len(there) < len(source):
        say(f"{source.name}: the image of {len(source) - len(there)} of {len(source)} people is not there")
    start = pictures.tell()
    offsets, sums, done = [start], [], []
    bar = tqdm(total=len(source), unit="person", desc=split, disable=not progress or None, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for first in everybody[::_AT_ONCE]:
            some = everybody[first : first + _AT_ONCE]
            for index, one in zip(some, pool.map(lambda i: _pack_one(source, i, plan), some), strict=True):
                if one.failure is not None:
                    if not skip:
                        raise UserError(one.failure)
                    if say and index in there:
                        say(f"without a picture: {source.image_name(index)}: {one.failure}")
                pictures.write(one.picture)
                offsets.append(pictures.tell())
                sums.append(zlib.crc32(one.picture))
                done.append(one)
                bar.update()
    readable = [one for one in done if one.failure is None]
    if not readable:
        raise UserError(f"{source.name}: the image of not one of the {len(source)} people can be read")
    columns = {name: [one.row[name] for one in done] for name in done[0].row} | {"offsets": offsets, "crc32": sums}
    arrays = {name: np.array(columns[name], kind) for name, kind in ARRAYS.items()}
    names, ids = ([of(index) for index in everybody] for of in (source.image_name, source.image_id))
    failures = {index: one.failure for index, one in enumerate(done) if one.failure is not None}
    texts = {"names": names, "ids": None if ids == names else ids, "failures": failures}
    arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    numbers = getattr(source, "numbers", None)
    if numbers is not None:
        arrays["numbers"] = np.asarray(numbers, np.int64)
    reach = min(source.reach, plan.reach if any(one.cut for one in readable) else math.inf)
    detail = min(source.detail, plan.detail if any(one.reduced for one in readable) else math.inf)
    about = {
        "people": len(source),
        "pictures": len(readable),
        "bytes": offsets[-1] - start,
        "psnr": round(float(np.mean([one.psnr for one in readable])), 2),
        "quality": plan.quality,
        "limit": plan.limit,
        "mean_quality": round(float(np.mean([one.quality for one in readable])), 1),
        "reach": reach if math.isfinite(reach) else None,
        "detail": detail if math.isfinite(detail) else None,
        "name": source.name,
        "metric": source.metric,
        "notes": list(source.notes),
        "numbers": numbers is not None,
        "skeleton": source.skeleton.as_dict(),
    }
    return about, arrays


def _pack_one(source: PeopleSource, index: int, plan: Plan) -> _One:
    try:
        kept = keep(source, index, plan.reach, plan.detail)
    except UserError as error:
        return _One(_row_without_picture(source, index), failure=one_line(str(error)))
    picture, quality = _encode(kept.pixels, plan)
    origin, right, down = source.to_original(index, kept.back(_CORNERS))
    row = {
        "joints": kept.person.joints,
        "labelled": kept.person.labelled,
        "centre": kept.person.centre,
        "scale": kept.person.scale,
        "reference_length": kept.reference_length,
        "transform": np.stack([right - origin, down - origin, origin], axis=1),
        "frame": kept.frame,
    }
    psnr = _psnr(decode(picture), kept.pixels)
    return _One(row, picture, cut=kept.cut, reduced=kept.ratio > 1, quality=quality, psnr=psnr)


def _row_without_picture(source: PeopleSource, index: int) -> dict[str, Any]:
    """The labels as they are, so far as they are known without the image."""
    row: dict[str, Any] = {
        "joints": np.zeros((len(source.skeleton), 2)),
        "labelled": np.zeros(len(source.skeleton), bool),
        "centre": np.full(2, np.nan),
        "scale": math.nan,
        "reference_length": math.nan,
        "transform": np.eye(2, 3),
        "frame": np.array([0.0, 0.0, 1.0, 1.0]),
    }
    try:
        person, length = source.person(index), source.reference_length(index)
    except UserError:
        return row
    return row | vars(person) | {"reference_length": length}


def _encode(image: Image, plan: Plan) -> tuple[bytes, int]:
    """The picture in the plan's quality, or the best that keeps to its limit; and that quality."""
    picture = _jpeg(image, plan.quality)
    if plan.limit is None or len(picture) <= plan.limit or plan.quality <= _WORST:
        return picture, plan.quality
    low, high = _WORST, plan.quality  # the best is at least the first, and below the second
    best = _jpeg(image, low)
    while high - low > 1:
        middle = (low + high) // 2
        picture = _jpeg(image, middle)
        if len(picture) <= plan.limit:
            low, best = middle, picture
        else:
            high = middle
    return best, low


def _jpeg(image: Image, quality: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if quality >= _FULL_CHROMA:
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def _psnr(image: Image, other: Image) -> float:
    error = float(np.mean(np.square(image.astype(np.float32) - other)))
    return 10 * math.log10(255**2 / max(error, 1e-4))
