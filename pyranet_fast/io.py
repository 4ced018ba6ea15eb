"""Atomic file writing, output folders, and error handling for third-party files."""

from __future__ import annotations

import contextlib
import functools
import glob
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from .errors import UserError, one_line

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def reading(path: object, expected: str) -> Iterator[None]:
    """Turn any exception of a reader of third-party files into a `UserError`.

    Readers report the errors they check for; this handles unexpected ones, from libraries too, and declared sizes that
    exceed the memory.

    Args:
        path: the file, for messages.
        expected: expected content, such as ``"a COCO keypoint file"``.

    Raises:
        UserError: it names the file.
    """
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected {expected}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is; expected {expected}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; expected {expected}") from error
    except Exception as error:
        text = one_line(str(error))
        reason = f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
        raise UserError(f"{path} cannot be read; expected {expected} ({reason})") from error


def reader(expected: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that reads the file ``path``, one of its arguments, see `reading`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def read(*args: P.args, **keywords: P.kwargs) -> R:
            with reading(signature.bind(*args, **keywords).arguments["path"], expected):
                return function(*args, **keywords)

        return read

    return decorate


MAX_PIXELS = 200_000_000
"""Of an image: 0.6 GB decoded. `limit_pixels` (``--max-pixels``) and the variable PYRANET_FAST_MAX_PIXELS change it;
OpenCV's own limit is 2^30."""

_limit: ContextVar[int | None] = ContextVar("max_pixels", default=None)


def limit_pixels(most: int) -> None:
    """Set `max_pixels` for the current context; it is passed on to threads and processes that read images.

    Raises:
        UserError: ``most`` is below 1.
    """
    if most < 1:
        raise UserError(f"max_pixels is {most}; expected a number of pixels above 0")
    _limit.set(most)


def max_pixels() -> int:
    """Return the maximum number of pixels of an image.

    Raises:
        UserError: PYRANET_FAST_MAX_PIXELS is no number of pixels.
    """
    limit = _limit.get()
    if limit is not None:
        return limit
    text = os.environ.get("PYRANET_FAST_MAX_PIXELS", "")
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"PYRANET_FAST_MAX_PIXELS is {text!r}; expected a number of pixels above 0")
    return int(text) if text else MAX_PIXELS


def quiet_opencv() -> None:
    """Silence OpenCV's log on stderr, since our errors describe invalid images.

    For our own processes, commands and loaders; the environment variable OPENCV_LOG_LEVEL restores the log.
    """
    opencv = sys.modules.get("cv2")
    if opencv is not None and "OPENCV_LOG_LEVEL" not in os.environ:
        opencv.utils.logging.setLogLevel(opencv.utils.logging.LOG_LEVEL_SILENT)


def atomic_write(path: Path, write: Callable[..., object]) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to the disk, and rename it into place.

    Removes temporary files of processes killed while writing the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, temporary = _temporary_file(path)
    try:
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _temporary_file(path: Path) -> tuple[int, str]:
    """A new file beside ``path``, open, locked where the file system can do that, and its name."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # another process took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), other.open("r+b") as file:
            if _lock(file.fileno()):
                other.unlink(missing_ok=True)


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; whether that went. Other threads of this process are kept out too."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def output_folder(path: str | Path) -> Path:
    """Create a folder for results, with its parents, and return it.

    Raises:
        UserError: the path is a file, or the folder cannot be created or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in the way" if in_the_way else error.strerror
        raise UserError(f"output folder {path} cannot be made: {reason}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"output folder {path} cannot be written to: permission denied")
    return path
