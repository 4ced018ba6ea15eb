"""Predictions of an evaluation under way, so that an interrupted one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..atomic import atomic_write
from ..errors import UserError

SECONDS = 20.0  # between two states on the disk
_ARRAYS = ("predictions", "done", "readable", "frames")


class Partial:
    """Predictions so far, (N, K, 3) float32 with NaN where there is none, kept in a file.

    Attributes:
        predictions: x and y in image pixels, score.
        done: (N,) bool, whose turn has been.
        readable: (N,) bool, whose image could be read.
        frames: (N, 4) where the published images lie in those, see ``PeopleSource.frame``.
    """

    def __init__(
        self,
        people: int,
        joints: int,
        path: Path | None = None,
        what: dict[str, Any] | None = None,
        *,
        go_on: bool = True,
    ) -> None:
        """Start, or go on with the file ``path`` if it is of the same evaluation.

        Args:
            people: N.
            joints: K.
            path: where the state is kept; None keeps none.
            what: says which evaluation this is; a file that says something else is not used.
            go_on: false starts anew in any case.
        """
        self.path, self._what = path, json.dumps(what or {}, sort_keys=True)
        self.predictions = np.full((people, joints, 3), np.nan, np.float32)
        self.done = np.zeros(people, bool)
        self.readable = np.zeros(people, bool)
        self.frames = np.zeros((people, 4))
        self._saved = time.monotonic()
        if go_on and path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                same = str(file["what"]) == self._what and file["predictions"].shape == self.predictions.shape
                if same:
                    self.predictions, self.done, self.readable, self.frames = (np.array(file[name]) for name in _ARRAYS)
        except Exception as error:  # NumPy raises many kinds on a damaged file
            raise UserError(f"{path}, the state of an interrupted evaluation, cannot be read; delete it") from error

    def remaining(self) -> npt.NDArray[np.int64]:
        """Indices of the people whose turn has not been."""
        return np.flatnonzero(~self.done)

    def add(
        self,
        index: npt.NDArray[np.int64],
        rows: npt.NDArray[np.float32],
        valid: npt.NDArray[np.bool_],
        frames: npt.NDArray[np.float64],
    ) -> None:
        """Take (n, K, 3) predictions of people ``index``; those of unreadable images are left NaN."""
        self.predictions[index[valid]] = rows[valid]
        self.frames[index] = frames
        self.readable[index] = valid
        self.done[index] = True
        if self.path is not None and time.monotonic() - self._saved > SECONDS:
            self.save()

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if self.path is not None and self.done.any():
            state: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
            atomic_write(self.path, lambda file: np.savez(file, what=self._what, **state))
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Remove the file: the results are written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
