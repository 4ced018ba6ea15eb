"""Scoring a network on a set of people: single scale, optionally with flip testing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.base import PeopleSource
from ..data.crops import CropDataset, worker_init
from ..errors import UserError
from .box_metric import pck_box
from .inference import decode, score_maps
from .metrics import Score, pck, pckh


def evaluate_pose(
    model: nn.Module,
    people: PeopleSource,
    input_size: int,
    *,
    flip: bool,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    workers: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> tuple[Score, NDArray[np.float32]]:
    """Predict every person and score the predictions with the data set's own metric.

    Args:
        model: PyraNet in eval mode.
        people: who to predict; their centre and scale choose the crop (no ground-truth joints are used for it).
        input_size: side of the network's input, pixels.
        flip: average the score maps of each image and its mirror.
        on_error: ``"skip"`` leaves people with an unreadable image out of the score, counted in its settings.

    Returns:
        The score, and predictions (N, K, 3): x, y in original image pixels, score; NaN where the image was unreadable.
    """
    data = CropDataset(people, input_size, augmentation=None, on_error=on_error)
    loader = DataLoader(data, batch_size, num_workers=workers, worker_init_fn=worker_init)
    predictions = np.full((len(people), len(people.skeleton), 3), np.nan, np.float32)
    readable = np.zeros(len(people), bool)
    with tqdm(total=len(people), unit="person", disable=not progress or None, dynamic_ncols=True) as bar:
        for batch in loader:
            maps = score_maps(model, batch["image"], people.skeleton, flip=flip, device=device, precision=precision)
            joints, scores = decode(maps, batch["inverse"])
            index, valid = batch["index"].numpy(), batch["valid"].numpy()
            predictions[index, :, :2], predictions[index, :, 2] = joints, scores
            predictions[index[~valid]] = np.nan
            readable[index] = valid
            bar.update(len(index))
    score = score_predictions(people, predictions, readable)
    score.settings.update(scales=1, flip=flip, input_size=input_size, unreadable=int((~readable).sum()))
    return score, predictions


def score_predictions(
    people: PeopleSource, predictions: NDArray[np.float32], readable: NDArray[np.bool_] | None = None
) -> Score:
    """Score predictions (N, K, 2 or 3) in image pixels with the data set's metric."""
    chosen = np.arange(len(people)) if readable is None else np.flatnonzero(readable)
    persons = [people.person(int(i)) for i in chosen]
    truth = np.stack([p.joints for p in persons])
    labelled = np.stack([p.labelled for p in persons])
    points = predictions[chosen, :, :2]
    if people.metric == "pck":
        return pck(points, truth, labelled)
    lengths = np.array([people.reference_length(int(i)) for i in chosen], np.float32)
    known = lengths > 0  # nobody is measured without a unit; how many were left out is in the settings
    if not known.any():
        raise UserError(f"{people.name}: nobody has the unit of length of {people.metric}, so there is no score")
    points, truth, labelled, lengths = points[known], truth[known], labelled[known], lengths[known]
    if people.metric == "pck-box":
        score = pck_box(points, truth, lengths, labelled, people.skeleton)
    else:
        score = pckh(points, truth, lengths, labelled)
    score.settings["without_unit"] = int((~known).sum())
    return score
