"""What all commands share: one line per error, exit statuses, the output folder, the allocator's setting."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import DataWarning, UserError

BAD_INPUT = 2  # exit status of everything the user can mend; argparse uses the same
INTERRUPTED = 130  # 128 + SIGINT, what shells expect after Ctrl-C


def run(main: Callable[..., int | None], *arguments: Any) -> int:
    """Call ``main(*arguments)`` and return the exit status of the process.

    ``UserError``, every ``OSError`` (missing file, no permission, full disk) and a GPU out of memory become
    one line ``error: …`` on stderr and status 2; Ctrl-C becomes 130. Other exceptions are defects and keep
    their traceback. A ``DataWarning`` is a line ``note: …`` on stderr.
    ``PYRANET_FAST_TRACEBACK=1`` in the environment keeps every traceback.
    """
    try:
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
                if issubclass(category, DataWarning):
                    print(f"note: {one_line(str(message))}", file=sys.stderr)
                else:
                    usual(message, category, *more)

            warnings.showwarning = show  # type: ignore[assignment]
            return main(*arguments) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("PYRANET_FAST_TRACEBACK", "0") not in ("", "0"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return BAD_INPUT


def sentence_of(error: BaseException) -> str | None:
    """The one line that tells a user what to mend, or None where the exception is a defect of the program."""
    if isinstance(error, UserError):
        return one_line(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return "not enough GPU memory; use a smaller batch or input size, or --device cpu"
    # torch.save hides a full disk behind a RuntimeError of its own, with the OSError as its context.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or (cause is not error and cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
        return None
    what = cause.strerror or str(cause) or type(cause).__name__
    return one_line(f"{cause.filename}: {what}" if cause.filename is not None else what)


def one_line(text: str) -> str:
    """The text without line breaks and runs of spaces."""
    return " ".join(text.split())


def output_folder(path: str | Path) -> Path:
    """Make a folder for results, with its parents, and return it.

    Raises:
        UserError: a file is in the way, or the folder cannot be made or written to.
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


def device(name: str | torch.device | None = "auto") -> torch.device:
    """The device of a name; ``"auto"`` and None mean the GPU where there is one, else the CPU.

    Raises:
        UserError: not a name of a device, or a device that this machine or this build of torch does not have.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(name)!r} is not known; accepted are auto, cpu, cuda and cuda:N")
    if chosen.type == "cuda":
        asked = f"device {str(name)!r} was asked for, but"
        if not torch.backends.cuda.is_built():
            raise UserError(f"{asked} torch {torch.__version__} is built without CUDA; use cpu or auto")
        if not torch.cuda.is_available():
            raise UserError(f"{asked} torch finds no CUDA GPU on this machine; use cpu or auto")
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise UserError(f"{asked} the last GPU of this machine is cuda:{count - 1}")
    return chosen


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_pages() -> bool:
    """Let glibc's allocator keep the memory that tensors free, for the next ones.

    By default it hands maps of megabytes back to the system as they are freed, and every one that follows costs a page
    fault for each 4 kB: 45,000 in one forward pass of 2 stacks at batch 4, a tenth of its time. For processes of our
    own, so the commands call it and the library does not; the process holds on to its peak of memory.

    Returns:
        Whether it was done: on Linux with glibc, unless a variable MALLOC_... says that somebody has chosen.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
        return all(mallopt(ctypes.c_int(what), ctypes.c_int(value)) for what, value in settings)
    return False
