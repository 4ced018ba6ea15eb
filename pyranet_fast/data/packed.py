"""Packed datasets: format, reader and writer of one memory-mapped file.

The file holds arrays and JPEG pictures behind a header. All numbers are little-endian. It is

- 32 bytes: magic, version, length and CRC-32 of the header, length of the file;
- the header, JSON: content of the file, and type, shape and offset of each array;
- the arrays, each at a multiple of 64 bytes, counted from the first such place after the header;
- the images, one after the other, located by an array of offsets from the first of them.

CRC-32 checksums guard the header, all arrays together, and, in a separate array, every image.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..errors import UnreadableImageError, UserError, one_line
from ..io import atomic_write, limit_pixels, max_pixels, output_folder, reading
from ..keypoints import resolve_skeleton
from ..metrics import resolve_metric
from .cache import crop_region
from .dataset import SPLITS, Image, PeopleSource, Person, PersonRecord
from .image_io import decode
from .left_out import LeftOut, missing_images
from .transforms import MAP_STRIDE, Augmentation, transform_points

MAGIC = b"PRMpeopl"
VERSION = 1
_PREFIX = struct.Struct("<8sIIIxxxxQ")
_ALIGN = 64
_WRITER = "expected a file written by python -m pyranet_fast.data.pack"

Array = npt.NDArray[Any]

# The arrays of a split with N people of K joints, named SPLIT/NAME in the file. Names are part of the format.
ARRAYS = {
    "joints": np.dtype("float32"),  # (N, K, 2), pixels of the picture
    "labelled": np.dtype("bool"),  # (N, K)
    "centre": np.dtype("float32"),  # (N, 2); NaN where the labels could not be read
    "scale": np.dtype("float64"),  # (N,)
    "reference_length": np.dtype("float64"),  # (N,)
    "transform": np.dtype("float64"),  # (N, 2, 3), pixels of the picture to those of the published image
    "frame": np.dtype("float64"),  # (N, 4), as PeopleSource.frame
    "offsets": np.dtype("int64"),  # (N + 1,), where pictures begin; one of no bytes is not there
    "crc32": np.dtype("uint32"),  # (N,), of the picture
}


# Reading.


def _count(value: Any) -> int:
    """A whole number of at least 0, of a header."""
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not an integer of at least 0")
    return value


class PackedFile:
    """A memory-mapped packed file, whose pages are shared by all processes.

    Attributes:
        path: path of the file.
        header: header of the file.
        crc: CRC-32 of the header, which includes that of the arrays; identifies the file.
    """

    def __init__(self, path: str | Path) -> None:
        """Map a file.

        Raises:
            UserError: no such file, or one that is foreign, truncated, changed, or of a newer version.
        """
        self.path = Path(path)
        with reading(self.path, "a packed file"):
            self._open(path)

    def _open(self, path: str | Path) -> None:
        if not self.path.is_file():
            raise UserError(f"packed file {path} {'is no file' if self.path.exists() else 'does not exist'}; {_WRITER}")
        with self.path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if not prefix.startswith(MAGIC):
                raise UserError(f"{path} is no file of packed people: it begins with {prefix[:8]!r}; {_WRITER}")
            if len(prefix) < _PREFIX.size:
                raise UserError(f"packed file {path} is truncated: it has {len(prefix)} bytes; pack the people again")
            _, version, length, self.crc, size = _PREFIX.unpack(prefix)
            if not 1 <= version <= VERSION:
                raise UserError(
                    f"packed file {path} has format version {version}; this version of pyranet_fast reads up to "
                    f"{VERSION}: please upgrade it"
                )
            found = file.seek(0, 2)
            if found != size:
                what = "truncated" if found < size else "changed"
                raise UserError(f"packed file {path} is {what}: it has {found} bytes of {size}; pack the people again")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        text = self._map[_PREFIX.size : _PREFIX.size + length]
        if len(text) != length or zlib.crc32(text) != self.crc:
            raise self._damaged("header is")
        try:
            self.header: dict[str, Any] = json.loads(text)
            start = _PREFIX.size + length
            start += -start % _ALIGN
            self._pictures = start + _count(self.header["pictures_at"])
            if zlib.crc32(memoryview(self._map)[start : self._pictures]) != self.header["arrays_crc32"]:
                raise self._damaged("arrays are")
            self._arrays = {name: self._view(start, **place) for name, place in self.header["arrays"].items()}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged("header is") from error

    def _damaged(self, part: str) -> UserError:
        return UserError(f"packed file {self.path} is damaged: its {part} not as written; pack the people again")

    def _view(self, start: int, dtype: str, shape: list[int], at: int) -> Array:
        kind = np.dtype(dtype)
        if kind.kind not in "iufb":
            raise TypeError(dtype)
        count = math.prod(map(_count, shape))
        if start + _count(at) + count * kind.itemsize > self._pictures:
            raise ValueError(shape)
        return np.frombuffer(self._map, kind, count, start + at).reshape(shape)

    @property
    def picture_bytes(self) -> int:
        """Number of bytes of all images."""
        return len(self._map) - self._pictures

    def array(self, name: str) -> Array:
        """Return a read-only array; UserError if it is missing."""
        if name not in self._arrays:
            raise self._damaged(f"arrays lack {name}: they are")
        return self._arrays[name]

    def picture(self, start: int, end: int, crc: int) -> bytes:
        """Return an encoded image by its offsets; ValueError if its checksum is not ``crc``."""
        data = self._map[self._pictures + start : self._pictures + end]
        if zlib.crc32(data) != crc:
            raise ValueError("its bytes are not as written")
        return data


class PackedSource(PeopleSource):
    """One split of a packed file, in the order of the packed source.

    The file is memory-mapped; a copy in another process, forked or spawned, reopens it. ``reach`` and ``detail``
    describe the packed part of the images.

    Attributes:
        failures: reason, by index, for people packed without an image.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        """Open ``split``, ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            UserError: no such file, not a packed file, damaged, or without that split.
        """
        self.path, self.split = Path(path).absolute(), split
        self._file = PackedFile(path)
        with reading(path, f"a packed file with a split {split!r}; {_WRITER}"):
            self._open(path, split)

    def _open(self, path: str | Path, split: str) -> None:
        splits = self._file.header["splits"]
        if split not in splits:
            raise UserError(f"packed file {path} has no split {split!r}; it has {', '.join(splits)}")
        self._group = splits[split].get("same_as", split)
        about = splits[self._group]
        self.skeleton = resolve_skeleton(about["skeleton"])
        self.metric = resolve_metric(about["metric"], self.skeleton)
        if about.get("oks_sigmas"):
            self.metric = dataclasses.replace(self.metric, oks_sigmas=tuple(about["oks_sigmas"]))
        if not about.get("published", not about["name"].startswith("demo")):  # files without it are of version 0.1.0
            self.metric = dataclasses.replace(self.metric, published=())
        self.name = f"{about['name']}, packed"
        self._count = _count(about["people"])
        self.reach, self.detail = (math.inf if about[k] is None else float(about[k]) for k in ("reach", "detail"))
        self._arrays = {name: self._array(name) for name in ARRAYS}
        texts = json.loads(self._file.array(f"{self._group}/texts").tobytes())
        self._names: list[str] = texts["names"]
        self._check_arrays()
        self.failures: dict[int, str] = {int(index): why for index, why in texts["failures"].items()}
        self._places = self._array("numbers") if about["numbers"] else None
        # Files of version 0.1.0 have the ids of the images alone.
        self._records: dict[str, list[Any]] = texts.get("records") or {"image_id": texts["ids"] or self._names}
        if any(len(values) != self._count for values in self._records.values()):
            raise UserError(f"{self.path}: records are not one a person; it is damaged")
        self.notes = tuple(str(note) for note in about["notes"])
        if self.failures:
            self.notes += (f"{self.name}: {len(self.failures)} of {self._count} people were packed without a picture",)

    def _check_arrays(self) -> None:
        """Check sizes and dtypes of all arrays; they are not checked again."""
        n, k = self._count, len(self.skeleton)
        shapes = {
            "joints": (n, k, 2), "labelled": (n, k), "centre": (n, 2), "transform": (n, 2, 3), "frame": (n, 4),
            "offsets": (n + 1,),
        }  # fmt: skip
        for name, kind in ARRAYS.items():
            found = self._arrays[name]
            if found.shape != shapes.get(name, (n,)) or found.dtype != kind:
                raise UserError(f"{self.path}: {name} has shape {found.shape} and type {found.dtype}; it is damaged")
        offsets = self._arrays["offsets"]
        if offsets[0] < 0 or np.any(np.diff(offsets) < 0) or offsets[-1] > self._file.picture_bytes:
            raise UserError(f"{self.path}: offsets lead outside the pictures; it is damaged")
        if len(self._names) != n or not all(isinstance(name, str) for name in self._names):
            raise UserError(f"{self.path}: there are {len(self._names)} names of {n} people; it is damaged")
        seen = ~np.isnan(self._arrays["centre"]).any(axis=1)
        if not np.all(self._arrays["scale"][seen] > 0) or not np.isfinite(self._arrays["scale"][seen]).all():
            raise UserError(f"{self.path}: a scale is not above 0; it is damaged")

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._file.array(f"{self._group}/{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.split, self._file.crc)

    @property
    def crc(self) -> int:
        """Checksum that identifies the file."""
        return self._file.crc

    def __len__(self) -> int:
        return self._count

    def image(self, index: int) -> Image:
        start, end = (int(at) for at in self._arrays["offsets"][index : index + 2])
        if start == end:
            raise self._missing(index)
        try:
            return decode(self._file.picture(start, end, int(self._arrays["crc32"][index])))
        except (cv2.error, ValueError) as error:
            raise UnreadableImageError(
                f"packed file {self.path}: picture of {self._names[index]} is damaged: {error}", "is damaged"
            ) from error

    def _missing(self, index: int) -> UnreadableImageError:
        why = self.failures.get(index, "unknown")
        return UnreadableImageError(
            f"packed file {self.path} has no picture of {self._names[index]}; when packed: {why}", "was not packed"
        )

    def image_name(self, index: int) -> str:
        return self._names[index]

    def record(self, index: int) -> PersonRecord:
        known = {name: values[index] for name, values in self._records.items()}
        if known.get("box") is not None:
            known["box"] = tuple(known["box"])
        if self._places is not None:
            known["place"] = (int(self._places[index, 0]), int(self._places[index, 1]))
        return PersonRecord(**known)

    def available(self) -> list[int]:
        """Return the indices of the people packed with an image."""
        found: list[int] = np.flatnonzero(np.diff(self._arrays["offsets"])).tolist()
        return found

    def person(self, index: int) -> Person:
        if np.isnan(self._arrays["centre"][index]).any():
            raise self._missing(index)
        return Person(
            joints=self._arrays["joints"][index],
            labeled=self._arrays["labelled"][index],
            center=self._arrays["centre"][index],
            scale=float(self._arrays["scale"][index]),
        )

    def reference_length(self, index: int) -> float:
        return float(self._arrays["reference_length"][index])

    def to_original(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return transform_points(self._arrays["transform"][index], points)

    def frame(self, index: int, image: Image) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._arrays["frame"][index].copy()
        return found


def _reopen(path: Path, split: str, crc: int) -> PackedSource:
    source = PackedSource(path, split)
    if source.crc != crc:
        raise UserError(f"packed file {path} was replaced while it was in use; start again")
    return source


# Writing.

# The 11,000 training people of LSP and LSP-extended then take 60 MB with their labels.
QUALITY, LIMIT = 75, 5500
HELD_OUT_QUALITY = 95
# Half of the widest crop of `evaluate --scales 6`.
HELD_OUT_REACH = 0.65

_WORST_QUALITY = 5  # no limit forces a lower one
_FULL_CHROMA = 90  # from this quality on, color is stored at every pixel
_AT_ONCE = 64  # people in work
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@dataclass(frozen=True)
class PictureSettings:
    """Storage settings of the images of a split.

    Attributes:
        reach, detail: the region around a person, as for ``crop_region``.
        quality: JPEG quality, 1 to 100.
        limit: maximum bytes; larger images get the highest quality that fits. None: no limit.
    """

    reach: float
    detail: float
    quality: int
    limit: int | None = None


def write_packed(
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
    """Write people into one file atomically; ``PackedSource`` reads it.

    Training images are cropped to the reach of augmentation and downsampled to at most ``input_size`` pixels per crop
    side. Others are cropped to the reach of six-scale testing, at up to twice that size.

    Args:
        output: output file; replaced if it exists.
        splits: people by ``"train"``, ``"val"``, ``"test"``. Identical val and test are written once.
        input_size: network input size to pack for, pixels.
        reach: half-width of training images, in crop sides; None: ``Augmentation().reach``.
        quality: JPEG quality of training images, 1 to 100.
        limit: maximum bytes of a training image; larger ones get the quality that fits. None: no limit.
        held_out_quality: JPEG quality of other images.
        on_error: ``"skip"`` packs people with an unreadable image without an image.
        about: additional header entries: ``dataset``, ``command``, ``written_by``.
        say: called with one line per person packed without an image, and with their number before and after.
        progress: show a progress bar.

    Returns:
        Header entries of each split: ``people``, ``pictures``, ``bytes`` (of the pictures), ``mean_quality``
        and ``psnr`` (means over images; dB, JPEG only), …; ``same_as`` for a split with the
        people of another one.

    Raises:
        UserError: an image, or every image of a split, cannot be read; ``output`` is a folder or cannot be written.
        ValueError: an argument is invalid.
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
            raise ValueError(f"{name} must be {low} to {high}, got {value}")
    if not splits or any(split not in SPLITS for split in splits):
        raise ValueError(f"splits must name at least one of {', '.join(SPLITS)}, got {list(splits)}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    output = Path(output)
    if output.is_dir():
        raise UserError(f"output must be a file to write, got the folder {output}")
    folder = output_folder(output.parent)
    train = PictureSettings(reach, float(input_size), quality, limit)
    held_out = PictureSettings(HELD_OUT_REACH, 2.0 * input_size, held_out_quality)
    contents: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Array] = {}
    with tempfile.TemporaryFile(dir=folder) as pictures:
        for split, source in splits.items():
            twin = next(
                (name for name in contents if "train" not in (name, split) and _same(splits[name], source)), None
            )
            if twin is not None:
                contents[split] = {"same_as": twin}
                continue
            settings = train if split == "train" else held_out
            contents[split], found = _write_split(
                split, source, settings, pictures, skip=on_error == "skip", say=say, progress=progress
            )
            arrays |= {f"{split}/{name}": array for name, array in found.items()}
        header = {**(about or {}), "splits": contents}
        atomic_write(output, lambda file: _write_file(file, header, arrays, pictures))
    return contents


def _same(a: PeopleSource, b: PeopleSource) -> bool:
    """Tell whether two splits of one dataset are the same people."""
    return (
        a.name == b.name
        and len(a) == len(b)
        and all(a.image_name(index) == b.image_name(index) for index in range(len(a)))
    )


@dataclass(frozen=True)
class _PackedPerson:
    """A person's row of the arrays, the picture, and what the header's figures are computed from."""

    row: dict[str, Any]
    picture: bytes = b""
    failure: UserError | None = None
    cut: bool = False
    reduced: bool = False
    quality: int = 0
    psnr: float = math.nan


def _write_split(
    split: str,
    source: PeopleSource,
    settings: PictureSettings,
    pictures: IO[bytes],
    *,
    skip: bool,
    say: Callable[[str], None] | None,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Append the pictures of a split's people to ``pictures``; see ``write_packed``.

    Returns:
        What the header says of the split, and its arrays.

    Raises:
        UserError: an image cannot be read and ``skip`` is false, or not a single one can.
    """
    there = set(source.available())
    if say and len(there) < len(source):
        say(f"{source.name}: {missing_images(source).sentence(len(source))}")
    left_out = LeftOut()
    offsets, sums, people = [pictures.tell()], [], []
    bar = tqdm(total=len(source), unit="person", desc=split, disable=not progress or None, dynamic_ncols=True)
    with (
        bar,
        ThreadPoolExecutor(min(16, os.cpu_count() or 1), initializer=limit_pixels, initargs=(max_pixels(),)) as pool,
    ):
        for index, person in enumerate(_in_order(pool, partial(_pack_person, source, settings), len(source))):
            if person.failure is not None:
                if not skip:
                    raise person.failure
                left_out.add_unreadable(person.failure, source.image_name(index))
                if say and index in there:
                    say(f"without a picture: {source.image_name(index)}: {one_line(str(person.failure))}")
            pictures.write(person.picture)
            offsets.append(pictures.tell())
            sums.append(zlib.crc32(person.picture))
            people.append(dataclasses.replace(person, picture=b""))
            bar.update()
    if len(left_out) == len(people):
        raise UserError(f"{source.name}: no image of the {len(source)} people can be read: {left_out.reasons()}")
    if say and left_out:
        say(f"{source.name}: {left_out.sentence(len(source))}".replace("left out", "packed without a picture"))
    about = _split_header(source, settings, people, offsets[-1] - offsets[0])
    return about, _split_arrays(source, people, offsets, sums)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], _PackedPerson], count: int) -> Iterator[_PackedPerson]:
    """Results of ``work`` for 0 to count - 1, of which only some wait in memory."""
    for first in range(0, count, _AT_ONCE):
        yield from pool.map(work, range(first, min(first + _AT_ONCE, count)))


def _split_header(
    source: PeopleSource, settings: PictureSettings, people: list[_PackedPerson], size: int
) -> dict[str, Any]:
    readable = [person for person in people if person.failure is None]
    reach = min(source.reach, settings.reach if any(person.cut for person in readable) else math.inf)
    detail = min(source.detail, settings.detail if any(person.reduced for person in readable) else math.inf)
    return {
        "people": len(source),
        "pictures": len(readable),
        "bytes": size,
        "psnr": round(float(np.mean([person.psnr for person in readable])), 2),
        "quality": settings.quality,
        "limit": settings.limit,
        "mean_quality": round(float(np.mean([person.quality for person in readable])), 1),
        "reach": reach if math.isfinite(reach) else None,
        "detail": detail if math.isfinite(detail) else None,
        "name": source.name,
        "metric": source.metric.key,
        "published": bool(source.metric.published),
        "notes": list(source.notes),
        "oks_sigmas": source.metric.oks_sigmas,
        "numbers": _places(source) is not None,
        "skeleton": source.skeleton.as_dict(),
    }


def _split_arrays(
    source: PeopleSource, people: list[_PackedPerson], offsets: list[int], sums: list[int]
) -> dict[str, Array]:
    columns = {name: [person.row[name] for person in people] for name in people[0].row}
    columns |= {"offsets": offsets, "crc32": sums}
    arrays = {name: np.array(columns[name], kind) for name, kind in ARRAYS.items()}
    names = [source.image_name(index) for index in range(len(source))]
    records = [source.record(index) for index in range(len(source))]
    ids = [record.image_id for record in records]
    failures = {i: one_line(str(person.failure)) for i, person in enumerate(people) if person.failure is not None}
    texts: dict[str, Any] = {"names": names, "ids": None if ids == names else ids, "failures": failures}
    if any(record != PersonRecord(name, place=record.place) for name, record in zip(names, records, strict=True)):
        texts["records"] = {
            field.name: [getattr(record, field.name) for record in records]
            for field in dataclasses.fields(PersonRecord)
            if field.name != "place"
        }
    arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    places = _places(source)
    if places is not None:
        arrays["numbers"] = np.array(places, np.int64)
    return arrays


def _places(source: PeopleSource) -> list[tuple[int, int]] | None:
    """Places in MPII's list, where all people have one."""
    places = [source.record(index).place for index in range(len(source))]
    return None if None in places else places  # type: ignore[return-value]


def _pack_person(source: PeopleSource, settings: PictureSettings, index: int) -> _PackedPerson:
    try:
        region = crop_region(source, index, settings.reach, settings.detail)
    except UserError as error:
        return _PackedPerson(_row_without_picture(source, index), failure=error)
    picture, quality = _encode(region.pixels, settings)
    origin, right, down = source.to_original(index, region.to_image(_CORNERS))
    transform = np.stack([right - origin, down - origin, origin], axis=1)
    return _PackedPerson(
        _labels(region.person, region.reference_length) | {"transform": transform, "frame": region.frame},
        picture,
        cut=region.cut,
        reduced=region.ratio > 1,
        quality=quality,
        psnr=_psnr(decode(picture), region.pixels),
    )


def _row_without_picture(source: PeopleSource, index: int) -> dict[str, Any]:
    """The labels as they are, so far as they are known without the image."""
    try:
        labels = _labels(source.person(index), source.reference_length(index))
    except UserError:
        count, nowhere = len(source.skeleton), np.full(2, np.nan)
        labels = _labels(Person(np.zeros((count, 2)), np.zeros(count, bool), nowhere, math.nan), math.nan)  # type: ignore[arg-type]
    return labels | {"transform": np.eye(2, 3), "frame": np.array([0.0, 0.0, 1.0, 1.0])}


def _labels(person: Person, reference_length: float) -> dict[str, Any]:
    """What the file's arrays hold of a person's labels, by their names there."""
    return {
        "joints": person.joints,
        "labelled": person.labeled,
        "centre": person.center,
        "scale": person.scale,
        "reference_length": reference_length,
    }


def _encode(image: Image, settings: PictureSettings) -> tuple[bytes, int]:
    """The picture in the given quality, or the best that keeps to the limit; and that quality."""
    picture = _jpeg(image, settings.quality)
    if settings.limit is None or len(picture) <= settings.limit or settings.quality <= _WORST_QUALITY:
        return picture, settings.quality
    low, high = _WORST_QUALITY, settings.quality  # the best is at least the first, and below the second
    best = _jpeg(image, low)
    while high - low > 1:
        middle = (low + high) // 2
        picture = _jpeg(image, middle)
        if len(picture) <= settings.limit:
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


def _write_file(file: IO[bytes], content: Mapping[str, Any], arrays: Mapping[str, Array], pictures: IO[bytes]) -> int:
    """Write header, arrays and pictures.

    Args:
        file: where to, from its start.
        content: the header, values of JSON; ``arrays``, ``arrays_crc32``, ``pictures_at`` are added to it.
        arrays: by name, numbers or truth values.
        pictures: the encoded pictures, read from its start to its end.

    Returns:
        The length of the file in bytes.
    """
    places, parts, at, crc = {}, [], 0, 0
    for name, array in arrays.items():
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        places[name] = {"dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape), "at": at}
        data += bytes(-len(data) % _ALIGN)
        crc = zlib.crc32(data, crc)
        parts.append(data)
        at += len(data)
    header = json.dumps({**content, "arrays": places, "arrays_crc32": crc, "pictures_at": at}, allow_nan=False).encode()
    start = _PREFIX.size + len(header)
    gap = bytes(-start % _ALIGN)
    size = start + len(gap) + at + pictures.seek(0, 2)
    file.write(_PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header), size))
    for part in (header, gap, *parts):
        file.write(part)
    pictures.seek(0)
    shutil.copyfileobj(pictures, file, 1 << 20)
    return size
