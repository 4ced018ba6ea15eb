"""Checkpoints: written atomically, loaded with a sentence for everything that can be wrong with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError

FORMAT = "pyranet_fast checkpoint"
FORMAT_VERSION = 1
LAST = "last.pt"
"""Name of a training's checkpoint in its output folder."""
POSE, CLASSIFICATION = "pose", "classification"
_NOUNS = {POSE: "a network for poses", CLASSIFICATION: "an image classifier"}


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


def atomic_write(path: Path, write: Any) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to the disk, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_checkpoint(path: str | Path, kind: str | None = POSE) -> Checkpoint:
    """Read a checkpoint onto the CPU. Only tensors and plain values are unpickled (``weights_only``).

    Args:
        path: the file.
        kind: what its network must be for, ``"pose"`` or ``"classification"``; None: either.

    Raises:
        UserError: no such file, not a checkpoint, truncated, of a newer format, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist" if not path.exists() else f"checkpoint {path} is no file")
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
    checkpoint = Checkpoint(**{k: v for k, v in content.items() if k not in ("format", "version")})
    if kind is not None and checkpoint.kind != kind:
        found = _NOUNS.get(checkpoint.kind, f"a network of kind {checkpoint.kind!r}")
        raise UserError(f"checkpoint {path} holds {found}; {_NOUNS[kind]} is needed here")
    return checkpoint


def build_model(checkpoint: Checkpoint, path: str | Path = "checkpoint") -> nn.Module:
    """The network of a checkpoint with its weights for prediction, in eval mode.

    Raises:
        UserError: the weights do not fit the configuration beside them.
    """
    from ..models import PyraNet, classifier

    build: Callable[..., nn.Module] = PyraNet if checkpoint.kind == POSE else classifier
    try:
        model = build(**checkpoint.model)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} holds a network configuration that this version cannot build: {error}") from error
    load_weights(model, checkpoint.weights, path)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """``model.load_state_dict`` that answers a mismatch with one sentence."""
    own = model.state_dict()
    missing, extra = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or extra:
        name = sorted(missing or extra)[0]
        raise UserError(
            f"{path} is of another configuration: {len(missing)} of the network's {len(own)} tensors are missing and "
            f"{len(extra)} are unknown, first {name!r}"
        )
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise UserError(
                f"{path} is of another configuration: {name} has shape {tuple(tensor.shape)}, "
                f"the network's is {tuple(own[name].shape)}"
            )
    model.load_state_dict(weights)
