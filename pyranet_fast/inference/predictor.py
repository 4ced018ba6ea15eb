"""One call from a photo to a pose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..checkpoint import CALIBRATION, POSE, Checkpoint
from ..data.dataset import Image
from ..data.image_io import as_rgb, read_image
from ..data.transforms import MAP_STRIDE, crop, invert
from ..errors import UserError, one_line
from ..io import reading
from ..keypoints import resolve_skeleton
from ..models.precision import CHOICES
from ..models.zoo import available, build_model, find_checkpoint, load_checkpoint, resolve_device
from .boxes import Boxes
from .calibration import Calibration
from .crop_search import (
    BOX_MARGIN,
    CropRegion,
    Look,
    checked_box,
    find_people,
    needs_search,
    refined_region,
    search_regions,
    whole_image,
)
from .exported import SUFFIXES, ExportedNetwork
from .heatmaps import constant_sizes, decode, prepare, require_finite, score_maps
from .result import Pose, Prediction
from .sources import CAMERA, Loaded, Numbered, is_live, pictures, read_ahead
from .tracking import Tracker
from .video import read_camera, read_frames

logger = logging.getLogger("pyranet_fast")


class Predictor:
    """Finds the joints of one person in a picture.

    Example::

        pose = Predictor("output/last.pt")("photo.jpg", box=(120, 40, 200, 460))
        pose.joints, pose.scores

    Args:
        checkpoint_or_name: path of a checkpoint from ``pyranet_fast.train``, a name in `models.available`, a loaded
            ``Checkpoint``, or a file of ``pyranet_fast.export`` (FILE.onnx, FILE.xml, FILE.pt2), which is run by its
            own runtime on the CPU; None takes the first network that is shipped.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``; None takes a GPU where there is one.
        flip: average with the mirrored picture: better, at twice the work. A file exported with ``--decode`` has it in
            itself, in every crop of a search too.
        search: where an image has no box and the pose is not confident, try up to fifty other crops (wider, turned,
            closer) before the most confident is chosen: for people who are small, cut off or upside down.
        precision: ``"fp32"`` (also None), ``"bf16"``, faster where the hardware has it, or ``"auto"``: the faster one
            here, found by a few passes. An exported file has its own.
        searcher: a predictor of the same joints, with a smaller network, for the first looks of a search; None: this
            one. Where it knows their chances of being right, so should this one. ``"auto"``: of a shipped network the
            cheapest shipped one of the same joints, of any other network None.

    Raises:
        UserError: no checkpoint, one that cannot be read or built, a device that is not there, or an exported file that
            cannot do what is asked.
    """

    def __init__(
        self,
        checkpoint_or_name: str | Path | Checkpoint | None = None,
        device: str | torch.device | None = None,
        *,
        flip: bool = True,
        search: bool = True,
        precision: str | None = None,
        searcher: Predictor | Literal["auto"] | None = "auto",
    ) -> None:
        if precision is not None and precision not in CHOICES:
            raise ValueError(f"precision must be one of {', '.join(map(repr, CHOICES))} or None, got {precision!r}")
        self.flip, self.search = flip, search
        self._searcher = searcher
        self._path: Path | None = None
        if isinstance(checkpoint_or_name, str | Path) and Path(checkpoint_or_name).suffix in SUFFIXES:
            self._use_exported(Path(checkpoint_or_name), device, precision)
            return
        if isinstance(checkpoint_or_name, Checkpoint):
            checkpoint, path = checkpoint_or_name, Path("checkpoint")
        elif checkpoint_or_name is None or isinstance(checkpoint_or_name, str | Path):
            path = find_checkpoint(checkpoint_or_name)
            checkpoint = load_checkpoint(path)
            self._path = path
        else:
            raise TypeError(
                "checkpoint_or_name must be a path, a name, a Checkpoint or None, got "
                f"{type(checkpoint_or_name).__name__}"
            )
        self.device = resolve_device(device)
        with reading(path, "a network for poses"):
            self._use_checkpoint(checkpoint, path, precision)

    def _use_checkpoint(self, checkpoint: Checkpoint, path: Path, precision: str | None) -> None:
        try:
            self.skeleton = resolve_skeleton(checkpoint.skeleton)
        except UserError as error:
            raise UserError(f"{path} cannot be used: {error}") from error
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
            raise UserError(f"the input size of {path} must be a multiple of {multiple}, got {size!r}")
        self.name = path.stem
        known = checkpoint.metrics.get(CALIBRATION)
        self.calibration = None if known is None else Calibration.from_dict(known)
        self.input_size = size
        batch = 2 if self.flip else 1
        self.model: torch.nn.Module
        prepared = prepare(model, self.device, precision or "fp32", size, batch)
        if prepared.choice is not None:
            logger.debug(f"precision auto: {prepared.choice}")
        self.model, self._autocast, self.precision = prepared.network, prepared.autocast, prepared.precision

    def _use_exported(self, path: Path, device: str | torch.device | None, precision: str | None) -> None:
        if device is not None and str(device) not in ("auto", "cpu"):
            raise UserError(f"device must be cpu for an exported file such as {path}, got {str(device)!r}")
        if precision == "bf16":
            raise UserError(f"precision must be fp32 or auto for {path}, which has its own, got 'bf16'")
        network = ExportedNetwork(path)
        about = network.description
        if about.mirrored and not self.flip:
            raise UserError(f"flip must be True for {path}, which includes the mirrored pass; export it with --no-flip")
        self.skeleton, self.calibration, self.input_size = about.skeleton, about.calibration, about.input_size
        self.name, self.device, self.precision = path.stem, torch.device("cpu"), about.precision
        self.model, self._autocast = network, "fp32"

    @property
    def searcher(self) -> Predictor:
        """What takes the first looks of a search: a smaller network of the same joints, or this one."""
        if self._searcher == "auto":
            self._searcher = self._cheapest()
        return self if self._searcher is None else self._searcher

    @searcher.setter
    def searcher(self, searcher: Predictor | None) -> None:
        self._searcher = searcher

    def _cheapest(self) -> Predictor | None:
        """Of the shipped networks of these joints the one of the least work; None: this one, or this is not shipped."""
        shipped = sorted(available(), key=lambda one: one.parameters * one.input_size**2)
        if self._path not in [one.path for one in shipped]:
            return None
        for one in shipped:
            if one.path == self._path:
                break
            if one.kind == POSE:
                smaller = Predictor(one.path, self.device, flip=self.flip, precision=self.precision, searcher=None)
                if smaller.skeleton.joints == self.skeleton.joints:
                    return smaller
        return None

    def __call__(self, image: Any, box: Sequence[float] | None = None) -> Pose:
        """Predict the pose of one person.

        Args:
            image: a path; a uint8 array (H, W), (H, W, 3) in RGB order or (H, W, 4); or a uint8 tensor
                (C, H, W) with C = 1, 3 or 4.
            box: the person's tight box (x, y, width, height) in pixels, x and y the top left corner; the crop
                is the square around its center of 1.25 times its longer side. None: the whole image is tried,
                then once more the box of the joints found; the second is kept unless it is less sure. Where less
                than 82 % of its joints are expected to be right (where the weights do not know that: where the mean
                of its scores is below 0.45) the person is then searched for elsewhere (``search``).

        Returns:
            A Pose; its score maps are on the CPU.

        Raises:
            UserError: a file that cannot be read, a box that is not four finite numbers with a positive size
                or that lies outside the image, or weights that give score maps which are not finite.
            TypeError, ValueError: an image of another kind.
        """
        return self.predict_batch([image], [box])[0]

    def everyone(self, image: Any, *, most: int | None = None, batch_size: int = 16) -> list[Pose]:
        """Predict the poses of all people in a picture, without boxes.

        Windows of several sizes all over the picture go through the network (`searcher` where one was given), people
        are refined on the box of their own joints, and those that are not to be trusted are left out, see
        `crop_search.find_people`.

        Args:
            image: as for a single call.
            most: maximum number of people, the most confident ones; None: all.
            batch_size: crops a step.

        Returns:
            A Pose for each person, the most confident first.

        Raises:
            As for a single call; ValueError also for ``most`` or ``batch_size`` below 1.
        """
        if batch_size < 1 or (most is not None and most < 1):
            raise ValueError(f"most and batch_size must be at least 1, got {most} and {batch_size}")
        return self._everyone(_load(image), most, batch_size)

    def _everyone(self, image: Image, most: int | None, batch_size: int) -> list[Pose]:
        search, look = self.searcher.look(image, batch_size), self.look(image, batch_size)
        return find_people(image.shape, search, look, most)

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
            boxes: one box or None per image; None alone: no boxes.
            batch_size: crops a step. No more images than this are in memory if ``images`` gives paths.

        Returns:
            A Pose for each image, in their order.

        Raises:
            As for a single call; ValueError also where the numbers of images and boxes differ.
        """
        if isinstance(images, str | Path | bytes):
            raise TypeError(f"images must be a list of images, got a single {type(images).__name__}")
        pictures = list(images)
        places: list[Sequence[float] | None] = [None] * len(pictures) if boxes is None else list(boxes)
        if len(places) != len(pictures):
            raise ValueError(f"boxes must have a box or None for each of {len(pictures)} images, got {len(places)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        poses: list[Pose] = []
        for start in range(0, len(pictures), batch_size):
            part = slice(start, start + batch_size)
            poses += self._batch([_load(p) for p in pictures[part]], places[part], batch_size)
        return poses

    def stream(
        self,
        source: Any,
        *,
        boxes: Sequence[float] | Boxes | None = None,
        people: int | None = 1,
        recursive: bool = False,
        batch_size: int = 16,
        threads: int = 4,
        skip: Callable[[int, str], bool] | None = None,
        exclude: Path | None = None,
    ) -> Iterator[Prediction]:
        """Yield what is found in each picture of a source, while later pictures are decoded by threads.

        At most about three batches of pictures are in memory, however long the source is. A camera's pictures are not
        queued: the newest is taken. A picture that cannot be read, or whose box lies outside it, has an ``error`` and
        no poses.

        Example::

            for prediction in Predictor().stream("holiday/", recursive=True):
                print(prediction.name, [pose.joints for pose in prediction.poses])

        Args:
            source: an image, a folder, a glob, a text file of paths, ``"-"``, a video, ``"camera:0"``, a tar shard, a
                URL, an array, or an iterable of these; see `sources.pictures`.
            boxes: the box (x, y, width, height) of the one person in every picture, or a function that gives the boxes
                of all people from a picture's name and its (H, W, 3) pixels (`boxes.read_boxes` makes one of a file);
                None searches for ``people``.
            people: 1: one person per image; a larger number: at most that many, found by `everyone`; None: all
                people. Ignored for images with boxes.
            recursive: look into the folders below a folder, too.
            batch_size: pictures, and crops, that go through the network together.
            threads: that decode.
            skip: a function of a picture's number in the source and its name; where it gives true, the picture is
                neither read nor yielded. It is called in a thread.
            exclude: a folder below the source's folders that is left out.

        Raises:
            TypeError, ValueError: an argument is not as described.
            UserError: the network gives score maps that are not finite.
        """
        if batch_size < 1 or threads < 1:
            raise ValueError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}")
        if people is not None and people < 1:
            raise ValueError(f"people must be at least 1, or None for everybody, got {people}")

        def numbered() -> Iterator[Numbered]:
            for index, picture in enumerate(pictures(source, recursive=recursive, exclude=exclude)):
                if skip is None or not skip(index, picture.name):
                    yield index, picture

        camera = isinstance(source, str) and source.startswith(CAMERA)
        options = {"threads": threads, "ahead": batch_size, "live": is_live(source), "newest": camera}

        def predictions() -> Iterator[Prediction]:
            with read_ahead(numbered(), **options) as batches:  # type: ignore[arg-type]
                for batch in batches:
                    with constant_sizes():
                        found = self._predict_loaded(batch, boxes, people, batch_size)
                    yield from found

        return predictions()

    def track(self, source: str | Path, *, people: int | None = 1, smooth: bool = True) -> Iterator[Prediction]:
        """Yield what is found in each frame of a video or camera, with an ``id`` for each person that lasts.

        Example::

            for prediction in Predictor().track("walk.mp4", people=None):
                print(prediction.seconds, [(pose.id, pose.joints) for pose in prediction.poses])

        Args:
            source: a video file, or ``"camera:0"``.
            people: maximum number; None: all.
            smooth: smooth joints over time, see `tracking.OneEuro`.

        Raises:
            ValueError: ``people`` is below 1.
            UserError: the source cannot be read, or the network gives score maps that are not finite.
        """
        tracker = Tracker(self, people, smooth=smooth)
        name = str(source)
        frames = read_camera(name.removeprefix(CAMERA)) if name.startswith(CAMERA) else read_frames(name)

        def predictions() -> Iterator[Prediction]:
            for frame in frames:
                with constant_sizes():
                    poses = tracker(frame)
                label = f"{name}#{frame.number:06d}"
                yield Prediction(frame.number, label, frame.image, poses, seconds=frame.seconds)

        return predictions()

    def _predict_loaded(
        self, batch: list[Loaded], boxes: Sequence[float] | Boxes | None, people: int | None, batch_size: int
    ) -> list[Prediction]:
        results: list[Prediction] = []
        images: list[Image] = []
        places: list[Sequence[float] | None] = []
        owners: list[Prediction] = []
        for loaded in batch:
            try:
                if isinstance(loaded.image, UserError):
                    raise loaded.image
                found: Sequence[Sequence[float] | None]
                if boxes is None and people != 1:
                    poses = self._everyone(loaded.image, people, batch_size)
                    results.append(Prediction(loaded.index, loaded.name, loaded.image, poses))
                    continue
                found = boxes(loaded.name, loaded.image) if callable(boxes) else [boxes]
                found = [None if box is None else checked_box(box, loaded.image.shape) for box in found]
            except UserError as error:
                sentence = one_line(str(error))
                sentence = sentence if loaded.name in sentence else f"image {loaded.name}: {sentence}"
                results.append(Prediction(loaded.index, loaded.name, None, error=sentence))
                continue
            results.append(Prediction(loaded.index, loaded.name, loaded.image))
            images += [loaded.image] * len(found)
            places += found
            owners += [results[-1]] * len(found)
        poses = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            poses += self._batch(images[part], places[part], batch_size)
        for owner, pose in zip(owners, poses, strict=True):
            owner.poses.append(pose)
        return results

    def _batch(self, images: list[Image], boxes: list[Sequence[float] | None], batch_size: int) -> list[Pose]:
        regions = [
            whole_image(image.shape) if box is None else CropRegion(checked_box(box, image.shape), BOX_MARGIN)
            for image, box in zip(images, boxes, strict=True)
        ]
        poses = self._predict_regions(images, regions)
        free = [i for i, box in enumerate(boxes) if box is None]
        again = {i: region for i in free if (region := refined_region(poses[i])) is not None}
        for i, pose in zip(again, self._predict_regions([images[i] for i in again], list(again.values())), strict=True):
            if pose.mean_score >= poses[i].mean_score:
                poses[i] = pose
        for i in free if self.search else ():
            if needs_search(poses[i]):
                search, look = (one.look(images[i], batch_size) for one in (self.searcher, self))
                poses[i] = search_regions(poses[i], images[i].shape, search, look)
        return poses

    def look(self, image: Image, batch_size: int) -> Look:
        """A function that gives the poses in regions of an image, ``batch_size`` at a time; see `crop_search.Look`."""

        def look(regions: list[CropRegion], careful: bool) -> list[Pose]:
            starts = range(0, len(regions), batch_size)
            parts = [regions[start : start + batch_size] for start in starts]
            return [
                p for part in parts for p in self._predict_regions([image] * len(part), part, self.flip and careful)
            ]

        return look

    def _predict_regions(self, images: list[Image], regions: list[CropRegion], flip: bool | None = None) -> list[Pose]:
        """Predict a pose for each pair of image and region; ``flip`` overrides that of the predictor."""
        if not images:
            return []
        matrices = [region.matrix(self.input_size) for region in regions]
        crops = [
            crop(image, matrix, self.input_size).transpose(2, 0, 1)
            for image, matrix in zip(images, matrices, strict=True)
        ]
        inverses = [invert(matrix) for matrix in matrices]
        maps = score_maps(
            self.model,
            torch.from_numpy(np.stack(crops)),
            self.skeleton,
            flip=self.flip if flip is None else flip,
            device=self.device,
            precision=self._autocast,
        )
        require_finite(maps)
        joints, scores = decode(maps, np.stack(inverses))
        heatmaps = maps.cpu().numpy()
        to_input = np.array([[MAP_STRIDE, 0, (MAP_STRIDE - 1) / 2], [0, MAP_STRIDE, (MAP_STRIDE - 1) / 2], [0, 0, 1]])
        skeleton = self.skeleton.as_value()
        chances = [None] * len(images) if self.calibration is None else list(self.calibration.chance(scores))
        return [
            Pose(joints[i], scores[i], heatmaps[i], skeleton, region.box, inverses[i] @ to_input, chances[i],
                 region.rotation)
            for i, region in enumerate(regions)
        ]  # fmt: skip


def _load(image: Any) -> Image:
    return read_image(image) if isinstance(image, str | Path) else as_rgb(image)
