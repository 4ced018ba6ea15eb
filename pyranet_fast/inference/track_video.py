"""A video or camera tracked into files: skeletons over its frames as MP4, and a row for each frame and person."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..visualization import draw_poses
from .predictor import Predictor
from .result import Pose, Prediction
from .sources import CAMERA
from .video import VideoWriter, frame_rate


@dataclass
class TrackSummary:
    """Summary of a tracked video.

    Attributes:
        frames: number of frames.
        people: number of ids.
        seconds: processing time.
        rate: frames per second of the video itself.
        stopped: whether Ctrl-C stopped it.
    """

    frames: int = 0
    people: int = 0
    seconds: float = 0.0
    rate: float = 25.0
    stopped: bool = False

    def __str__(self) -> str:
        speed = self.frames / max(1e-9, self.seconds)
        return (
            f"{self.frames} frames, {speed:.1f} frames/s, {speed / self.rate:.2f} of real time, "
            f"{self.people} {'person' if self.people == 1 else 'people'}"
        )


def track_video(
    predictor: Predictor,
    source: str,
    output: Path,
    *,
    people: int | None = 1,
    smooth: bool = True,
    audio: bool = False,
    video: bool = True,
    kinds: Sequence[str] = (),
    joints: Sequence[int] | None = None,
    threshold: float = 0.2,
) -> TrackSummary:
    """Write ``NAME_pose.mp4`` and, by ``kinds``, ``NAME_pose.csv`` and ``NAME_pose.jsonl`` into a folder.

    After Ctrl-C all files hold what was done until then. The rate of a camera is measured.

    Args:
        predictor: of people.
        source: a video file, or ``"camera:N"``.
        output: folder.
        people: maximum number; None: all.
        smooth: see `Predictor.track`.
        audio: copy the sound of a video file.
        video: write the MP4.
        kinds: ``"csv"``, ``"jsonl"``.
        joints: indices of the joints that are drawn and written; None: all.
        threshold: score below which joints are drawn as hollow rings.

    Raises:
        UserError: the source cannot be read, or the MP4 cannot be written.
    """
    live = source.startswith(CAMERA)
    stem = source.replace(":", "") if live else Path(source).stem
    shown = list(range(len(predictor.skeleton))) if joints is None else list(joints)
    found = predictor.track(source, people=people, smooth=smooth)
    summary = TrackSummary(rate=25.0 if live else frame_rate(source)[0])
    writer = None
    if video:
        writer = VideoWriter(output / f"{stem}_pose.mp4", summary.rate, source if audio and not live else None)
    ids: set[int | None] = set()
    begin = time.monotonic()
    first: float | None = None

    def follow(tables: Sequence[RowFile]) -> None:
        nonlocal first
        for prediction in found:
            assert prediction.image is not None and prediction.seconds is not None
            if writer is not None:
                people_shown = [_shown(pose, shown) for pose in prediction.poses]
                drawn = draw_poses(
                    prediction.image, people_shown, predictor.skeleton, threshold=threshold, long_side=None
                )
                writer.write(drawn, prediction.seconds)
            ids.update(pose.id for pose in prediction.poses)
            for table in tables:
                table.write(prediction)
            summary.frames += 1
            first = prediction.seconds if first is None else first
            if live and prediction.seconds > first:
                summary.rate = (summary.frames - 1) / (prediction.seconds - first)

    with contextlib.ExitStack() as files:
        names = [predictor.skeleton.joints[joint] for joint in shown]
        tables = [files.enter_context(RowFile(output / f"{stem}_pose.{kind}", names)) for kind in kinds]
        try:
            with writer or contextlib.nullcontext():
                follow(tables)
        except KeyboardInterrupt:
            summary.stopped = True
    summary.seconds, summary.people = time.monotonic() - begin, len(ids)
    return summary


class RowFile:
    """A row for each frame and person, on the disk as soon as it is known: a killed run leaves what was done.

    Args:
        path: FILE.csv or FILE.jsonl; replaced where it exists.
        joints: names of those that are written.
    """

    def __init__(self, path: Path, joints: Sequence[str]) -> None:
        self._names = list(joints)
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        self._table = csv.writer(self._file) if path.suffix == ".csv" else None
        if self._table is not None:
            columns = [f"{name} {what}" for name in joints for what in ("x", "y", "score")]
            self._table.writerow(["frame", "seconds", "id", "mean_score", *columns])

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, prediction: Prediction) -> None:
        """Append the people of a frame."""
        for row in _rows(prediction, self._names):
            if self._table is None:
                self._file.write(json.dumps(row) + "\n")
                continue
            values = [row["joints"][name][what] for name in self._names for what in ("x", "y", "score")]
            self._table.writerow([row["frame"], row["seconds"], row["id"], row["mean_score"], *values])
        self._file.flush()


def _shown(pose: Pose, joints: Sequence[int]) -> tuple[Any, Any]:
    places = np.full_like(pose.joints, np.nan)
    places[list(joints)] = pose.joints[list(joints)]
    return places, pose.scores


def _rows(prediction: Prediction, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for pose in prediction.poses:
        known = pose.as_dict()["joints"]
        rows.append(
            {
                "frame": prediction.index,
                "seconds": round(prediction.seconds or 0.0, 4),
                "id": pose.id,
                "mean_score": round(pose.mean_score, 4),
                "joints": {name: known[name] for name in names},
            }
        )
    return rows
