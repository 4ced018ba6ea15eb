"""`python -m pyranet_fast.data.pack`: the people of a data set as one file that is read by mapping it into memory."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from .. import __version__, cli
from ..errors import UserError, one_line
from ..io import atomic_write, output_folder
from .cache import store_region
from .dataset import Image, PeopleSource
from .image_io import decode
from .packed import ARRAYS, write_file
from .registry import SPLITS, open_dataset
from .transforms import MAP_STRIDE, Augmentation

_WORST = 5  # no limit forces a lower quality
_FULL_CHROMA = 90  # from this quality on, color is kept at every pixel
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
        "metric": source.metric.key,
        "published": bool(source.metric.published),
        "notes": list(source.notes),
        "numbers": numbers is not None,
        "skeleton": source.skeleton.as_dict(),
    }
    return about, arrays


def _pack_one(source: PeopleSource, index: int, plan: Plan) -> _One:
    try:
        kept = store_region(source, index, plan.reach, plan.detail)
    except UserError as error:
        return _One(_row_without_picture(source, index), failure=one_line(str(error)))
    picture, quality = _encode(kept.pixels, plan)
    origin, right, down = source.to_original(index, kept.back(_CORNERS))
    row = {
        "joints": kept.person.joints,
        "labelled": kept.person.labeled,
        "centre": kept.person.center,
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


# The 11,000 training people of LSP and LSP-extended then take 60 MB with their labels.
QUALITY, LIMIT = 75, 5500
HELD_OUT_QUALITY = 95
# Half of the widest crop that `evaluate --scales 6` looks at.
HELD_OUT_REACH = 0.65


def pack(
    output: str | Path,
    splits: Mapping[str, PeopleSource],
    *,
    input_size: int = 256,
    reach: float | None = None,
    quality: int = QUALITY,
    limit: int | None = LIMIT,
    held_out_quality: int = HELD_OUT_QUALITY,
    on_error: Literal["raise", "skip"] = "raise",
    about: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write people into one file, whole or not at all; ``PackedSource`` reads it.

    Training people are kept as far as augmentation reaches, averaged down where a crop's side has more than
    ``input_size`` pixels. The others are kept as far as six-scale testing reaches, at up to twice that.

    Args:
        output: the file; one that is there is replaced.
        splits: people by ``"train"``, ``"val"``, ``"test"``. Where val and test are the same, they are written once.
        input_size: of the network that the pictures are meant for, pixels.
        reach: half-width of what is kept of training people, in crop sides; None is ``Augmentation().reach``.
        quality: of the training people's JPEG pictures, 1 to 100.
        limit: bytes; a training person's picture that would be longer gets the quality that fits. None: no limit.
        held_out_quality: of the other people's.
        on_error: ``"skip"`` keeps people whose image cannot be read without a picture.
        about: further texts for the header: ``dataset``, ``command``.
        say: called with a line for each person kept without a picture, and for the number of missing images.
        progress: show a bar.

    Returns:
        What the header says of each split: ``people``, ``pictures``, ``bytes`` (of the pictures), ``mean_quality``
        and ``psnr`` (means over the pictures; dB, of JPEG alone), …; of a split with the people of another one
        ``same_as``.

    Raises:
        UserError: an image cannot be read, or not one of a split can; ``output`` is a folder or cannot be written.
        ValueError: an argument is not as described.
    """
    reach = Augmentation().reach if reach is None else reach
    for name, value, low, high in (
        ("input_size", input_size, MAP_STRIDE, 1 << 14),
        ("reach", reach, 0.5, 10),
        ("quality", quality, 1, 100),
        ("bytes", 1000 if limit is None else limit, 1000, 1 << 24),
        ("held_out_quality", held_out_quality, 1, 100),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; {low} to {high} is accepted")
    if not splits or any(split not in SPLITS for split in splits):
        raise ValueError(f"splits is {list(splits)}; at least one of {', '.join(SPLITS)} is accepted")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    output = Path(output)
    if output.is_dir():
        raise UserError(f"output {output} is a folder; a file to write is accepted")
    folder = output_folder(output.parent)
    train = Plan(reach, float(input_size), quality, limit)
    held_out = Plan(HELD_OUT_REACH, 2.0 * input_size, held_out_quality)
    contents: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryFile(dir=folder) as pictures:
        for split, source in splits.items():
            twins = [name for name in contents if "train" not in (name, split) and _same(splits[name], source)]
            if twins:
                contents[split] = {"same_as": twins[0]}
                continue
            plan = train if split == "train" else held_out
            contents[split], found = pack_split(
                split, source, plan, pictures, skip=on_error == "skip", say=say, progress=progress
            )
            arrays |= {f"{split}/{name}": array for name, array in found.items()}
        header = {**(about or {}), "written_by": f"pyranet_fast {__version__}", "splits": contents}
        atomic_write(output, lambda file: write_file(file, header, arrays, pictures))
    return contents


def _same(a: PeopleSource, b: PeopleSource) -> bool:
    """Tell whether two splits of one data set are the same people."""
    return (
        a.name == b.name
        and len(a) == len(b)
        and all(a.image_name(index) == b.image_name(index) for index in range(len(a)))
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.data.pack",
        description="Write the people of a data set, crops of their images as JPEG with their labels, into one file. "
        "`--dataset packed:FILE` of train and evaluate reads it, without --root.",
    )
    parser.add_argument("--dataset", required=True, help="as for train: lsp, lsp+lspet, mpii, coco:FILE.json, …")
    parser.add_argument("--root", default=None, help="folder that holds lsp_dataset/, mpii/, …")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write, such as people.pack")
    parser.add_argument("--splits", default=",".join(SPLITS), help="(default: %(default)s)")
    parser.add_argument(
        "--input-size",
        type=int,
        default=256,
        help="network input that the pictures serve: training people are averaged down to this many pixels along the "
        "crop, others to twice as many (default: %(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=QUALITY, help="JPEG quality of training people, 1 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--bytes",
        type=int,
        default=LIMIT,
        help="training people whose picture would be longer get a lower quality; 0: no limit (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out-quality",
        type=int,
        default=HELD_OUT_QUALITY,
        help="of people in val and test (default: %(default)s)",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=Augmentation().reach,
        help="how much is kept around training people: half-width in crop sides (default: %(default).3f, what train's "
        "default augmentation can show)",
    )
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="a missing or corrupt image stops the command, or is named and its person kept without a picture "
        "(default: raise)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    chosen = [part.strip() for part in arguments.splits.split(",") if part.strip()]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(SPLITS):
        parser.error(f"--splits is {arguments.splits!r}; {', '.join(SPLITS)}, each once, are accepted")
    people = {split: open_dataset(arguments.dataset, arguments.root, split) for split in chosen}
    words = ["python -m pyranet_fast.data.pack", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
    try:
        contents = pack(
            arguments.output,
            people,
            input_size=arguments.input_size,
            reach=arguments.reach,
            quality=arguments.quality,
            limit=arguments.bytes or None,
            held_out_quality=arguments.held_out_quality,
            on_error=arguments.on_error,
            about={"dataset": arguments.dataset, "command": " ".join(words)},
            say=tqdm.write,
            progress=True,
        )
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        parser.error(f"--{str(error).replace('_', '-')}")
    for split, about in contents.items():
        if "same_as" in about:
            print(f"{split}: the people of {about['same_as']}")
            continue
        count, pictures = about["people"], about["pictures"]
        without = f", {count - pictures} without a picture" if pictures < count else ""
        size = f"{about['bytes'] / 1e6:.2f} MB, {about['bytes'] / pictures:.0f} bytes a picture"
        loss = f"mean quality {about['mean_quality']:.0f}, PSNR {about['psnr']:.1f} dB"
        print(f"{split}: {count} people of {about['name']}{without}; {size}, {loss}")
    total = sum(about.get("people", 0) for about in contents.values())
    size_of_file = Path(arguments.output).stat().st_size
    print(
        f"wrote {arguments.output}: {total} people, {size_of_file / 1e6:.2f} MB, {size_of_file / total:.0f} bytes a "
        "person with the labels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
