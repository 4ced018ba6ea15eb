"""Pictures that `predict` writes: skeletons, heat maps, crops, a window, a contact sheet; and the names of overlays."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.dataset import Image
from ..data.image_io import read_image, read_mark, write_image
from ..errors import UserError
from ..keypoints import Skeleton
from ..visualization import contact_sheet, draw_crop, draw_heatmaps, draw_poses, fitted
from .result import Pose, Prediction

logger = logging.getLogger("pyranet_fast")

SUFFIX = "_pose.png"
SHEET_PICTURES = 120  # maximum on a contact sheet


class Drawer:
    """Makes the pictures of each prediction and the entry that results files have of it.

    Args:
        output: folder.
        skeleton: of the network.
        joints: indices of the joints that are drawn and written.
        overlay, heatmaps, crops: which files each picture gets.
        show: whether a window shows the skeletons.
        threshold: score below which joints are drawn as hollow rings.

    Raises:
        UserError: there is no window to show, see `Window`.
    """

    def __init__(
        self,
        output: Path,
        skeleton: Skeleton,
        joints: list[int],
        *,
        overlay: bool = True,
        heatmaps: bool = False,
        crops: bool = False,
        show: bool = False,
        threshold: float = 0.2,
    ) -> None:
        self.output, self.skeleton, self.joints = output, skeleton, joints
        self.names = OverlayNames(output)
        self._overlay, self._heatmaps, self._crops, self._threshold = overlay, heatmaps, crops, threshold
        self._window = Window() if show else None

    def __enter__(self) -> Drawer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._window is not None:
            self._window.close()

    def entry(self, prediction: Prediction) -> dict[str, Any]:
        """Draw and write the requested images, print a line, and return the entry of the journal."""
        name = printable(prediction.name)
        overlay = self.names.take(prediction.index)
        if prediction.error is not None:
            logger.error(f"error: {printable(prediction.error)}")
            return {"image": name, "error": printable(prediction.error)}
        image = prediction.image
        assert image is not None
        entry: dict[str, Any] = {"image": name, "width": image.shape[1], "height": image.shape[0]}
        if self._overlay or self._window is not None:
            drawn = draw_poses(
                image, [self._shown(pose) for pose in prediction.poses], self.skeleton, threshold=self._threshold
            )
            if self._window is not None:
                self._window.show(drawn, name)
            if self._overlay:
                write_image(self.output / overlay, drawn, mark=overlay_mark(prediction.name, self.output))
                entry["overlay"] = overlay
        for number, pose in enumerate(prediction.poses, 1):
            self._of_person(image, pose, prediction, "" if len(prediction.poses) == 1 else f"-{number}", overlay)
        entry["people"] = [self._content(pose) for pose in prediction.poses]
        sure = ", ".join(sureness(pose) for pose in prediction.poses[:3]) or "nobody"
        sure += f", {len(prediction.poses) - 3} more" if len(prediction.poses) > 3 else ""
        place = f" -> {printable(self.output / overlay)}" if self._overlay else ""
        with tqdm.external_write_mode(file=sys.stdout):
            print(f"{name}{place} ({sure})")
        return entry

    def _shown(self, pose: Pose) -> tuple[Any, Any]:
        joints = np.full_like(pose.joints, np.nan)
        joints[self.joints] = pose.joints[self.joints]
        return joints, pose.scores

    def _content(self, pose: Pose) -> dict[str, Any]:
        content = pose.as_dict()
        names = {self.skeleton.joints[joint] for joint in self.joints}
        content["joints"] = {name: joint for name, joint in content["joints"].items() if name in names}
        return content

    def _of_person(self, image: Image, pose: Pose, prediction: Prediction, number: str, overlay: str) -> None:
        stem = overlay.removesuffix(SUFFIX)
        mark = overlay_mark(prediction.name, self.output)
        if self._heatmaps:
            panel = draw_heatmaps(image, pose.heatmaps, pose.heatmap_to_image, self.skeleton, joints=self.joints)
            write_image(self.output / f"{stem}{number}_heatmaps.png", panel, mark=mark)
        if self._crops:
            seen = draw_crop(image, pose.heatmap_to_image, pose.heatmaps.shape[2])
            write_image(self.output / f"{stem}{number}_crop.png", seen, mark=mark)


class Window:
    """A window that shows pictures, by matplotlib.

    Raises:
        UserError: there is no display, or no toolkit for windows.
    """

    def __init__(self) -> None:
        import matplotlib

        has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
        if not has_display:
            raise UserError("--show needs a display, and there is none (DISPLAY and WAYLAND_DISPLAY are not set)")
        import matplotlib.pyplot as plt

        if matplotlib.get_backend().lower() in ("agg", "pdf", "svg", "ps", "cairo", "template"):
            raise UserError("--show needs a toolkit for windows that matplotlib uses: install Tk (python3-tk) or PyQt6")
        self._plt = plt
        self._figure = plt.figure(figsize=(9, 7))
        self._axis = self._figure.add_axes((0, 0, 1, 1))

    def show(self, image: Image, title: str) -> None:
        """Replace the picture in the window."""
        self._axis.clear()
        self._axis.set_axis_off()
        self._axis.imshow(image)
        if self._figure.canvas.manager is not None:
            self._figure.canvas.manager.set_window_title(title)
        self._plt.pause(0.001)

    def close(self) -> None:
        """Leave the last picture until the user closes the window."""
        self._plt.show()


def sureness(pose: Pose) -> str:
    """How far a pose can be trusted, for people to read."""
    text = f"mean score {pose.mean_score:.2f}"
    if pose.chances is None:
        return text
    text += f", about {pose.chances.mean():.0%} of joints of such scores are right"
    return text if pose.trustworthy else f"{text}: do not trust this pose"


def write_sheet(lines: Iterable[Mapping[str, Any]], output: Path) -> None:
    """Write ``sheet.jpg`` of the first `SHEET_PICTURES` overlays that lines of a journal name; without any, nothing."""
    overlays = (line for line in lines if "overlay" in line)
    cells, captions = [], []
    for line in itertools.islice(overlays, SHEET_PICTURES):
        cells.append(fitted(read_image(output / line["overlay"]), 256))
        captions.append(Path(line["image"]).name)
    if cells:
        columns = max(1, round(math.sqrt(len(cells) * 1.5)))
        write_image(output / "sheet.jpg", contact_sheet(cells, columns, captions=captions))


class OverlayNames:
    """Gives each picture's overlay a file name: ``NAME_pose.png``, numbered where another picture has that name.

    No two are the same, on a file system that ignores case or the form of accents either, and none is a picture still
    to be read, or a file in ``output`` that is not the overlay of the same picture by an earlier run: rerunning a
    command replaces its overlays, and those of other pictures stay. Where all pictures are known beforehand
    (`reserve`), a number is given only after all have got their own name where it is free, so that ``x-2.jpg`` is not
    in the way of the second ``x``; else they get their names as they come.

    Args:
        output: the folder.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._there = {_alike(path.name): path for path in output.iterdir()} if output.is_dir() else {}
        self._inputs: set[str] = set()
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def reserve(self, images: Sequence[str]) -> None:
        """Name all pictures of a run at once."""
        self._inputs = {_key(Path(image)) for image in images}
        for at, image in enumerate(images):
            if self._free(name := _overlay(_stem(image)), image):
                self._give(at, name)
        for at, image in enumerate(images):
            self.give(at, image)

    def give(self, at: int, image: str) -> None:
        """Name the picture of a number, where it has no name yet."""
        if at in self._names:
            return
        stem = _stem(image)
        if self._free(name := _overlay(stem), image):
            self._give(at, name)
            return
        # Lower numbers that this run has taken are not tried again: many pictures may have one name.
        number = self._next.get(stem, 2)
        while _alike(_overlay(stem, f"-{number}")) in self._taken:
            number += 1
        self._next[stem] = number
        self._give(at, next(n for k in itertools.count(number) if self._free(n := _overlay(stem, f"-{k}"), image)))

    def take(self, at: int) -> str:
        """The name of a picture's overlay, which is then forgotten."""
        return self._names.pop(at)

    def forget(self, at: int) -> None:
        """A picture that has no overlay in this run."""
        self._names.pop(at, None)

    def _give(self, at: int, name: str) -> None:
        self._names[at] = name
        self._taken.add(_alike(name))

    def _free(self, name: str, image: str) -> bool:
        if _alike(name) in self._taken or (self._inputs and _key(self._output / name) in self._inputs):
            return False
        before = self._there.get(_alike(name))
        return before is None or read_mark(before) == overlay_mark(image, self._output)


def _stem(image: str) -> str:
    """What an overlay is called after; of a video's frame its name and number."""
    name = Path(image).name
    video, mark, number = name.rpartition("#")
    if mark and number.isdigit():
        return printable(f"{Path(video).stem if '.' in video else video.replace(':', '')}-{number}")
    return printable(Path(image).stem)


def overlay_mark(image: str, output: Path) -> str:
    """Return an identifier for an image: a hash of its path relative to ``output``."""
    try:
        place = os.path.relpath(Path(image).resolve(), output.resolve())
    except (OSError, ValueError, RuntimeError):  # another drive, a null character, a loop of links
        place = image
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def _overlay(stem: str, number: str = "") -> str:
    return f"{stem.encode()[:200].decode('utf-8', 'ignore')}{number}{SUFFIX}"  # file systems allow 255 bytes in all


def _alike(name: str) -> str:
    """The same for names that some file system takes for one: equal up to case and the form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _key(path: Path) -> str:
    try:
        return _alike(str(path.resolve()))
    except (OSError, ValueError, RuntimeError):
        return _alike(str(path))


def printable(path: object) -> str:
    """A path as text that any terminal and JSON can hold: bytes that are no UTF-8 become question marks."""
    return str(path).encode("utf-8", "replace").decode("utf-8")
