"""Scoring a network on a set of people: one scale or six, optionally with flip testing; interrupted runs resume."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.crops import ScaledCrops, require_shared_memory, worker_init
from ..data.dataset import PeopleSource
from ..data.left_out import LeftOut
from ..errors import UserError
from ..inference.heatmaps import decode, decode_scales, require_finite, score_maps
from ..io import atomic_write, limit_pixels, max_pixels
from ..metrics import Score

SECONDS = 20.0  # between two states on the disk
_ARRAYS = ("predictions", "done", "readable", "frames", "why")


class EvaluationState:
    """Predictions so far, (N, K, 3) float32 with NaN where missing, in a file to resume from.

    Attributes:
        predictions: x and y in image pixels, score.
        done: (N,) bool, true for people processed.
        readable: (N,) bool, true for people whose image was read.
        frames: (N, 4) positions of the published images in the pixels of the source, see ``PeopleSource.frame``.
        refused: why an existing file was not resumed; empty if it was, or there was none.
        why: (N,) str, reason why a person is left out, as in ``LeftOut``; empty if the image was read.
    """

    def __init__(
        self,
        people: int,
        joints: int,
        path: Path | None = None,
        identity: dict[str, Any] | None = None,
        *,
        resume: bool = True,
    ) -> None:
        """Start, or resume from the file ``path`` if it is of the same evaluation.

        Args:
            people: N.
            joints: K.
            path: where the state is kept; None keeps none.
            identity: says which evaluation this is; a file that says something else is not used.
            resume: False starts over.
        """
        self.path, self._identity, self.refused = path, json.dumps(identity or {}, sort_keys=True), ""
        self.predictions = np.full((people, joints, 3), np.nan, np.float32)
        self.done = np.zeros(people, bool)
        self.readable = np.zeros(people, bool)
        self.frames = np.zeros((people, 4))
        self.why = np.zeros(people, "<U80")
        self._saved = time.monotonic()
        if resume and path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                same = str(file["what"]) == self._identity and file["predictions"].shape == self.predictions.shape
                if not same:
                    self.refused = _difference(str(file["what"]), self._identity)
                else:
                    for name in _ARRAYS:
                        found, own = np.array(file[name]), getattr(self, name)
                        if found.shape != own.shape or found.dtype.kind != own.dtype.kind:
                            raise ValueError(name)
                        setattr(self, name, found.astype(own.dtype))
        except Exception as error:  # NumPy raises many kinds on a damaged file
            raise UserError(f"{path}, the state of an interrupted evaluation, cannot be read; delete it") from error

    def remaining(self) -> npt.NDArray[np.int64]:
        """Return the indices of people not yet processed."""
        return np.flatnonzero(~self.done)

    def add(
        self,
        index: npt.NDArray[np.int64],
        rows: npt.NDArray[np.float32],
        valid: npt.NDArray[np.bool_],
        frames: npt.NDArray[np.float64],
        why: Sequence[str],
    ) -> None:
        """Add (n, K, 3) predictions of people ``index``; unreadable images stay NaN, with the reason ``why``."""
        self.predictions[index[valid]] = rows[valid]
        self.frames[index] = frames
        self.readable[index] = valid
        self.why[index] = why
        self.done[index] = True
        if self.path is not None and time.monotonic() - self._saved > SECONDS:
            self.save()

    def save(self) -> None:
        """Write the state atomically."""
        if self.path is not None and self.done.any():
            state: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
            atomic_write(self.path, lambda file: np.savez(file, what=self._identity, **state))
        self._saved = time.monotonic()

    def left_out(self, people: PeopleSource) -> LeftOut:
        """Return the processed people whose image could not be read."""
        found = LeftOut()
        for index in map(int, np.flatnonzero(self.done & ~self.readable)):
            name = people.image_name(index)
            found.add(str(self.why[index]), name, first=name)
        return found

    def finish(self) -> None:
        """Remove the file, once results are written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def precision_of(path: Path) -> str | None:
    """Return the precision of an interrupted evaluation, or None."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(str(file["what"])).get("precision")
            return found if isinstance(found, str) else None
    except Exception:  # missing or corrupt: opening it reports that
        return None


def _difference(before: str, now: str) -> str:
    """In what two descriptions of an evaluation differ."""
    then, here = json.loads(before), json.loads(now)
    names = [name for name in here if then.get(name) != here[name]] or ["its people"]
    return f"it had other {', '.join(names)}"


T = TypeVar("T")
SINGLE_SCALE = (1.0,)


def evaluate_pose(
    model: nn.Module,
    people: PeopleSource,
    input_size: int,
    *,
    flip: bool,
    scales: Sequence[float] = SINGLE_SCALE,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    workers: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = False,
    state: EvaluationState | None = None,
) -> tuple[Score, NDArray[np.float32]]:
    """Predict every person and score the predictions with the metric of the dataset.

    Args:
        model: PyraNet in eval mode.
        people: people to predict; center and scale determine the crop, without ground-truth joints.
        input_size: side of the network input, pixels.
        flip: average the score maps of each image and its mirror.
        scales: factors of the crop side. One scale: maximum and a quarter pixel (`decode`); several:
            maximum of the average over the image (`decode_scales`).
        batch_size: crops per forward pass, twice as many images with ``flip``; all scales of a person are in one
            batch.
        workers: loader processes; 0: one thread.
        on_error: ``"skip"`` leaves out people with an unreadable image and counts them in the settings of the score.
        state: predictions so far, which are kept.

    Returns:
        The score, and predictions (N, K, 3): x, y in pixels of ``people.image(i)``, score; NaN if unreadable.
        ``people.to_original`` maps to pixels of the published image.

    Raises:
        UserError: an image, or every image, cannot be read, cached images show less than the widest crop, or score maps
            are not finite.
    """
    state = EvaluationState(len(people), len(people.skeleton)) if state is None else state
    todo = state.remaining()
    data = ScaledCrops(people, input_size, scales, on_error=on_error, start=todo.tolist())
    require_shared_memory(workers)
    loader = DataLoader(
        data,
        max(1, batch_size // len(scales)),
        num_workers=workers,
        worker_init_fn=partial(worker_init, pixels=max_pixels()),
    )
    started, in_network = time.perf_counter(), 0.0
    bar = tqdm(
        total=len(people),
        initial=len(people) - len(todo),
        unit="person",
        disable=not progress or None,
        dynamic_ncols=True,
    )
    try:
        for batch in prefetch(loader):
            why = batch.pop("why")
            index, valid, frames = (batch[name].numpy() for name in ("index", "valid", "frame"))
            rows = np.full((len(index), len(people.skeleton), 3), np.nan, np.float32)
            if valid.any():
                some = {name: values[batch["valid"]] for name, values in batch.items()}
                before = time.perf_counter()
                images = some["images"].flatten(0, 1)
                maps = score_maps(model, images, people.skeleton, flip=flip, device=device, precision=precision)
                in_network += time.perf_counter() - before
                require_finite(maps)
                joints, scores = _decode(maps, scales, some)
                rows[valid] = np.concatenate([joints, scores[..., None]], -1)
            state.add(index, rows, valid, frames, why)
            bar.update(len(rows))
    finally:
        bar.close()
        state.save()
    if len(people) and not state.readable.any():
        why = state.left_out(people).reasons()
        raise UserError(f"{people.name}: no image of the {len(people)} people can be read: {why}")
    seconds = time.perf_counter() - started
    score = score_predictions(people, state.predictions, state.readable, state.frames)
    left_out = state.left_out(people)
    score.settings.update(scales=list(scales), flip=flip, input_size=input_size, unreadable=len(left_out))
    score.settings.update(unreadable_pictures=left_out.pictures, unreadable_reasons=left_out.counts())
    score.settings["people_per_second"] = round(int(state.readable[todo].sum()) / seconds, 2)
    if torch.device(device).type == "cpu":  # a GPU's work is not done when the call returns
        score.settings["network_share"] = round(in_network / seconds, 3)
    return score, state.predictions


def prefetch(items: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """Yield the items, produced ahead by one thread."""
    end: Any = object()
    source = iter(items)
    with ThreadPoolExecutor(1, initializer=limit_pixels, initargs=(max_pixels(),)) as pool:
        waiting = deque(pool.submit(next, source, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, source, end))
            yield item


def _decode(
    maps: Tensor, scales: Sequence[float], batch: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if len(scales) == 1:
        return decode(maps, batch["inverse"])
    of_scales = maps.unflatten(0, (-1, len(scales)))
    corner, size = batch["frame"][:, :2], batch["frame"][:, 2:]
    joints, scores = decode_scales(of_scales, scales, batch["center"] - corner, batch["side"], size)
    return joints + corner[:, None].float().numpy(), scores


def score_predictions(
    people: PeopleSource,
    predictions: NDArray[np.float32],
    readable: NDArray[np.bool_] | None = None,
    frames: NDArray[np.float64] | None = None,
) -> Score:
    """Score predictions (N, K, 2 or 3) in the pixels of ``people.image(i)`` with the metric of the dataset.

    People without a unit of length are left out and counted in the settings of the score; with ``frames`` (N, 4) of
    ``PeopleSource.frame``, so are labeled joints outside the published image.
    """
    chosen = np.arange(len(people)) if readable is None else np.flatnonzero(readable)
    persons = [people.person(int(i)) for i in chosen]
    truth = np.stack([p.joints for p in persons])
    labeled = np.stack([p.labeled for p in persons])
    points = predictions[chosen, :, :2]
    sizes = None
    if frames is not None:  # metrics count pixels from the image's corner
        corner, sizes = frames[chosen, None, :2].astype(np.float32), frames[chosen, 2:]
        truth, points = truth - corner, points - corner
    lengths = [people.reference_length(int(i)) for i in chosen]
    score = people.metric.score(points, truth, labeled, lengths, image_size=sizes)
    if score.count == 0:
        why = ", ".join(f"{count} have {reason}" for reason, count in score.settings["left_out"].items())
        raise UserError(f"{people.name}: none of {len(chosen)} people can be scored: {why}")
    return score
