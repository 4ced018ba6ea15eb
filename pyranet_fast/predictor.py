"""One call from a photo to a pose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import cli
from .checkpoint_file import CALIBRATION, Checkpoint
from .data.base import PIXELS_PER_SCALE, Image
from .data.images import as_rgb, read_image
from .data.transforms import MAP_STRIDE, crop, crop_matrix, invert
from .errors import UserError
from .pose.calibration import Calibration
from .pose.inference import PRECISIONS, decode, ready, score_maps
from .pose.pose import Box, Pose
from .pose.skeleton import resolve_skeleton
from .training.checkpoint import build_model, find_checkpoint, load_checkpoint

# Side of the crop in long sides of a person's tight box: the margin of MPII's annotations.
BOX_MARGIN = 1.25
# ... and of the whole image where no box is given, as the network saw the images of LSP.
IMAGE_MARGIN = 1.05
# Extent of a person's joints over the side of the crop, on average over LSP. A box around joints is widened
# to this share, as hands, feet and hair lie outside them.
JOINTS_SHARE = 0.756
# A pose with more than half of its joints below this score says nothing about where the person is.
SURE = 0.2


class Predictor:
    """Finds the joints of one person in a picture.

    Example::

        pose = Predictor("output/last.pt")("photo.jpg", box=(120, 40, 200, 460))
        pose.joints, pose.scores

    Args:
        checkpoint_or_name: path of a checkpoint from ``pyranet_fast.train``, a name in `models.available`, or a loaded
            ``Checkpoint``; None takes the first network that is shipped.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``; None takes a GPU where there is one.
        flip: average with the mirrored picture: better, at twice the work.
        precision: ``"fp32"`` (also None), or ``"bf16"``, faster where the hardware has it.

    Raises:
        UserError: no checkpoint, one that cannot be read or built, or a device that is not there.
    """

    def __init__(
        self,
        checkpoint_or_name: str | Path | Checkpoint | None = None,
        device: str | torch.device | None = None,
        *,
        flip: bool = True,
        precision: str | None = None,
    ) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; accepted are {', '.join(map(repr, PRECISIONS))} and None")
        if isinstance(checkpoint_or_name, Checkpoint):
            checkpoint, path = checkpoint_or_name, Path("checkpoint")
        elif checkpoint_or_name is None or isinstance(checkpoint_or_name, str | Path):
            path = find_checkpoint(checkpoint_or_name)
            checkpoint = load_checkpoint(path)
        else:
            raise TypeError(
                f"checkpoint_or_name is a {type(checkpoint_or_name).__name__}; a path, a name, a Checkpoint or None is "
                "accepted"
            )
        try:
            self.skeleton = resolve_skeleton(checkpoint.skeleton)
        except UserError as error:
            raise UserError(f"{path} cannot be used: {error}") from error
        self.device = cli.device(device)
        model = build_model(checkpoint, path)
        joints = checkpoint.model.get("joints", 16)
        if joints != len(self.skeleton):
            raise UserError(
                f"{path} is of another configuration: it has {joints} score maps, "
                f"skeleton {self.skeleton.name!r} has {len(self.skeleton)} joints"
            )
        multiple = getattr(model, "multiple", MAP_STRIDE)
        size = checkpoint.input_size
        if not isinstance(size, int) or size < multiple or size % multiple:
            raise UserError(f"{path} has input size {size!r}; a multiple of {multiple} is needed")
        self.name = path.stem
        known = checkpoint.metrics.get(CALIBRATION)
        self.calibration = None if known is None else Calibration.from_dict(known)
        self.input_size = size
        self.flip = flip
        self.precision = precision or "fp32"
        self.model, self._autocast = ready(model, self.device, self.precision)

    def __call__(self, image: Any, box: Sequence[float] | None = None) -> Pose:
        """Predict the pose of one person.

        Args:
            image: a path; a uint8 array (H, W), (H, W, 3) in RGB order or (H, W, 4); or a uint8 tensor
                (C, H, W) with C = 1, 3 or 4.
            box: the person's tight box (x, y, width, height) in pixels, x and y the top left corner; the crop
                is the square around its centre of 1.25 times its longer side. None: the whole image is tried,
                then once more the box of the joints found; the second is kept unless it is less sure.

        Returns:
            A Pose; its score maps are on the CPU.

        Raises:
            UserError: a file that cannot be read, a box that is not four finite numbers with a positive size
                or that lies outside the image, or weights that give NaN.
            TypeError, ValueError: an image of another kind.
        """
        return self.predict_batch([image], [box])[0]

    def predict_batch(
        self,
        images: Iterable[Any],
        boxes: Iterable[Sequence[float] | None] | None = None,
        *,
        batch_size: int = 16,
    ) -> list[Pose]:
        """Predict one person in each of several images, ``batch_size`` crops at a time.

        Args:
            images: any number of images, each as for a single call; several people of one image are the same
                image with several boxes.
            boxes: as many boxes, None among them where there is none; None alone: no boxes at all.
            batch_size: crops a step. No more images than this are in memory if ``images`` gives paths.

        Returns:
            A Pose for each image, in their order.

        Raises:
            As for a single call; ValueError also where the numbers of images and boxes differ.
        """
        if isinstance(images, str | Path | bytes):
            raise TypeError(f"images is a single {type(images).__name__}; a list of images is accepted")
        pictures = list(images)
        places: list[Sequence[float] | None] = [None] * len(pictures) if boxes is None else list(boxes)
        if len(places) != len(pictures):
            raise ValueError(
                f"there are {len(pictures)} images and {len(places)} boxes; a box or None each is accepted"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; at least 1 is accepted")
        poses: list[Pose] = []
        for start in range(0, len(pictures), batch_size):
            part = slice(start, start + batch_size)
            poses += self._batch([_load(p) for p in pictures[part]], places[part])
        return poses

    def _batch(self, images: list[Image], boxes: list[Sequence[float] | None]) -> list[Pose]:
        chosen = [
            (_whole(image), IMAGE_MARGIN) if box is None else (checked_box(box, image.shape), BOX_MARGIN)
            for image, box in zip(images, boxes, strict=True)
        ]
        poses = self._crops(images, chosen)
        again: dict[int, tuple[Box, float]] = {}
        for index, box in enumerate(boxes):
            found = None if box is not None else joints_box(poses[index])
            if found is not None:
                again[index] = found, BOX_MARGIN
        if again:
            closer = self._crops([images[i] for i in again], list(again.values()))
            for index, pose in zip(again, closer, strict=True):
                if pose.mean_score >= poses[index].mean_score:
                    poses[index] = pose
        return poses

    def _crops(self, images: list[Image], chosen: list[tuple[Box, float]]) -> list[Pose]:
        crops, inverses = [], []
        for image, ((x, y, width, height), margin) in zip(images, chosen, strict=True):
            # x and y are a corner; the first pixel's centre is half a pixel inside it.
            centre = (x + width / 2 - 0.5, y + height / 2 - 0.5)
            scale = margin * max(width, height) / PIXELS_PER_SCALE
            matrix = crop_matrix(centre, scale, 0.0, self.input_size)
            crops.append(crop(image, matrix, self.input_size).transpose(2, 0, 1))
            inverses.append(invert(matrix))
        maps = score_maps(
            self.model,
            torch.from_numpy(np.stack(crops)),
            self.skeleton,
            flip=self.flip,
            device=self.device,
            precision=self._autocast,
        )
        joints, scores = decode(maps, np.stack(inverses))
        if not np.isfinite(scores).all():
            raise UserError(
                "the network gives scores that are not finite: its weights are damaged or training diverged"
            )
        heatmaps = maps.cpu().numpy()
        to_input = np.array([[MAP_STRIDE, 0, (MAP_STRIDE - 1) / 2], [0, MAP_STRIDE, (MAP_STRIDE - 1) / 2], [0, 0, 1]])
        skeleton = self.skeleton.as_value()
        chances = [None] * len(images) if self.calibration is None else list(self.calibration.chance(scores))
        return [
            Pose(joints[i], scores[i], heatmaps[i], skeleton, chosen[i][0], inverses[i] @ to_input, chances[i])
            for i in range(len(images))
        ]


def checked_box(box: Sequence[float], shape: Sequence[int]) -> Box:
    """A user's box as four floats.

    Raises:
        UserError: not four finite numbers, no area, no pixel of the image in it, or absurdly large.
    """
    accepted = "four numbers x, y, width, height in pixels are accepted"
    try:
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError) as error:
        raise UserError(f"box is {box!r}; {accepted}") from error
    if not all(map(math.isfinite, (x, y, width, height))):
        raise UserError(f"box is {box!r}; {accepted}, all of them finite")
    if width <= 0 or height <= 0:
        raise UserError(f"box has width {width:g} and height {height:g}; both must be above 0")
    rows, columns = shape[:2]
    size = f"{columns} x {rows} pixels"
    if x >= columns or y >= rows or x + width <= 0 or y + height <= 0:
        raise UserError(f"box {x:g},{y:g},{width:g},{height:g} lies outside the image of {size}")
    if max(width, height) > 100 * max(rows, columns):
        raise UserError(f"box {x:g},{y:g},{width:g},{height:g} is more than 100 times the image of {size}")
    return x, y, width, height


def joints_box(pose: Pose) -> Box | None:
    """The box of the person whose joints were found, or None where too few of them are sure.

    At least half of the joints must score ``SURE``. The box then holds all joints: a wrong one makes the crop
    too large, which costs some resolution, whereas leaving out an unsure ankle would cut it off. Its size is
    the one at which the crop shows the person as large as training did.
    """
    if np.mean(pose.scores >= SURE) < 0.5:
        return None
    low, high = (edge.astype(np.float64) for edge in (pose.joints.min(axis=0), pose.joints.max(axis=0)))
    extent = float((high - low).max())
    if extent < 2.0:  # all on one spot: no size to go by
        return None
    pad = extent * (1 / (JOINTS_SHARE * BOX_MARGIN) - 1) / 2
    x, y = low - pad + 0.5
    width, height = high - low + 2 * pad
    return float(x), float(y), float(width), float(height)


def _whole(image: Image) -> Box:
    return 0.0, 0.0, float(image.shape[1]), float(image.shape[0])


def _load(image: Any) -> Image:
    return read_image(image) if isinstance(image, str | Path) else as_rgb(image)
