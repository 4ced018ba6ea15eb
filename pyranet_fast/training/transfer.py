"""Fine-tuning: weights of one network initialize another, with other joints or more stacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..data.dataset import joint_origins
from ..errors import UserError
from ..keypoints import Skeleton, resolve_skeleton

_HEAD, _BACK = "score", "from_score"
"""Of a stack: features to score maps, and score maps to the next stack's input."""
_ONWARD = ("from_features", _BACK)
_FREE = ("stacks", "joints", "pool_windows")
"""Arguments of the network in which the two may differ."""


def transferred(start: Checkpoint, config: dict[str, Any], skeleton: Skeleton, source: str | Path) -> dict[str, Tensor]:
    """Return initial weights for a network of ``config`` from the trained ``start``.

    Joints of both keep their score maps. A joint between others starts with the mean of theirs, without influence on
    the next stack. Additional stacks start as copies of the last one.

    Args:
        start: the trained network.
        config: arguments of the new `PyraNet`.
        skeleton: joints of the new network.
        source: name in error messages.

    Raises:
        UserError: the networks differ in more than joints and stacks, or the new one has fewer stacks or unknown
            joints.
    """
    differing = [name for name in config if name not in _FREE and config[name] != start.model.get(name, config[name])]
    before, now = int(start.model["stacks"]), int(config["stacks"])
    if differing or now < before:
        name = differing[0] if differing else "stacks"
        raise UserError(
            f"--{name.replace('_', '-')} must be {start.model[name]!r}, as in the network of --weights {source} (only "
            f"--stacks may be larger), got {config[name]!r}"
        )
    weights = dict(start.weights)
    theirs = resolve_skeleton(start.skeleton)
    if theirs.joints != skeleton.joints:
        _map_joints(weights, theirs, skeleton, source)
    for number in range(before, now):
        last = f"stacks.{number - 1}."
        for name in [name for name in weights if name.startswith(last)]:
            weights[f"stacks.{number}.{name.removeprefix(last)}"] = weights[name].clone()
        for part in _ONWARD:  # the last stack had none
            for kind in ("weight", "bias"):
                name = f"{part}.{kind}"
                shape = weights[f"stacks.0.{name}"] if before > 1 else _silent(weights, name, last)
                weights[last + name] = shape.clone()
    return weights


def _silent(weights: dict[str, Tensor], name: str, stack: str) -> Tensor:
    """Zeros for the weights between stacks, which a single stack lacks."""
    rows = weights[f"{stack}features.conv.weight"].shape[0]
    columns = weights[f"{stack}{_HEAD}.weight"].shape[0] if name.startswith(_BACK) else rows
    return torch.zeros(rows, columns, 1, 1) if name.endswith("weight") else torch.zeros(rows)


def _map_joints(weights: dict[str, Tensor], theirs: Skeleton, skeleton: Skeleton, source: str | Path) -> None:
    """Replace the parts that have a row or a column a joint."""
    origins = joint_origins(theirs, skeleton)
    if origins is None:
        which = "; their joints differ" if theirs.name == skeleton.name else ""
        raise UserError(
            f"--weights must predict the joints of the dataset, {skeleton.name!r} (LSP's and MPII's go together), got "
            f"{theirs.name!r} in {source}{which}"
        )
    for name, value in list(weights.items()):
        part = name.split(".")[-2]
        if part == _HEAD:
            weights[name] = torch.stack([value[rows].mean(dim=0) for rows in origins])
        elif part == _BACK and name.endswith("weight"):
            columns = [value[:, rows[0]] if len(rows) == 1 else torch.zeros_like(value[:, 0]) for rows in origins]
            weights[name] = torch.stack(columns, dim=1)
