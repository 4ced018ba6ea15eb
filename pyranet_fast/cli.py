"""What all commands share: one line per error, exit statuses, what they log and how much, the allocator's setting."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from .errors import DataWarning, UserError, one_line

logger = logging.getLogger("pyranet_fast")
"""Progress, notes and errors of everything here. A command prints its results on stdout and logs the rest on stderr."""

BAD_INPUT = 2  # exit status of everything the user can mend; argparse uses the same
INTERRUPTED = 130  # 128 + SIGINT, what shells expect after Ctrl-C


def run(main: Callable[..., int | None], *arguments: Any) -> int:
    """Call ``main(*arguments)`` and return the exit status of the process.

    ``UserError``, every ``OSError`` (missing file, no permission, full disk) and a GPU out of memory become
    one line ``error: …`` on stderr and status 2; Ctrl-C becomes 130. Other exceptions are defects and keep
    their traceback. A ``DataWarning`` is a line ``note: …`` on stderr.
    ``PYRANET_FAST_TRACEBACK=1`` in the environment keeps every traceback.
    """
    set_up_logging()
    try:
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
                if issubclass(category, DataWarning):
                    logger.warning(f"note: {one_line(str(message))}")
                else:
                    usual(message, category, *more)

            warnings.showwarning = show  # type: ignore[assignment]
            return main(*arguments) or 0
    except KeyboardInterrupt:
        logger.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("PYRANET_FAST_TRACEBACK", "0") not in ("", "0"):
            raise
        logger.error(f"error: {sentence}")
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


class _PlainHandler(logging.Handler):
    """Lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(BrokenPipeError):
            tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(level: int = logging.INFO) -> None:
    """Show what the package logs from ``level`` on, as plain lines on stderr."""
    if not any(isinstance(handler, _PlainHandler) for handler in logger.handlers):
        logger.addHandler(_PlainHandler())
    logger.setLevel(level)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """The flags ``--verbose`` and ``--quiet``."""
    # Nothing is stored unless one is given, so that a subcommand does not undo what stands before it.
    common: dict[str, Any] = {"dest": "verbosity", "action": "store_const", "default": argparse.SUPPRESS}
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument("--verbose", const=logging.DEBUG, help="log more: values of all flags, what is saved", **common)
    flags.add_argument("--quiet", const=logging.WARNING, help="log warnings and errors only", **common)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command's flags, with ``--verbose`` and ``--quiet`` among them, and log as they say."""
    add_verbosity(parser)
    arguments = parser.parse_args(argv)
    set_up_logging(vars(arguments).pop("verbosity", logging.INFO))
    values = ", ".join(f"{name} {value!r}" for name, value in vars(arguments).items())
    logger.debug(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {values}")
    return arguments


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
