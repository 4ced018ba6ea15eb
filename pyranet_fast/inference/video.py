"""Frames of video files and cameras, upright, as RGB pictures with their times; and videos written from such frames."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

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
    """Return frames per second (25 if unknown) and number of frames (0 if unknown) of a video."""
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


ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264_videotoolbox", "mpeg4")
_TIME_BASE = Fraction(1, 90_000)


class VideoWriter:
    """Writes an MP4 file (H.264 where FFmpeg has an encoder of it, else MPEG-4) that plays in a browser.

    A context manager. The file has a temporary name until the block ends, normally or by Ctrl-C: what was written until
    then is a whole video. Where another exception ends the block, nothing is left.

    Example::

        with VideoWriter("out.mp4", audio="in.mp4") as writer:
            for frame in read_frames("in.mp4"):
                writer.write(frame.image, frame.seconds)

    Args:
        path: FILE.mp4; replaced where it exists.
        rate: frames a second about which the encoder plans; each frame has its own time.
        audio: a video file whose first audio stream is copied, not re-encoded, as far as the frames go; a file
            without sound gives none. None: no sound.

    Attributes:
        encoder: its name in FFmpeg.
        frames: written so far.

    Raises:
        UserError: another suffix, PyAV is not installed, it has no encoder, the file cannot be written, or the sound
            cannot be copied into MP4.
    """

    def __init__(self, path: str | Path, rate: float = 25.0, audio: str | Path | None = None) -> None:
        self.path, self.frames = Path(path), 0
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"video {path} cannot be written; expected a name that ends in .mp4")
        if importlib.util.find_spec("av") is None:
            raise UserError(f"writing a video needs PyAV, which is not installed: {EXTRA}")
        self.encoder = _encoder()
        self._rate = Fraction(rate if math.isfinite(rate) and rate > 0 else 25.0).limit_denominator(1001)
        self._audio_path = None if audio is None else Path(audio)
        self._part = self.path.with_name(f".{self.path.stem}.part.mp4")
        self._output: Any = None
        self._source: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        self._pts = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._output is not None and (kind is None or issubclass(kind, KeyboardInterrupt)):
                self._finish(whole=kind is None)
        finally:
            for container in (self._output, self._source):
                if container is not None:
                    with contextlib.suppress(Exception):  # of a file that is removed
                        container.close()
            self._part.unlink(missing_ok=True)

    def write(self, image: Image, seconds: float) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) uint8 RGB; odd sizes are widened by a pixel, and later sizes made those of the first.
            seconds: its time, from 0 and after that of the frame before.

        Raises:
            UserError: see the class.
        """
        import av

        if self._output is None:
            self._open(image)
        image = _even(image)
        if image.shape[:2] != (self._stream.height, self._stream.width):
            size = self._stream.width, self._stream.height
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._pts = max(self._pts + 1, round(seconds / _TIME_BASE))
        frame.pts, frame.time_base = self._pts, _TIME_BASE
        self._output.mux(self._stream.encode(frame))
        self.frames += 1
        self._copy_sound(self._pts * _TIME_BASE)

    def _open(self, image: Image) -> None:
        import av

        try:
            self._output = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        except OSError as error:
            raise UserError(f"video {self.path} cannot be written: {error.strerror or error}") from error
        stream = self._output.add_stream(self.encoder, rate=self._rate)
        height, width = _even(image).shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        if self.encoder == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = max(1_000_000, round(0.15 * width * height * float(self._rate)))
        self._stream = stream
        if self._audio_path is not None:
            self._open_sound(self._audio_path)
        try:
            self._output.start_encoding()
        except (OSError, ValueError) as error:
            if self._source is None:
                raise UserError(f"video {self.path} cannot be written: {error}") from error
            raise self._no_copy() from error

    def _open_sound(self, path: Path) -> None:
        import av

        with reading(path, "a video that FFmpeg reads"):
            self._source = av.open(str(path))
        if not self._source.streams.audio:
            return
        sound = self._source.streams.audio[0]
        try:
            self._sound = self._output.add_stream_from_template(sound)
        except (OSError, ValueError) as error:
            raise self._no_copy() from error
        self._packets = (packet for packet in self._source.demux(sound) if packet.dts is not None)
        self._waiting = next(self._packets, None)

    def _no_copy(self) -> UserError:
        codec = self._source.streams.audio[0].codec_context.name if self._source.streams.audio else "none"
        return UserError(f"the sound of {self._audio_path} is {codec}, which MP4 does not take; expected aac or mp3")

    def _copy_sound(self, until: Fraction | float) -> None:
        while self._waiting is not None and self._waiting.dts * self._waiting.time_base <= until:
            self._waiting.stream = self._sound
            self._output.mux(self._waiting)
            self._waiting = next(self._packets, None)

    def _finish(self, *, whole: bool) -> None:
        self._output.mux(self._stream.encode(None))
        if whole:
            self._copy_sound(math.inf)
        self._output.close()
        self._output = None
        self._part.replace(self.path)


def _encoder() -> str:
    import av

    for name in ENCODERS:
        with contextlib.suppress(av.error.FFmpegError):
            av.codec.Codec(name, "w")
            return name
    raise UserError(f"PyAV's FFmpeg has no encoder for MP4; expected one of {', '.join(ENCODERS)}")


def _even(image: Image) -> Image:
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    wider = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return np.asarray(wider, dtype=np.uint8)
