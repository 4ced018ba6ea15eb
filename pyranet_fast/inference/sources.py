"""Where pictures come from: files, folders, globs, lists, videos, cameras, tar shards, URLs, arrays and iterators.

A source becomes an iterator of `Picture`: a name, and a function that reads it. Nothing is decoded until that is
called, which `read_ahead` does in threads, a bounded number of images ahead of the consumer.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import itertools
import os
import queue
import re
import shutil
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch

from ..data.dataset import Image
from ..data.image_io import as_rgb, read_image, read_image_bytes
from ..errors import UserError
from ..io import reading
from .video import VIDEO_SUFFIXES, read_camera, read_frames

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".jp2", ".pbm", ".pgm", ".ppm",
    ".gif",
)  # fmt: skip
"""Of the files that are taken from folders, folders behind URLs and tar shards; a file named by itself may have any."""
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LIST_SUFFIXES = (".txt", ".lst", ".list")
STANDARD_INPUT, CAMERA = "-", "camera:"
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Picture:
    """One picture of a source, not yet read.

    Attributes:
        name: a path as the user gave it, a URL, ``SHARD.tar/MEMBER``, ``VIDEO#FRAME`` or ``image N``.
        read: gives (H, W, 3) uint8 RGB, or raises a `UserError` that says what is wrong with it.
    """

    name: str
    read: Callable[[], Image]


def pictures(source: Any, *, recursive: bool = False, exclude: Path | None = None) -> Iterator[Picture]:
    """Yield the pictures of a source, in a fixed order.

    What is wrong with one part of the source (a missing folder, a truncated shard) becomes a picture that cannot be
    read, and the rest follows.

    Args:
        source: a text or path: an image, a folder, a glob, a list of paths (.txt, .lst), ``-`` (paths on standard
            input), a video file, ``camera:N``, a tar shard in WebDataset's layout (``shard-{000..009}.tar`` for
            several) or a URL of fsspec; a uint8 array (H, W), (H, W, 3), (H, W, 4) or (N, H, W, 3), or a tensor (H, W)
            or (C, H, W); a `Picture`; or an iterable of all these.
        recursive: look into the folders below a folder, too.
        exclude: a folder that is left out where it lies below one that is looked into.

    Raises:
        TypeError: a source of another kind.
    """
    numbers = itertools.count()
    yield from _pictures(source, recursive, exclude, numbers)


def is_live(source: Any) -> bool:
    """Whether pictures of this source come at a time of their own, so that it is not waited for a whole batch."""
    if isinstance(source, list | tuple):
        return any(is_live(part) for part in source)
    return isinstance(source, str) and (source == STANDARD_INPUT or source.startswith(CAMERA))


def is_listed(source: Any) -> bool:
    """Whether the names of a source's pictures are known before any is read: files, folders, globs, lists."""
    if isinstance(source, list | tuple):
        return all(is_listed(part) for part in source)
    if not isinstance(source, str | Path) or is_live(str(source)):
        return False
    return not _has_suffix(str(source), (*VIDEO_SUFFIXES, *TAR_SUFFIXES))


def _pictures(source: Any, recursive: bool, exclude: Path | None, numbers: Iterator[int]) -> Iterator[Picture]:
    if isinstance(source, Path):
        source = os.fspath(source)
    if isinstance(source, str):
        try:
            yield from _named(source, recursive, exclude)
        except UserError as error:
            yield Picture(source, _raising(error))
    elif isinstance(source, Picture):
        yield source
    elif isinstance(source, np.ndarray | torch.Tensor):
        stacked = isinstance(source, np.ndarray) and source.ndim == 4
        for image in source if stacked else [source]:
            yield Picture(f"image {next(numbers)}", _converting(image))
    elif isinstance(source, bytes) or not isinstance(source, Iterable):
        raise TypeError(
            "source must be a path, a URL, a uint8 array or tensor, or an iterable of them, got "
            f"{type(source).__name__}"
        )
    else:
        for part in source:
            yield from _pictures(part, recursive, exclude, numbers)


def _named(source: str, recursive: bool, exclude: Path | None) -> Iterator[Picture]:
    if source == STANDARD_INPUT:
        for line in sys.stdin:
            if line.strip():
                yield from _pictures(line.rstrip("\r\n"), recursive, exclude, itertools.count())
    elif source.startswith(CAMERA):
        for frame in read_camera(source.removeprefix(CAMERA)):
            yield Picture(f"{source}#{frame.number:06d}", lambda image=frame.image: image)  # type: ignore[misc]
    elif (match := _BRACES.search(source)) is not None and not os.path.exists(source):
        first, last = match[1], match[2]
        for number in range(int(first), int(last) + 1):
            part = source[: match.start()] + str(number).zfill(len(first)) + source[match.end() :]
            yield from _pictures(part, recursive, exclude, itertools.count())
    elif _URL.match(source):
        yield from _at_url(source, recursive)
    else:
        yield from _local(source, recursive, exclude)


def _local(source: str, recursive: bool, exclude: Path | None) -> Iterator[Picture]:
    if os.path.isdir(source):
        files = _in_folder(source, recursive, exclude)
        first = next(files, None)
        if first is None:
            deeper = "" if recursive else "; --recursive looks into the folders below it, too"
            raise UserError(f"folder {source} has no image files ({', '.join(IMAGE_SUFFIXES[:4])}, …){deeper}")
        for path in itertools.chain([first], files):
            yield _file(path)
    elif glob.has_magic(source) and not os.path.exists(source):
        paths = [path for path in sorted(glob.glob(source, recursive=True)) if not os.path.isdir(path)]
        if not paths:
            raise UserError(f"{source} matches no files")
        for path in paths:
            yield from _of_file(path)
    elif _has_suffix(source, LIST_SUFFIXES):
        yield from _listed(source, recursive, exclude)
    else:
        yield from _of_file(source)


def _of_file(path: str) -> Iterator[Picture]:
    if _has_suffix(path, VIDEO_SUFFIXES):
        for frame in read_frames(path):
            yield Picture(f"{path}#{frame.number:06d}", lambda image=frame.image: image)  # type: ignore[misc]
    elif _has_suffix(path, TAR_SUFFIXES):
        with reading(path, "a tar file of images"), open(path, "rb") as file:
            yield from _in_tar(path, file)
    else:
        yield _file(path)


def _file(path: str) -> Picture:
    return Picture(path, lambda: read_image(path))


def _in_folder(folder: str, recursive: bool, exclude: Path | None) -> Iterator[str]:
    left_out = None if exclude is None else os.path.realpath(exclude)
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if os.path.realpath(os.path.join(here, f)) != left_out)
        for name in sorted(files):
            if _has_suffix(name, IMAGE_SUFFIXES) and not name.startswith("."):
                yield os.path.join(here, name)
        if not recursive:
            return


def _listed(path: str, recursive: bool, exclude: Path | None) -> Iterator[Picture]:
    """The sources that the lines of a text file name, from its own folder or else from the current one."""
    with reading(path, "a text file with a path on each line"):
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UserError(f"{path} names no images; expected a path on each line")
    for name in names:
        if _has_suffix(name, LIST_SUFFIXES) or is_live(name):
            fault = UserError(f"{path}: {name} stands in a list; expected images, folders, globs, videos and tar files")
            yield Picture(name, _raising(fault))
            continue
        beside = os.path.join(os.path.dirname(path), name)
        there = not _URL.match(name) and (os.path.exists(beside) or (glob.has_magic(name) and glob.glob(beside)))
        yield from _pictures(beside if there else name, recursive, exclude, itertools.count())


def _in_tar(name: str, file: BinaryIO) -> Iterator[Picture]:
    """Yield the images of a shard in its order, read as a stream; other members (labels, captions) are ignored."""
    none = True
    with tarfile.open(fileobj=file, mode="r|*") as shard:
        for member in shard:
            if member.isfile() and _has_suffix(member.name, IMAGE_SUFFIXES):
                content = shard.extractfile(member)
                assert content is not None
                none = False
                yield _encoded(f"{name}/{member.name}", content.read())
    if none:
        raise UserError(f"{name} has no image files ({', '.join(IMAGE_SUFFIXES[:4])}, …)")


def _encoded(name: str, data: bytes) -> Picture:
    return Picture(name, lambda: read_image_bytes(data, name))


def _at_url(url: str, recursive: bool) -> Iterator[Picture]:
    if importlib.util.find_spec("fsspec") is None:
        raise UserError(f"{url} is a URL, which needs fsspec: pip install fsspec, and the package for its protocol")
    import fsspec

    with reading(url, "a URL that fsspec reads"):
        try:
            system, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
            raise UserError(f"{url} cannot be opened: {error}") from error

        def open_url(at: str) -> bytes:
            with reading(at, "a file behind a URL"), fsspec.open(at, "rb") as file:
                return bytes(file.read())

        if glob.has_magic(path):
            found = [at for at in system.glob(path) if not system.isdir(at)]
        elif system.isdir(path):
            deeper = system.find(path) if recursive else [at for at in system.ls(path, detail=False)]
            found = [at for at in deeper if _has_suffix(at, IMAGE_SUFFIXES)]
        else:
            found = [path]
        if not found:
            raise UserError(f"{url} has no image files")
        for at in sorted(found):
            whole = url if at == path else str(system.unstrip_protocol(at))
            if _has_suffix(at, TAR_SUFFIXES):
                with fsspec.open(whole, "rb") as file:
                    yield from _in_tar(whole, file)
            elif _has_suffix(at, VIDEO_SUFFIXES):
                yield from _film_at_url(whole)
            else:
                yield Picture(whole, lambda at=whole: read_image_bytes(open_url(at), at))  # type: ignore[misc]


def _film_at_url(url: str) -> Iterator[Picture]:
    """The frames of a video from a temporary copy: formats have their index at the end, and decoders seek."""
    import fsspec

    with tempfile.TemporaryDirectory(prefix="pyranet_fast-") as folder:
        copy = os.path.join(folder, f"video{PurePosixPath(url).suffix}")
        with fsspec.open(url, "rb") as source, open(copy, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        try:
            for frame in read_frames(copy):
                yield Picture(f"{url}#{frame.number:06d}", lambda image=frame.image: image)  # type: ignore[misc]
        except UserError as error:
            # Not the message of the copy: it names a path that the user never saw.
            raise UserError(f"video {url} cannot be read; expected a video that FFmpeg decodes") from error


def _has_suffix(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.lower().endswith(suffixes) and PurePosixPath(path).name.lower() not in suffixes


def _converting(image: Any) -> Callable[[], Image]:
    return lambda: as_rgb(image)


def _raising(error: UserError) -> Callable[[], Image]:
    def read() -> Image:
        raise error

    return read


@dataclass(frozen=True)
class Loaded:
    """A picture that was read.

    Attributes:
        index: its number in the source, from 0.
        name: of the `Picture`.
        image: (H, W, 3) uint8 RGB, or the error that says why there is none.
    """

    index: int
    name: str
    image: Image | UserError


Numbered = tuple[int, Picture]
_Slot = tuple[int, Picture, "Future[Image]"]


@contextlib.contextmanager
def read_ahead(
    numbered: Iterable[Numbered], *, threads: int, ahead: int, live: bool = False, newest: bool = False
) -> Iterator[Iterator[list[Loaded]]]:
    """Read pictures in threads, at most ``ahead`` of them before they are asked for.

    Args:
        numbered: pictures and their numbers. Iterated in a separate thread.
        threads: that decode.
        ahead: pictures in memory in addition to those already yielded.
        live: yield what is available instead of waiting for ``ahead`` images.
        newest: of pictures that come faster than they are taken, drop the older ones.

    Yields:
        An iterator of lists of at least one and at most ``ahead`` pictures, in their order.
    """
    slots = _Slots(1 if newest else ahead, newest)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")
    feeder = threading.Thread(target=slots.feed, args=(numbered, pool), daemon=True, name="pictures")
    feeder.start()
    try:
        yield slots.batches(ahead, live)
    finally:
        slots.stop.set()
        feeder.join(timeout=1.0)  # one that waits for a camera or for standard input ends with the process
        pool.shutdown(wait=False, cancel_futures=True)


class _Slots:
    """A queue of pictures that are being read, between the thread that names them and the one that takes them."""

    def __init__(self, size: int, newest: bool) -> None:
        self._queue: queue.Queue[_Slot | BaseException | None] = queue.Queue(maxsize=size)
        self._newest = newest
        self.stop = threading.Event()

    def feed(self, numbered: Iterable[Numbered], pool: ThreadPoolExecutor) -> None:
        try:
            for index, picture in numbered:
                if self.stop.is_set():
                    return
                self._put((index, picture, pool.submit(picture.read)))
            self._put(None)
        except BaseException as error:  # it is raised where pictures are taken
            self._put(error)

    def _put(self, slot: _Slot | BaseException | None) -> None:
        drops = self._newest and isinstance(slot, tuple)
        while not self.stop.is_set():
            try:
                self._queue.put(slot, timeout=0 if drops else 0.1)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    _ = self._queue.get_nowait() if drops else None

    def batches(self, size: int, live: bool) -> Iterator[list[Loaded]]:
        while True:
            batch: list[Loaded] = []
            slot: _Slot | BaseException | None = None
            while len(batch) < size and not (batch and live and self._queue.empty()):
                slot = self._queue.get()
                if not isinstance(slot, tuple):
                    break
                batch.append(_loaded(*slot))
            if batch:
                yield batch
            if isinstance(slot, BaseException):
                raise slot
            if slot is None:
                return


def _loaded(index: int, picture: Picture, future: Future[Image]) -> Loaded:
    try:
        return Loaded(index, picture.name, future.result())
    except UserError as error:
        return Loaded(index, picture.name, error)
