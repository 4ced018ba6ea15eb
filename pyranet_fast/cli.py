"""Shared by all commands: one-line errors, exit statuses, logging, common flags and allocator settings."""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import ctypes
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch

from .errors import FEWER_WORKERS, NO_SHARED_MEMORY, DataWarning, UserError, missing_package, one_line
from .io import MAX_PIXELS, limit_pixels, quiet_opencv

logger = logging.getLogger("pyranet_fast")
"""Progress, notes and errors of everything here. A command prints its results on stdout and logs the rest on stderr."""

BAD_INPUT = 2  # exit status of everything the user can mend; argparse uses the same
INTERRUPTED = 130  # 128 + SIGINT, what shells expect after Ctrl-C
IMPORT_SECONDS = 20.0  # for which an interruption waits for the end of an import at most


def run(main: Callable[..., int | None], *arguments: Any) -> int:
    """Call ``main(*arguments)`` and return the exit status of the process.

    ``UserError``, every ``OSError`` (missing file, no permission, full disk), memory that is used up and loader
    processes that died or found no room become one line ``error: …`` on stderr and status 2; Ctrl-C and SIGTERM become
    130, after what the command had was saved. Other exceptions are defects and keep their traceback. A ``DataWarning``
    is a line ``note: …`` on stderr. OpenCV's log is off.
    ``PYRANET_FAST_TRACEBACK=1`` in the environment keeps every traceback.
    """
    set_up_logging()
    quiet_opencv()
    try:
        with _interruptible(), warnings.catch_warnings():
            usual = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
                if issubclass(category, DataWarning):
                    logger.warning(f"note: {one_line(str(message))}")
                else:
                    usual(message, category, *more)

            warnings.showwarning = show  # type: ignore[assignment]
            return contextvars.copy_context().run(main, *arguments) or 0
    except KeyboardInterrupt:
        logger.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has exited; Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("PYRANET_FAST_TRACEBACK", "0") not in ("", "0"):
            raise
        logger.error(f"error: {sentence}")
        return BAD_INPUT


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, SIGTERM is a Ctrl-C, so that commands save what they have; a second one does not disturb that.

    Both wait for the end of an import: one that fails halfway leaves other errors than KeyboardInterrupt, and ends the
    process where C++ imports. Signals that the caller or a training handles are left alone.
    """
    waiting: set[int] = set()
    timers: list[threading.Timer] = []
    deadline = [0.0]

    def again(number: int) -> None:
        waiting.discard(number)
        signal.raise_signal(number)

    def stop(number: int, frame: FrameType | None) -> None:
        deadline[0] = deadline[0] or time.monotonic() + IMPORT_SECONDS  # of the first that comes
        if _importing(frame) and time.monotonic() < deadline[0]:
            if number not in waiting:
                waiting.add(number)
                timers[:] = [timer for timer in timers if timer.is_alive()]
                timers.append(threading.Timer(0.02, again, (number,)))
                timers[-1].daemon = True
                timers[-1].start()
            return
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        deadline[0] = 0.0
        raise KeyboardInterrupt

    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before: dict[int, Any] = {}
    try:
        for one, handler in usual.items():
            if signal.getsignal(one) == handler:
                before[one] = signal.signal(one, stop)
    except ValueError:  # not the main thread: leave signals to their owner
        before = {}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def sentence_of(error: BaseException) -> str | None:
    """Return one line for the user, or None if the exception is a defect of the program."""
    if isinstance(error, UserError):
        return one_line(_own_message(error))
    if isinstance(error, ImportError) and (sentence := missing_package(error)) is not None:
        return sentence
    if isinstance(error, torch.OutOfMemoryError):
        return "not enough GPU memory; use a smaller batch or input size, or --device cpu"
    if (sentence := _loader_sentence(error)) is not None:
        return sentence
    if (sentence := _memory_sentence(error)) is not None:
        return sentence
    # torch.save hides a full disk behind a RuntimeError, with the OSError as its context.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or (cause is not error and cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
        return None
    what = cause.strerror or _own_message(cause) or type(cause).__name__
    return one_line(f"{cause.filename}: {what}" if cause.filename is not None else what)


def _own_message(error: BaseException) -> str:
    """The message of an error; of one from a loader process, which has that process's traceback, the last line."""
    text = str(error).strip()
    if "in DataLoader worker process" in text:
        return re.sub(r"^[\w.]*(Error|Exception|Interrupt): ", "", text.splitlines()[-1])
    return text


# What torch says of loader processes, by what is the matter.
_NO_SHARED_MEMORY = re.compile(r"signal: Bus error|unable to [\w ]+ (?:shared memory|file </torch_)")
_NO_FILES = re.compile(r"Too many open files|received \d+ items of ancdata")
_WORKER_DIED = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)")


def _loader_sentence(error: BaseException) -> str | None:
    """What to do about loader processes that found no room for a batch, or died; None where it is something else."""
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        texts += [str(link)] if isinstance(link, RuntimeError | OSError) else []
        link = link.__cause__ or link.__context__
    text = "\n".join(texts)
    if "DataLoader worker" in text and _NO_FILES.search(text):
        return f"the loader processes have too many open files; {FEWER_WORKERS}, or raise the limit: ulimit -n 65536"
    if _NO_SHARED_MEMORY.search(text):
        return NO_SHARED_MEMORY
    died = [match[1] for match in _WORKER_DIED.finditer(text)]
    if not died:
        return None
    signal = next((name.strip() for name in died if name), "Killed")
    if signal == "Killed":
        return f"a loader process was killed, most likely because memory ran out; {FEWER_WORKERS}, or less --batch-size"
    return f"a loader process died ({signal}); --workers 0 loads without processes, and shows where"


# What libraries say where the memory of this machine, or the limit of the process, is used up; bytes where they tell.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory: you tried to allocate (\d+) bytes"
    r"|DefaultCPUAllocator: not enough memory: you tried to allocate (\d+) bytes"
    r"|Unable to allocate [\d.]+ \w+ for an array|Insufficient memory|Failed to allocate (\d+) bytes"
)


def _memory_sentence(error: BaseException) -> str | None:
    """What to do where there is no more memory on the CPU's side; None where it is something else."""
    found = _NO_MEMORY.search(str(error))
    if found is None and not isinstance(error, MemoryError):
        return None
    count = next((int(group) for group in found.groups() if group), 0) if found else 0
    asked = f" ({count / 1e9:.1f} GB more were asked for)" if count > 1e8 else ""
    return f"not enough memory{asked}; use a smaller --batch-size or --input-size, {FEWER_WORKERS}, or --no-cache"


class _PlainHandler(logging.Handler):
    """Lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")
        with contextlib.suppress(BrokenPipeError):
            # Without a bar nothing of tqdm: Ctrl-C while it makes its lock would become an AttributeError.
            if getattr(getattr(bars, "tqdm", None), "_instances", None):
                assert bars is not None
                bars.tqdm.write(self.format(record), file=sys.stderr)
            else:
                print(self.format(record), file=sys.stderr, flush=True)


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
    flags.add_argument(
        "--verbose", const=logging.DEBUG, help="log more: the values of all flags, every file saved", **common
    )
    flags.add_argument("--quiet", const=logging.WARNING, help="log only warnings and errors", **common)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command's flags, with ``--verbose`` and ``--quiet`` among them, and log as they say."""
    add_verbosity(parser)
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"reject images with more pixels (default: {MAX_PIXELS:,})",
    )
    arguments = parser.parse_args(argv)
    most = vars(arguments).pop("max_pixels", None)
    if most is not None:
        if most < 1:
            parser.error(f"--max-pixels must be a positive integer, got {most}")
        limit_pixels(most)
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
        Whether it was done: on Linux with glibc, unless a variable MALLOC_... is set.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
        return all(mallopt(ctypes.c_int(what), ctypes.c_int(value)) for what, value in settings)
    return False
