"""Results of a long run over many pictures: a JSON line each, as it is found, so that an interruption loses nothing.

While a run lasts, each process appends to a file of its own in the output folder, one write a line. At its end, and
before one that resumes, the first process joins them into ``predictions.jsonl``; ``predictions.json`` is made of that.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..io import atomic_write

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LINES, WHOLE = "predictions.jsonl", "predictions.json"
Key = tuple[str, int]


class Journal:
    """Lines of one run in an output folder, each picture's once.

    A context manager, which holds the folder's lock until it is left. Under several processes all make one with the
    same arguments but ``rank``, and wait for each other between the first one's `prepare` and `open`, and between
    `close` and its `finish`.

    Args:
        folder: the output folder.
        settings: what results depend on; a run with other ones is not resumed.
        rank: number of this process; the first, 0, joins and writes what all share.

    Attributes:
        path: the file of lines that this process appends to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.path = folder / f"predictions-{rank}.part.jsonl"
        text = json.dumps(settings, sort_keys=True, default=str)
        self._run = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._done: dict[Key, int] = {}  # and their numbers, in this run's source where they are in it
        self._seen: collections.Counter[str] = collections.Counter()
        self._file: int | None = None
        self._lock: int | None = None

    def prepare(self, *, resume: bool) -> None:
        """Join what an earlier run left, or remove it where this one does not resume; for the first process.

        Pictures that could not be read are tried again.

        Raises:
            UserError: another run is writing into the folder, or its contents were made with other settings.
        """
        self._take_lock()
        if resume:
            self._join(keep_errors=False)
        else:
            for path in (*self._parts(), self.folder / LINES):
                path.unlink(missing_ok=True)

    def open(self) -> None:
        """Read what is done and begin to write; for every process, after `prepare`.

        Raises:
            UserError: its contents were made with other settings.
        """
        self._done = {line.key: line.index for line in self._lines([self.folder / LINES])}
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o666)

    def turn(self, index: int, name: str) -> tuple[Key, bool]:
        """A picture's key, and whether it is done already; called for every picture of the source, in its order."""
        key = name, self._seen[name]
        self._seen[name] += 1
        done = key in self._done
        if done:
            self._done[key] = index  # the source may have grown
        return key, done

    @property
    def done(self) -> int:
        """Pictures that earlier runs did."""
        return len(self._done)

    def write(self, index: int, key: Key, entry: Mapping[str, Any]) -> None:
        """Append one picture's result. A killed process leaves the entire line or nothing of it."""
        assert self._file is not None
        head = {"index": index, "key": list(key), "run": self._run}
        line = json.dumps(head | dict(entry), allow_nan=False).encode() + b"\n"
        while line:  # a pipe or a full disk may take a part; what is left of a line is dropped when it is read
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """End this process's file."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def finish(self, head: Mapping[str, Any]) -> tuple[int, int]:
        """Join all lines and write ``predictions.json``; for the first process, when all have closed.

        Args:
            head: what stands before its lists ``predictions`` and ``errors``.

        Returns:
            Number of pictures done, and of those that could not be.
        """
        self._join(keep_errors=True)
        places = self._ordered()
        errors = sum(line.error for line in places)

        with open(self.folder / LINES, "rb") as lines:

            def entries(error: bool) -> Iterator[str]:
                for place in places:
                    if place.error == error:
                        lines.seek(place.at)
                        yield from _entries(json.loads(lines.readline()))

            def write(file: IO[bytes]) -> None:
                opening = json.dumps(dict(head), indent=2, allow_nan=False)
                file.write(opening.removesuffix("\n}").encode())
                for name, error in (("predictions", False), ("errors", True)):
                    file.write(f',\n  "{name}": ['.encode())
                    separator = "\n"
                    for entry in entries(error):
                        file.write((separator + entry).encode())
                        separator = ",\n"
                    file.write(b"]" if separator == "\n" else b"\n  ]")
                file.write(b"\n}\n")

            atomic_write(self.folder / WHOLE, write)
        return len(places) - errors, errors

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The joined results in the order of the source: ``image`` and ``people`` or ``error``, and so on."""
        places = self._ordered()
        with open(self.folder / LINES, "rb") as lines:
            for place in places:
                lines.seek(place.at)
                yield _content(json.loads(lines.readline()))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._file, self._lock):
            if handle is not None:
                os.close(handle)
        self._file = self._lock = None

    def _ordered(self) -> list[_Line]:
        return sorted(self._lines([self.folder / LINES]), key=lambda line: self._done.get(line.key, line.index))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("predictions-*.part.jsonl"))

    def _join(self, *, keep_errors: bool) -> None:
        """Every part's lines into the one file, each key once: the first, but a result rather than an error."""
        files = [path for path in (self.folder / LINES, *self._parts()) if path.exists()]
        best: dict[Key, _Line] = {}
        for line in self._lines(files):
            if (keep_errors or not line.error) and (line.key not in best or best[line.key].error > line.error):
                best[line.key] = line
        chosen = sorted(best.values(), key=lambda line: (files.index(line.path), line.at))

        def write(file: IO[bytes]) -> None:
            with contextlib.ExitStack() as stack:
                readers = {path: stack.enter_context(open(path, "rb")) for path in files}
                for line in chosen:
                    readers[line.path].seek(line.at)
                    file.write(readers[line.path].readline())

        atomic_write(self.folder / LINES, write)
        for path in self._parts():
            path.unlink()

    def _lines(self, paths: list[Path]) -> Iterator[_Line]:
        for path in paths:
            if not path.exists():
                continue
            with path.open("rb") as file:
                at = 0
                for text in file:
                    line = _parsed(text, path, at)
                    at += len(text)
                    if line is None:
                        continue
                    if line.run != self._run:
                        raise UserError(
                            f"{path} has results of other settings (checkpoint, boxes, flip, search, people …), and "
                            "--resume would mix them; expected the same command, or another --output"
                        )
                    yield line

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"another run is writing into {self.folder}; expected another --output") from error
            # A file system without locks: continue without one.


class _Line:
    """Where a line is, and what has to be known of it without its content."""

    __slots__ = ("at", "error", "index", "key", "path", "run")

    def __init__(self, content: Mapping[str, Any], path: Path, at: int) -> None:
        name, number = content["key"]
        self.key: Key = str(name), int(number)
        self.index, self.run, self.error = int(content["index"]), str(content["run"]), "error" in content
        self.path, self.at = path, at


def _parsed(text: bytes, path: Path, at: int) -> _Line | None:
    """None for a line that a killed process left unfinished."""
    if not text.endswith(b"\n"):
        return None
    try:
        return _Line(json.loads(text), path, at)
    except (ValueError, KeyError, TypeError):
        return None


def _content(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("index", "key", "run")}


def _entries(line: dict[str, Any]) -> Iterator[str]:
    """A line's entries in ``predictions.json``, one a person, indented."""
    content = _content(line)
    people = content.pop("people", [{}])
    for person in people:
        text = json.dumps(content | person, indent=2, allow_nan=False)
        yield "\n".join("    " + row for row in text.splitlines())
