"""Checkpoints and weights files: formats, reading and writing.

A checkpoint holds everything needed to predict and to resume training. A weights file is for sharing: safetensors with
the network's configuration, convolutions in half precision, a fifth of the size of a checkpoint, free of executable
code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .io import atomic_write, reader

FORMAT = "pyranet_fast checkpoint"
FORMAT_VERSION = 1
POSE, CLASSIFICATION = "pose", "classification"
CALIBRATION = "calibration"
"""Entry of a checkpoint's metrics: `pose.calibration.Calibration.as_dict`, what its scores mean."""


@dataclass
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        model: constructor arguments of the network (``PyraNet(**model)``, or ``models.classifier(**model)``).
        weights: state dict for predictions (the moving average if training kept one).
        skeleton: name in ``pyranet_fast.pose.SKELETONS``, or ``Skeleton.as_dict()`` of a custom one;
            ``resolve_skeleton`` reads both. Empty for a classifier.
        input_size: side of the square network input, pixels.
        training: everything needed to continue: raw weights, optimizer, random state, position, settings.
        metrics: validation results at the time of saving.
        kind: task of the network, ``"pose"`` or ``"classification"``.
        images: class names and normalization of a classifier: ``classes``, ``mean``, ``std``, ``dataset``.
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
    """Write a checkpoint atomically: a crash leaves either the old or the new file."""
    path = Path(path)
    content = {"format": FORMAT, "version": FORMAT_VERSION, **vars(checkpoint)}
    atomic_write(path, lambda file: torch.save(content, file))


@reader("a checkpoint of pyranet_fast")
def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint` onto the CPU, unpickling only tensors and plain values.

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
    if type(content.get("version")) is not int:
        raise UserError(f"checkpoint {path} has format version {content.get('version')!r}; expected a whole number")
    if content["version"] > FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path} has format version {content['version']}; this version of pyranet_fast reads up to "
            f"{FORMAT_VERSION}: please upgrade it"
        )
    return _checked(Checkpoint(**{k: v for k, v in content.items() if k not in ("format", "version")}), path)


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,), "weights": (dict,), "skeleton": (str, dict), "input_size": (int,), "training": (dict,),
    "metrics": (dict,), "kind": (str,), "images": (dict,),
}  # fmt: skip


def _checked(checkpoint: Checkpoint, path: str | Path) -> Checkpoint:
    """The checkpoint itself, where its fields are of the kinds that they should be."""
    for name, kinds in _KINDS.items():
        value = getattr(checkpoint, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{path} has a {type(value).__name__} for {name}; expected a {expected}")
    for name, tensor in checkpoint.weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise UserError(f"{path} has a {type(tensor).__name__} for the weight {name!r}; expected a dense tensor")
    return checkpoint


SUFFIX = ".safetensors"
_MARK, _VERSION = "pyranet_fast", 1
_FIELDS = ("model", "skeleton", "input_size", "kind", "images", "metrics")


def save_weights(path: str | Path, checkpoint: Checkpoint, *, description: str = "", half: bool = True) -> None:
    """Write the inference weights of a checkpoint atomically.

    Args:
        path: FILE.safetensors.
        checkpoint: pose network or classifier.
        description: one sentence on the origin of the weights, shown by `models.available`.
        half: store convolutions and linear layers in float16; everything else stays float32.

    Raises:
        UserError: wrong suffix, or a weight out of the range of float16.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != SUFFIX:
        raise UserError(f"{path} must end in {SUFFIX}, got {path.suffix!r}")
    tensors = {}
    for name, tensor in checkpoint.weights.items():
        low = tensor.half() if half and tensor.dim() > 1 and tensor.is_floating_point() else tensor
        if not torch.isfinite(low).all():
            raise UserError(f"{name} holds values that are not finite, or too large for half precision")
        tensors[name] = low.contiguous().clone()
    about = {name: getattr(checkpoint, name) for name in _FIELDS}
    kept = {k: v for k, v in checkpoint.metrics.items() if isinstance(v, str | int) or _finite(v)}
    if CALIBRATION in checkpoint.metrics:
        kept[CALIBRATION] = checkpoint.metrics[CALIBRATION]
    about["metrics"] = kept
    content = {"version": _VERSION, "description": description, **about}
    data = save(tensors, {_MARK: json.dumps(content, allow_nan=False)})
    atomic_write(path, lambda file: file.write(data))


def _finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@reader("weights of pyranet_fast")
def describe(path: str | Path) -> dict[str, Any]:
    """Return the metadata of `save_weights`: the fields of `Checkpoint`, ``description`` and ``parameters``.

    Raises:
        UserError: the file cannot be read or has another format.
    """
    with _opened(path) as file:
        about = _about(file, path)
        shapes = [file.get_slice(name).get_shape() for name in file.keys() if _is_parameter(name)]
        return {**about, "parameters": sum(math.prod(shape) for shape in shapes)}


def _is_parameter(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@reader("weights of pyranet_fast")
def read_weights(path: str | Path) -> Checkpoint:
    """Read a checkpoint of `save_weights` in float32, without training state.

    Raises:
        UserError: the file cannot be read or has another format.
    """
    with _opened(path) as file:
        about = _about(file, path)
        weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
    weights = {name: t.float() if t.dtype == torch.float16 else t for name, t in weights.items()}
    return _checked(Checkpoint(weights=weights, **{name: about[name] for name in _FIELDS}), path)


def _opened(path: str | Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path} cannot be read; the file is corrupt, cut short, or no safetensors") from error


def _about(file: Any, path: str | Path) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_MARK)
    if text is None:
        raise UserError(f"weights {path} were not written by pyranet_fast: their description is missing")
    try:
        about: dict[str, Any] = json.loads(text)
        version, missing = about["version"], [name for name in _FIELDS if name not in about]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"weights {path} have a description that cannot be read") from error
    if type(version) is not int:
        raise UserError(f"weights {path} have format version {version!r}; expected a whole number")
    if version > _VERSION:
        raise UserError(
            f"weights {path} have format version {version}; this version of pyranet_fast reads up to {_VERSION}: "
            "please upgrade it"
        )
    if missing:
        raise UserError(f"weights {path} have a description without {missing[0]!r}")
    return about
