"""`python -m pyranet_fast.demo`: a page in the browser to try a network on a photo, a video or the camera."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from . import cli, ops
from .data.dataset import Image
from .data.image_io import read_image, write_image
from .errors import UserError
from .inference.predictor import Predictor
from .inference.result import Pose
from .inference.tracking import Tracker
from .inference.video import VideoWriter, frame_rate, read_frames
from .io import MAX_PIXELS, atomic_write
from .keypoints import resolve_skeleton
from .models.precision import AUTO, CHOICES
from .models.zoo import resolve_device
from .visualization import draw_heatmaps, draw_pose, fitted

logger = logging.getLogger("pyranet_fast")

ONE, BOX, EVERYBODY = "One person", "In the box", "Everybody"
PIXELS = 40_000_000
"""Of a picture, unless --max-pixels says otherwise."""
BACKEND_ROUNDS = 3
_LONG_SIDE = 960  # of a video's frames
_FRAMES_A_SECOND = 30
_EXTRA = "pip install pyranet-fast[demo]"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        megabytes: of an uploaded file.
        seconds: of work on a video; the page shows as far as it came.
        video_seconds: maximum length of a video; the rest is ignored.
    """

    megabytes: int = 50
    seconds: float = 60.0
    video_seconds: float = 20.0


@dataclass(frozen=True)
class PhotoResult:
    """What the page shows of a photo.

    Attributes:
        overlay: skeletons over the picture, and the box that was drawn.
        heatmaps: score maps of the first person, a cell a joint, over the crop that the network saw.
        rows: person, joint, x, y, score, and expected accuracy in percent where the network knows it.
        summary: in Markdown.
        files: the overlay as PNG and the poses as JSON.
    """

    overlay: Image
    heatmaps: Image | None
    rows: list[list[Any]]
    summary: str
    files: list[str]


class Studio:
    """The work behind the page, one request at a time.

    Args:
        predictor: of people.
        folder: where results go; nothing else is served.
        limits: see `Limits`.
    """

    def __init__(self, predictor: Predictor, folder: Path, limits: Limits | None = None) -> None:
        self.predictor, self.folder, self.limits = predictor, folder, limits or Limits()
        self._one_at_a_time = threading.Lock()

    def photo(self, path: str | None, who: str = ONE, box_text: str = "", compare: bool = False) -> PhotoResult:
        """Find people in a photo.

        Args:
            path: of the file.
            who: `ONE`, `BOX` or `EVERYBODY`.
            box_text: ``"x, y, width, height"`` in pixels, for `BOX`.
            compare: time the network with each backend of the operators, too.

        Raises:
            UserError: there is no photo, it cannot be read, or the box is none.
        """
        if not path:
            raise UserError("there is no photo; upload one, paste it, or use the camera")
        image = read_image(path)
        box = parse_box(box_text) if who == BOX else None
        with self._one_at_a_time:
            poses, seconds = timed(lambda: self._find(image, who, box))
            times = self._times_by_backend(image, poses[0].box if poses else box) if compare else {}
        overlay = self._draw(image, poses, box)
        folder = self._new_folder()
        write_image(folder / "pose.png", overlay)
        height, width = image.shape[:2]
        content = {"width": width, "height": height, "people": [pose.as_dict() for pose in poses]}
        text = json.dumps(content, indent=2, allow_nan=False)
        atomic_write(folder / "pose.json", lambda file: file.write(text.encode()))
        summary = [f"**{len(poses)} {'person' if len(poses) == 1 else 'people'}** in {seconds:.2f} s. {advice(poses)}"]
        if times:
            summary += ["", "| operators by | ms, one crop |", "|---|---:|"]
            summary += [f"| {name} | {1000 * value:.0f} |" for name, value in times.items()]
        return PhotoResult(
            overlay,
            self._heatmaps(image, poses[0]) if poses else None,
            [row for number, pose in enumerate(poses, 1) for row in joint_rows(number, pose)],
            "\n".join(summary),
            [str(folder / "pose.png"), str(folder / "pose.json")],
        )

    def video(self, path: str | None, who: str = ONE) -> tuple[str, list[str], str]:
        """Find people in the frames of a video, as far as the limits allow.

        Args:
            path: of the file.
            who: `ONE` or `EVERYBODY`.

        Returns:
            The overlay as MP4, the files to download (JSON Lines with a frame a line, too), and a summary in Markdown.

        Raises:
            UserError: there is no video, or no frame of it can be read.
        """
        if not path:
            raise UserError("there is no video; upload one, or record one")
        folder = self._new_folder()
        overlay, lines = folder / "pose.mp4", folder / "pose.jsonl"
        rate, total = frame_rate(path)
        step = max(1, round(rate / _FRAMES_A_SECOND))
        rate, total = rate / step, -(-total // step)
        most = min(total or sys.maxsize, round(self.limits.video_seconds * rate))
        tracker = Tracker(self.predictor, 1 if who == ONE else None)
        started, count = time.monotonic(), 0
        with self._one_at_a_time, lines.open("w", encoding="utf-8") as log, VideoWriter(overlay, rate) as writer:
            for frame in (frame for frame in read_frames(path) if frame.number % step == 0):
                if count and (count >= most or time.monotonic() - started > self.limits.seconds):
                    break
                image = fitted(frame.image, _LONG_SIDE)
                poses = tracker(replace(frame, image=image))
                writer.write(self._draw(image, poses, None, keep_size=True), frame.seconds)
                people = [pose.as_dict() for pose in poses]
                log.write(json.dumps({"frame": count, "seconds": round(frame.seconds, 3), "people": people}) + "\n")
                count += 1
        seconds = time.monotonic() - started
        speed = f"{count / seconds:.1f} a second; the video has {rate:.1f}."
        told = f"**{count} {'frame' if count == 1 else 'frames'}** in {seconds:.1f} s, {speed}"
        if who != ONE:
            told += f" {tracker.ids} {'person' if tracker.ids == 1 else 'people'} in all."
        if total > count:
            told += f" It was cut after {count / rate:.1f} of {total / rate:.1f} s, at the limits of this page."
        return str(overlay), [str(overlay), str(lines)], told

    def camera(self, image: Image | None) -> Image | None:
        """One frame of the camera with the pose of one person; None where the last one is still worked on."""
        if image is None or not self._one_at_a_time.acquire(blocking=False):
            return None
        try:
            return self._draw(image, self._find(image, ONE, None, search=False), None)
        finally:
            self._one_at_a_time.release()

    def _find(self, image: Image, who: str, box: Box | None, *, search: bool = True) -> list[Pose]:
        if who == EVERYBODY:
            return self.predictor.everyone(image)
        before, self.predictor.search = self.predictor.search, self.predictor.search and search
        try:
            return [self.predictor(image, box)]
        finally:
            self.predictor.search = before

    def _times_by_backend(self, image: Image, box: Box | None) -> dict[str, float]:
        """Seconds of one crop by backend: the best of some rounds, taken in turn after one to warm up."""
        found: dict[str, float] = {}
        for turn in range(BACKEND_ROUNDS + 1):
            for name in ops.available_backends():
                with ops.backend(name):
                    _, seconds = timed(lambda: self.predictor(image, box))
                if turn:
                    found[name] = min(seconds, found.get(name, seconds))
        return found

    def _draw(self, image: Image, poses: Sequence[Pose], box: Box | None, *, keep_size: bool = False) -> Image:
        drawn = image
        if box is not None:
            x, y, w, h = (round(value) for value in box)
            drawn = image.copy()
            cv2.rectangle(drawn, (x, y), (x + w, y + h), (255, 255, 255), max(1, max(image.shape) // 300))
        for pose in poses:
            skeleton, shown = self.predictor.skeleton, drawn
            drawn = draw_pose(shown, pose.joints, pose.scores, skeleton, long_side=None)
        return drawn if keep_size or max(drawn.shape) <= 2048 else fitted(drawn, 2048)

    def _heatmaps(self, image: Image, pose: Pose) -> Image:
        return draw_heatmaps(image, pose.heatmaps, pose.heatmap_to_image, resolve_skeleton(pose.skeleton))

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="result-", dir=self.folder))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def parse_box(text: str) -> Box:
    """Four numbers out of ``"x, y, width, height"``; UserError where there are others."""
    try:
        values = tuple(float(part) for part in text.replace(";", ",").split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise UserError(
            f"the box must be four numbers x, y, width, height, or clicks on two corners in the photo, got {text!r}"
        )
    return values


def box_of_corners(first: Sequence[float], second: Sequence[float]) -> str:
    """The text of the box with two opposite corners (x, y)."""
    (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return f"{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}"


def advice(poses: Sequence[Pose]) -> str:
    """How many joints are expected to be right, in Markdown."""
    known = [pose.chances for pose in poses if pose.chances is not None]
    if not known:
        return "This network does not know how accurate its scores are."
    text = f"About **{np.concatenate(known).mean():.0%}** of the joints are expected to be right."
    doubtful = sum(pose.trustworthy is False for pose in poses)
    return (
        f"{text} Do not trust {'this pose' if len(poses) == 1 else f'{doubtful} of the poses'}." if doubtful else text
    )


def joint_rows(number: int, pose: Pose) -> list[list[Any]]:
    """Rows of the table of joints."""
    names = resolve_skeleton(pose.skeleton).joints
    chances: Sequence[Any] = [None] * len(names) if pose.chances is None else [round(100 * c) for c in pose.chances]
    return [
        [number, name, round(float(x), 1), round(float(y), 1), round(float(score), 3), chance]
        for name, (x, y), score, chance in zip(names, pose.joints, pose.scores, chances, strict=True)
    ]


def build_page(studio: Studio) -> Any:
    """The page as Gradio's Blocks.

    Args:
        studio: what works behind it.
    """
    import gradio as gr

    def spoken(work: Callable[..., Any]) -> Callable[..., Any]:
        """Show the sentence of a UserError on the page."""

        def call(*arguments: Any) -> Any:
            try:
                return work(*arguments)
            except (UserError, ValueError) as error:
                raise gr.Error(cli.sentence_of(error) or str(error), print_exception=False) from error

        return call

    def photo(path: str | None, who: str, box: str, compare: bool) -> tuple[Any, ...]:
        found = studio.photo(path, who, box, compare)
        return found.overlay, found.summary, found.heatmaps, found.rows, found.files

    def click(corner: Any, event: Any) -> tuple[Any, str, str]:
        place = [float(value) for value in event.index]
        if corner is None:
            return place, f"first corner at {place[0]:g}, {place[1]:g}", BOX
        return None, box_of_corners(corner, place), BOX

    click.__annotations__["event"] = gr.SelectData  # how Gradio knows what to give; it is imported in here alone

    limits = studio.limits
    seen = ["download", "fullscreen"]  # without the button that shares a result with the world
    alone = {"concurrency_limit": 1, "concurrency_id": "network"}
    with gr.Blocks(title="pyranet_fast", analytics_enabled=False, delete_cache=(300, 3600)) as page:
        gr.Markdown(
            f"# Human pose estimation\nNetwork **{studio.predictor.name}**, {len(studio.predictor.skeleton)} joints, "
            f"on {studio.predictor.device}. Results are deleted when the server ends."
        )
        with gr.Tab("Photo"):
            with gr.Row():
                with gr.Column():
                    source = gr.Image(
                        type="filepath",
                        image_mode=None,
                        label=f"Photo (up to {limits.megabytes} MB)",
                        sources=["upload", "webcam", "clipboard"],
                        elem_id="photo",
                    )
                    corner = gr.State(None)
                    who = gr.Radio([ONE, BOX, EVERYBODY], value=ONE, label="Look for", elem_id="who")
                    box = gr.Textbox(
                        label="Box: x, y, width, height in pixels; or click two corners in the photo", elem_id="box"
                    )
                    compare = gr.Checkbox(label="Time every backend of the operators", elem_id="compare")
                    run = gr.Button("Find the pose", variant="primary", elem_id="run")
                with gr.Column():
                    overlay = gr.Image(label="Pose", format="png", interactive=False, buttons=seen, elem_id="overlay")
                    summary = gr.Markdown(elem_id="summary")
                    files = gr.Files(label="Downloads", interactive=False, height=120, elem_id="files")
            with gr.Accordion("Heat maps of the first person", open=False):
                heatmaps = gr.Image(show_label=False, format="png", interactive=False, buttons=seen, elem_id="heatmaps")
            with gr.Accordion("Joints", open=False):
                table = gr.Dataframe(
                    headers=["person", "joint", "x", "y", "score", "expected accuracy / %"],
                    interactive=False,
                    elem_id="joints",
                )
        source.select(click, corner, [corner, box, who], queue=False)
        outputs = [overlay, summary, heatmaps, table, files]
        run.click(spoken(photo), [source, who, box, compare], outputs, **alone)

        with gr.Tab("Video"), gr.Row():
            with gr.Column():
                clip = gr.Video(
                    label=f"Video (up to {limits.megabytes} MB; the first {limits.video_seconds:g} s)",
                    elem_id="clip",
                )
                whom = gr.Radio([ONE, EVERYBODY], value=ONE, label="Look for")
                start = gr.Button("Find the poses", variant="primary", elem_id="start")
            with gr.Column():
                played = gr.Video(
                    label="Poses", interactive=False, autoplay=True, buttons=["download"], elem_id="played"
                )
                told = gr.Markdown(elem_id="told")
                clips = gr.Files(label="Downloads", interactive=False, height=120)
        start.click(spoken(studio.video), [clip, whom], [played, clips, told], **alone)

        with gr.Tab("Camera"), gr.Row():
            camera = gr.Image(sources=["webcam"], streaming=True, label="Camera", elem_id="camera")
            live = gr.Image(label="Pose", format="jpeg", interactive=False, buttons=[], elem_id="live")
        camera.stream(
            lambda image: gr.skip() if (drawn := studio.camera(image)) is None else drawn,
            camera,
            live,
            stream_every=0.2,
            time_limit=round(limits.seconds),
            concurrency_limit=1,
        )
    page.queue(max_size=16, api_open=False)
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.demo",
        description="Serve a page to try a network on a photo, a video or the camera: skeletons, heat maps, expected "
        "accuracy, the time of each backend, downloads. It listens on this machine alone, needs no network, and serves "
        f"no file but its own results, which it deletes when it ends. Needs Gradio: {_EXTRA}.",
    )
    parser.add_argument(
        "--checkpoint", default=None, metavar="FILE", help="as for predict (default: the first of models.available())"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=CHOICES, default=AUTO, help="auto: the faster one, measured at the start (default: auto)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; with 0.0.0.0 everybody in your network can use the page (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help="0: any free port (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=50, help="largest upload (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="longest processing of one video (default: %(default)s)"
    )
    parser.add_argument("--browser", action="store_true", help="open the page in the browser")
    arguments = cli.parse_arguments(parser, argv)
    for name, low, high in (("port", 0, 65535), ("megabytes", 1, 4096), ("seconds", 1, 3600)):
        if not low <= getattr(arguments, name) <= high:
            raise UserError(f"--{name} must be {low} to {high}, got {getattr(arguments, name):g}")
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the page needs Gradio, which is not installed: {_EXTRA}")
    if "PYRANET_FAST_MAX_PIXELS" not in os.environ:
        os.environ["PYRANET_FAST_MAX_PIXELS"] = str(min(PIXELS, MAX_PIXELS))
    device = None if arguments.device == "auto" else resolve_device(arguments.device)
    predictor = Predictor(arguments.checkpoint, device, precision=arguments.precision)
    folder = Path(tempfile.mkdtemp(prefix="pyranet-fast-demo-"))
    # Ended by SIGTERM, too, it removes what people have uploaded.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serve(predictor, folder, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def serve(predictor: Predictor, folder: Path, arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        predictor: of people.
        folder: where uploads and results go.
        arguments: ``host``, ``port``, ``megabytes``, ``seconds``, ``browser``.
    """
    # Gradio reads these when it is imported and when it starts: uploads into our folder, and no word to anybody.
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    import gradio as gr

    studio = Studio(predictor, folder, Limits(megabytes=arguments.megabytes, seconds=arguments.seconds))
    page = build_page(studio)
    port = arguments.port or None
    try:
        _, address, _ = page.launch(
            server_name=arguments.host,
            server_port=port,
            inbrowser=arguments.browser,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            allowed_paths=[],
            max_file_size=arguments.megabytes * 2**20,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
    except OSError as error:
        raise UserError(f"--port must be free on {arguments.host}, got {arguments.port}, which is in use") from error
    print(f"the page is at {address}; stop it with Ctrl-C", flush=True)
    page.block_thread()


if __name__ == "__main__":
    sys.exit(cli.run(main))
