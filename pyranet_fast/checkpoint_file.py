"""A network with everything that predictions, and a training that goes on, need of it: in memory and in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .atomic import atomic_write
from .errors import UserError

FORMAT = "pyranet_fast checkpoint"
FORMAT_VERSION = 1
POSE, CLASSIFICATION = "pose", "classification"
CALIBRATION = "calibration"
"""Entry of a checkpoint's metrics: `pose.calibration.Calibration.as_dict`, what its scores mean."""


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        model: constructor arguments of the network (``PyraNet(**model)``, or ``models.classifier(**model)``).
        weights: state dict to predict with (the moving average where training kept one).
        skeleton: name in ``pyranet_fast.pose.SKELETONS``, or ``Skeleton.as_dict()`` of one that came with the data;
            ``resolve_skeleton`` reads both. Empty for a classifier.
        input_size: side of the square network input, pixels.
        training: everything needed to continue: raw weights, optimiser, random state, position, settings.
        metrics: validation results at the time of saving.
        kind: what the network is for, ``"pose"`` or ``"classification"``.
        images: a classifier's names of classes and normalisation: ``classes``, ``mean``, ``std``, ``dataset``.
    """

    model: dict[str, Any]
    weights: dict[str, torch.Tensor]
    skeleton: str | dict[str, Any]
    input_size: int
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    kind: str = POSE
    images: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that a crash at any moment leaves either the old file or the new one, never half."""
    path = Path(path)
    content = {"format": FORMAT, "version": FORMAT_VERSION, **vars(checkpoint)}
    atomic_write(path, lambda file: torch.save(content, file))


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file of `save_checkpoint`, on the CPU. Only tensors and plain values are unpickled.

    Raises:
        UserError: not a checkpoint, truncated, or of a newer format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"checkpoint {path} cannot be read; it is corrupt, cut short, or not a checkpoint at all"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} was not written by pyranet_fast: its format mark is missing")
    if content["version"] > FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path} has format version {content['version']}; this version of pyranet_fast reads up to "
            f"{FORMAT_VERSION}: please upgrade it"
        )
    return Checkpoint(**{k: v for k, v in content.items() if k not in ("format", "version")})
