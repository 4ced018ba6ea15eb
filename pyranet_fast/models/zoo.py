"""Loads networks from checkpoints or by the name of a pretrained network, with one-sentence errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import CLASSIFICATION, POSE, SUFFIX, Checkpoint, describe, read_checkpoint, read_weights
from ..errors import UserError
from .classifiers import classifier
from .pyranet import PyraNet

LAST = "last.pt"
"""Name of a training's checkpoint in its output folder."""
_NOUNS = {POSE: "a network for poses", CLASSIFICATION: "an image classifier"}


def load_checkpoint(path: str | Path, kind: str | None = POSE) -> Checkpoint:
    """Read a checkpoint onto the CPU. Only tensors and plain values are unpickled (``weights_only``).

    Args:
        path: a file of `train` or of ``export_weights``, or the name of a network in `models.available`.
        kind: required task, ``"pose"`` or ``"classification"``; None: either.

    Raises:
        UserError: no such file, not a checkpoint, truncated, of a newer format, or of another kind.
    """
    path = find_checkpoint(path, kind)
    if path.suffix in (".onnx", ".xml", ".pt2"):
        raise UserError(f"{path} is an exported file, which predict and Predictor run; a checkpoint is needed here")
    checkpoint = read_weights(path) if path.suffix == SUFFIX else read_checkpoint(path)
    if kind is not None and checkpoint.kind != kind:
        found = _NOUNS.get(checkpoint.kind, f"a network of kind {checkpoint.kind!r}")
        raise UserError(f"checkpoint {path} holds {found}; {_NOUNS[kind]} is needed here")
    return checkpoint


def find_checkpoint(path: str | Path | None, kind: str | None = POSE) -> Path:
    """Return the file of a path, of a pretrained network's name, or of None (the first one).

    Raises:
        UserError: no such file, or no pretrained network.
    """
    if path is not None and Path(path).is_file():
        return Path(path)
    if path is not None and Path(path).exists():
        raise UserError(f"checkpoint {path} is no file")
    shipped = {one.name: one.path for one in available() if kind in (None, one.kind)}
    if path is None and shipped:
        return next(iter(shipped.values()))
    if path is None:
        raise UserError(
            "no weights are shipped with this version yet: give the path of a checkpoint that "
            "python -m pyranet_fast.train wrote, such as output/last.pt"
        )
    if str(path) in shipped:
        return shipped[str(path)]
    raise UserError(f"checkpoint {path} does not exist" + (f"; shipped are {', '.join(shipped)}" if shipped else ""))


def build_model(checkpoint: Checkpoint, path: str | Path = "checkpoint") -> nn.Module:
    """Build the network of a checkpoint with its inference weights, in evaluation mode.

    Raises:
        UserError: the weights do not match the configuration.
    """
    build: Callable[..., nn.Module] = PyraNet if checkpoint.kind == POSE else classifier
    try:
        _check_bounds(checkpoint.model)
        with torch.device("meta"):  # before memory is taken for it
            check_fit(build(**checkpoint.model), checkpoint.weights, path)
        model = build(**checkpoint.model)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} holds a network configuration that this version cannot build: {error}") from error
    load_weights(model, checkpoint.weights, path)
    return model.eval()


_MOST = {"stacks": 32, "joints": 4096, "features": 4096, "levels": 32, "depth": 8, "base_width": 4096}
"""Of a network in a file: eight stacks of 256 features with depth 4 are the paper's."""


def _check_bounds(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        most = _MOST.get(name, 1 << 16)
        if isinstance(value, int | float) and not -most <= value <= most:
            raise ValueError(f"{name} is {value}; expected at most {most}")


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Run ``model.load_state_dict`` with one-sentence errors for mismatches and weights that are not finite."""
    check_fit(model, weights, path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{path} has values that are not finite in {name}: it is damaged, or its training diverged; "
                "finite weights are expected"
            )
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Reject weights whose names, shapes or types differ from the network's."""
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
        if own[name].is_floating_point() != tensor.is_floating_point() or tensor.is_complex():
            raise UserError(f"{path} is of another configuration: {name} is {tensor.dtype}; expected {own[name].dtype}")


FOLDER = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Available:
    """A pretrained network, as listed by `available`.

    Attributes:
        name: name for `Predictor`, ``--checkpoint`` and ``--weights``.
        path: its file.
        description: origin of the weights.
        kind: ``"pose"`` or ``"classification"``.
        model: arguments of the network.
        input_size: side of the square network input, pixels.
        metrics: results recorded with the weights.
        parameters: number of parameters.
        megabytes: file size, 10^6 bytes.
    """

    name: str
    path: Path
    description: str
    kind: str
    model: dict[str, Any]
    input_size: int
    metrics: dict[str, Any]
    parameters: int
    megabytes: float


def available(folder: str | Path | None = None) -> list[Available]:
    """List the pretrained networks of the package, or of your own folder, the default one first.

    Add a checkpoint with ``python -m pyranet_fast.export_weights last.pt FOLDER/NAME.safetensors``. The default is the
    network with the most parameters, then the first by name.

    Args:
        folder: folder to list; None: that of the package.

    Raises:
        UserError: a file is corrupt.
    """
    found = []
    for path in sorted(Path(folder or FOLDER).glob(f"*{SUFFIX}")):
        about = describe(path)
        fields = {name: about[name] for name in ("kind", "model", "input_size", "metrics", "parameters")}
        description = str(about.get("description", ""))
        found.append(Available(path.stem, path, description, megabytes=path.stat().st_size / 1e6, **fields))
    return sorted(found, key=lambda one: -one.parameters)


def resolve_device(name: str | torch.device | None = "auto") -> torch.device:
    """Return the device of a name; ``"auto"`` and None: the GPU if available, else the CPU.

    Raises:
        UserError: unknown device, or not available on this machine or in this build of torch.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {str(name)!r}")
    if chosen.type == "cuda":
        asked = f"device {str(name)!r} was asked for, but"
        if not torch.backends.cuda.is_built():
            raise UserError(f"{asked} torch {torch.__version__} is built without CUDA; use cpu or auto")
        if not torch.cuda.is_available():
            raise UserError(f"{asked} torch finds no CUDA GPU on this machine; use cpu or auto")
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise UserError(f"{asked} the last GPU of this machine is cuda:{count - 1}")
    return chosen
