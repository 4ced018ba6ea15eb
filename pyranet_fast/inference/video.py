"""Frames of video files and cameras, upright, as RGB pictures with their times."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..data.dataset import Image
from ..errors import UserError
from ..io import reading

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
EXTRA = "pip install pyranet-fast[video]"


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: from 0, of the frames that could be decoded.
        seconds: its time in the video; of a camera the time since it was opened.
        image: (H, W, 3) uint8 RGB, turned as the file says.
    """

    number: int
    seconds: float
    image: Image


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the frames of a video file, one in memory at a time: by PyAV where it is installed, else by OpenCV.

    PyAV has each frame's own time stamp, so that variable frame rates keep their times; OpenCV's are its estimates.

    Args:
        path: a file of any format that FFmpeg reads.

    Raises:
        UserError: no such file, or no frame in it can be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"video {path} does not exist" if not path.exists() else f"video {path} is not a file")
    frames = _by_pyav(path) if importlib.util.find_spec("av") is not None else _by_opencv(path)
    with reading(path, "a video that FFmpeg reads"):
        none = True
        for frame in frames:
            none = False
            yield frame
        if none:
            raise UserError(f"video {path} has no frame that can be decoded")


def frame_rate(path: str | Path) -> tuple[float, int]:
    """Frames a second (25 where the file tells none) and the number of frames (0 where it tells none) of a video."""
    capture = cv2.VideoCapture(str(path))
    try:
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return rate if 1 <= rate <= 240 else 25.0, max(0, int(count))


def _by_pyav(path: Path) -> Iterator[Frame]:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise UserError(f"video {path} has no pictures; expected a file with a video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 25)
        for number, frame in enumerate(container.decode(stream)):
            image = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90) % 4)
            seconds = number / rate if frame.time is None else float(frame.time)
            yield Frame(number, seconds, np.ascontiguousarray(image))


def _by_opencv(path: Path) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"video {path} cannot be opened; expected a video that FFmpeg reads")
        for number, image in enumerate(_grabbed(capture)):
            yield Frame(number, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, image)
    finally:
        capture.release()


def read_camera(name: str) -> Iterator[Frame]:
    """Yield the frames of a camera until it is unplugged.

    Args:
        name: its number from 0, or its device file.

    Raises:
        UserError: no such camera.
    """
    capture = cv2.VideoCapture(int(name) if name.isdigit() else name)
    try:
        if not capture.isOpened():
            raise UserError(f"camera:{name} cannot be opened; expected the number of a camera, from 0, that is free")
        begin = cv2.getTickCount()
        for number, image in enumerate(_grabbed(capture)):
            yield Frame(number, (cv2.getTickCount() - begin) / cv2.getTickFrequency(), image)
    finally:
        capture.release()


def _grabbed(capture: cv2.VideoCapture) -> Iterator[Image]:
    while True:
        fine, bgr = capture.read()
        if not fine:
            return
        yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
