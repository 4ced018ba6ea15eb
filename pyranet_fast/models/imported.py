"""Weights of other implementations: tables from their names to ours, with shape checks.

Three layouts of published PyTorch code are supported:

- ``"torch7"``: the authors' Torch7 network ported container by container (``ConcatTable.modules_list``), as in
  AlphaPose's trainer. It matches this package's variant B, module by module.
- ``"pytorch-pose"``: bearpaw/pytorch-pose's ``hourglass`` and ``pyranet``. They have one more residual unit after
  each hourglass, other first units, and skips and pyramids without their own norm: the matching part is used.
- ``"wenbc21"``: wenbc21/PyraNet, with entirely different modules: only the heads match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .pyranet import PyraNet

LAYOUTS = ("torch7", "pytorch-pose", "wenbc21")

Weights = Mapping[str, Tensor]
Pairs = Iterator[tuple[str, str]]
"""Our module's name and theirs."""


@dataclass
class Imported:
    """Result of an import.

    Attributes:
        layout: one of `LAYOUTS`.
        model: network with the imported weights.
        taken: number of imported tensors.
        missing: our tensors without a match; initialized as in a new network.
        unused: tensors of the file without a match.
        misfits: pairs whose shapes differ, each a sentence.
    """

    layout: str
    model: PyraNet
    taken: int = 0
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all tensors match: nothing missing, unused or of another shape."""
        return not (self.missing or self.unused or self.misfits)

    def report(self) -> str:
        """Return the mismatches by module."""
        total = self.taken + len(self.missing) + len(self.misfits)
        lines = [f"layout {self.layout}: {self.taken} of the network's {total} tensors"]
        if self.missing:
            lines += ["not in the file:", *_by_module(self.missing)]
        if self.unused:
            lines += ["in the file and without a place in the network:", *_by_module(self.unused)]
        if self.misfits:
            lines += ["of another shape:", *(f"  {sentence}" for sentence in self.misfits)]
        return "\n".join(lines)


def _by_module(names: list[str]) -> list[str]:
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, tensor = name.rpartition(".")
        modules.setdefault(module, []).append(tensor)
    return [f"  {module}: {', '.join(tensors)}" for module, tensors in modules.items()]


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a ``.pth`` of another implementation, unpickling only tensors and plain values.

    It may be the file's whole content or its entry ``state_dict`` or ``model``; names may begin with ``module.``.

    Raises:
        UserError: no such file, or no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as tensors; expected a file of torch.save(model.state_dict(), FILE)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} must hold a state dict, a dictionary of tensors by name, got none")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def import_weights(weights: Weights, layout: str | None = None) -> Imported:
    """Build the network for the weights of another implementation and load the matching ones.

    Args:
        weights: by name.
        layout: one of `LAYOUTS`; None: detect by names.

    Raises:
        UserError: no layout fits.
    """
    if layout is None:
        layout = next((name for name, mark in _MARKS.items() if any(re.match(mark, key) for key in weights)), None)
    if layout not in LAYOUTS:
        shown = ", ".join(sorted(weights)[:3])
        raise UserError(f"the names ({shown}, …) match no known layout; expected {', '.join(LAYOUTS)}")
    config, pairs = {"torch7": _torch7, "pytorch-pose": _pytorch_pose, "wenbc21": _wenbc21}[layout](weights)
    try:
        model = PyraNet(**config)
    except ValueError as error:
        raise UserError(f"no network has such weights: {error}") from error
    result = Imported(layout, model)
    table = {ours: theirs for ours, theirs in pairs if any(key.startswith(f"{theirs}.") for key in weights)}
    own = model.state_dict()
    used = set()
    for name, tensor in own.items():
        module, _, kind = name.rpartition(".")
        theirs = f"{table[module]}.{kind}" if module in table else None
        if theirs is None or theirs not in weights:
            # Files from before torch 0.4.1 have no counter of batches; nothing depends on it here.
            if kind != "num_batches_tracked":
                result.missing.append(name)
            continue
        used.add(theirs)
        given = weights[theirs]
        if given.shape != tensor.shape:
            result.misfits.append(f"{name} has shape {tuple(tensor.shape)}, {theirs} {tuple(given.shape)}")
            continue
        result.taken += kind != "num_batches_tracked"
        own[name] = given.to(tensor.dtype)
    result.unused = [name for name in weights if name not in used and not name.endswith("num_batches_tracked")]
    model.load_state_dict(own)
    return result


_MARKS = {
    "torch7": r"stack_lin\.0\.",
    "pytorch-pose": r"hg\.0\.hg\.0\.",
    "wenbc21": r"hourglass\.0\.up1_\.",
}


def _shape(weights: Weights, name: str) -> tuple[int, ...]:
    if name not in weights:
        raise UserError(f"{name} is missing, which the layout has")
    return tuple(weights[name].shape)


def _count(weights: Weights, pattern: str) -> int:
    """How many numbers stand at the group of the pattern: modules of a list."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _hourglass(depth: int) -> Iterator[tuple[int, str]]:
    """Level n = depth … 1 and the name of its hourglass in ours."""
    for level in range(depth, 0, -1):
        yield level, "hourglass" + ".low2" * (depth - level)


def _base_width(features: int, width: int, half: int) -> int:
    """The divisor that gives pyramid levels their channels, in units of ``features`` channels and of half as many."""
    fits = (b for b in range(1, features + 1) if features // b == width and features // 2 // b == half)
    found = next(fits, None)
    if found is None:
        raise UserError(f"pyramid levels have {width} channels of {features} and {half} of {features // 2}: no divisor")
    return found


_LEVEL = "con.modules_list.0.0.0.modules_list.1.2.weight"


def _torch7(weights: Weights) -> tuple[dict[str, Any], Pairs]:
    joints, features = _shape(weights, "stack_out.0.weight")[:2]
    deepest = max((n.count("lowerBranch.1.") for n in weights if n.startswith("stack_lin.0.0.")), default=0)
    width = _shape(weights, f"preact.3.{_LEVEL}")[0]
    table = r"preact\.3\.con\.modules_list\.0\.0\.0\.modules_list\.1\.5\.0\.modules_list\.(\d+)\."
    config: dict[str, Any] = {
        "stacks": _count(weights, r"stack_out\.(\d+)\."),
        "joints": joints,
        "features": features,
        "variant": "B",
        "levels": max(1, _count(weights, table)),
        "depth": max(1, deepest),
        "base_width": _base_width(features, width, _shape(weights, f"preact.2.{_LEVEL}")[0]),
    }

    def residual(ours: str, theirs: str, *, preactivate: bool = True) -> Pairs:
        if f"{theirs}.0.modules_list.0.2.weight" in weights:  # without a pyramid
            main, skip = f"{theirs}.0.modules_list.0", f"{theirs}.0.modules_list.1"
            places = ("reduce.bn", 0), ("reduce.conv", 2), ("filter.bn", 3), ("filter.conv", 5)
            yield from ((f"{ours}.{name}", f"{main}.{at}") for name, at in (*places, ("expand.bn", 6)))
            yield f"{ours}.expand.conv", f"{main}.8"
        else:
            block, skip = f"{theirs}.con.modules_list.0", f"{theirs}.con.modules_list.1.m"
            main, pyramid = (f"{block}.0.0.modules_list.{i}" for i in (0, 1))
            first = 2 if preactivate else 0  # a norm and a ReLU come first
            if preactivate:
                yield f"{ours}.reduce.bn", f"{main}.0"
                yield f"{ours}.pyramid.preactivation", f"{pyramid}.0"
            yield f"{ours}.reduce.conv", f"{main}.{first}"
            yield f"{ours}.filter.bn", f"{main}.{first + 1}"
            yield f"{ours}.filter.conv", f"{main}.{first + 3}"
            yield f"{ours}.pyramid.reduce.0", f"{pyramid}.{first}"
            yield f"{ours}.pyramid.bn.0", f"{pyramid}.{first + 1}"
            for level in range(config["levels"]):
                yield f"{ours}.pyramid.filters.{level}", f"{pyramid}.{first + 3}.0.modules_list.{level}.1"
            yield f"{ours}.pyramid.expand.bn", f"{pyramid}.{first + 4}"
            yield f"{ours}.pyramid.expand.conv", f"{pyramid}.{first + 6}"
            yield f"{ours}.expand.bn", f"{block}.1"
            yield f"{ours}.expand.conv", f"{block}.3"
        yield f"{ours}.skip.bn", f"{skip}.0"
        yield f"{ours}.skip.conv", f"{skip}.2"

    def pairs() -> Pairs:
        yield "stem.conv", "preact.0.0"
        yield "stem.bn", "preact.0.1"
        yield from residual("stem.unit1", "preact.1.0", preactivate=False)
        yield from residual("stem.unit2", "preact.2")
        yield from residual("stem.unit3", "preact.3")
        for i in range(config["stacks"]):
            ours, theirs = f"stacks.{i}", f"stack_lin.{i}"
            for level, name in _hourglass(config["depth"]):
                at = f"{theirs}.0" + ".lowerBranch.1" * (config["depth"] - level)
                yield from residual(f"{ours}.{name}.up1", f"{at}.upperBranch.0")
                yield from residual(f"{ours}.{name}.low1", f"{at}.lowerBranch.0.1.0")
                yield from residual(f"{ours}.{name}.low3", f"{at}.lowerBranch.2.0")
                if level == 1:
                    yield from residual(f"{ours}.{name}.low2", f"{at}.lowerBranch.1.0")
            yield from (
                (f"{ours}.{n}", f"{theirs}.{k}") for n, k in (("features.bn", 1), ("features.conv", 3), ("bn", 4))
            )
            yield f"{ours}.score", f"stack_out.{i}"
            yield f"{ours}.from_features", f"stack_lin_.{i}"
            yield f"{ours}.from_score", f"stack_out_.{i}"

    return config, pairs()


def _pytorch_pose(weights: Weights) -> tuple[dict[str, Any], Pairs]:
    joints, features = _shape(weights, "score.0.weight")[:2]
    levels = _count(weights, r"layer3\.0\.pyra\.(\d+)\.")
    width, half = features // 9, features // 2 // 9
    if levels:
        width, half = (_shape(weights, f"layer{number}.0.prepyra.0.weight")[0] for number in (3, 2))
    config: dict[str, Any] = {
        "stacks": _count(weights, r"score\.(\d+)\."),
        "joints": joints,
        "features": features,
        "variant": "B" if levels else "plain",
        "levels": levels or 4,
        "depth": max(1, _count(weights, r"hg\.0\.hg\.(\d+)\.")),
        "base_width": _base_width(features, width, half),
    }

    def residual(ours: str, theirs: str) -> Pairs:
        for name, number in (("reduce", 1), ("filter", 2), ("expand", 3)):
            yield f"{ours}.{name}.bn", f"{theirs}.bn{number}"
            yield f"{ours}.{name}.conv", f"{theirs}.conv{number}"
        yield f"{ours}.skip.conv", f"{theirs}.downsample.0"
        yield f"{ours}.pyramid.reduce.0", f"{theirs}.prepyra.0"
        yield f"{ours}.pyramid.bn.0", f"{theirs}.prepyra.1"
        for level in range(config["levels"]):
            yield f"{ours}.pyramid.filters.{level}", f"{theirs}.pyra.{level}.1"
        yield f"{ours}.pyramid.expand.bn", f"{theirs}.postpyra.0"
        yield f"{ours}.pyramid.expand.conv", f"{theirs}.postpyra.2"

    def pairs() -> Pairs:
        yield "stem.conv", "conv1"
        yield "stem.bn", "bn1"
        for number in (1, 2, 3):
            yield from residual(f"stem.unit{number}", f"layer{number}.0")
        for i in range(config["stacks"]):
            ours = f"stacks.{i}"
            for level, name in _hourglass(config["depth"]):
                theirs = f"hg.{i}.hg.{level - 1}"
                for place, number in (("up1", 0), ("low1", 1), ("low3", 2), ("low2", 3)):
                    if place != "low2" or level == 1:
                        yield from residual(f"{ours}.{name}.{place}", f"{theirs}.{number}.0")
            yield f"{ours}.features.conv", f"fc.{i}.0"
            yield f"{ours}.bn", f"fc.{i}.1"
            yield f"{ours}.score", f"score.{i}"
            yield f"{ours}.from_features", f"fc_.{i}"
            yield f"{ours}.from_score", f"score_.{i}"

    return config, pairs()


def _wenbc21(weights: Weights) -> tuple[dict[str, Any], Pairs]:
    joints, features = _shape(weights, "tmpOut.0.weight")[:2]
    deepest = max((name.count("low2.") for name in weights if name.startswith("hourglass.0.")), default=0)
    config: dict[str, Any] = {
        "stacks": _count(weights, r"tmpOut\.(\d+)\."),
        "joints": joints,
        "features": features,
        "variant": "B",
        "depth": deepest + 1,
    }

    def pairs() -> Pairs:
        for i in range(config["stacks"]):
            yield f"stacks.{i}.features.conv", f"lin_.{i}.0"
            yield f"stacks.{i}.bn", f"lin_.{i}.1"
            yield f"stacks.{i}.score", f"tmpOut.{i}"
            yield f"stacks.{i}.from_features", f"ll_.{i}"
            yield f"stacks.{i}.from_score", f"tmpOut_.{i}"

    return config, pairs()
