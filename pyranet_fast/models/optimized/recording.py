"""Passes of a folded network recorded once for each shape, and run again without its modules' Python between kernels.

A module's call, its choice of a kernel and an operator's call take 20 to 30 µs together, as much as the kernels of
small maps: a fifth of a pass at batch 1 (bench/NOTES.md). What was called for an image of a shape is the same for the
next one, so that it is written down: fused operators in a row become one call of ``run_folded``, the others are called
as they were. CPU only; `graphs.GraphedInference` is its counterpart for CUDA.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.weak import WeakTensorKeyDictionary

from ...nn.layers import observed
from ...ops.cpu import policy
from ...ops.registration import without_gradient
from .folding import PackedModule

MOST_SHAPES = 16
"""Recordings that a network keeps; the oldest one goes first."""

_IMAGE = 0
_POINTWISE, _CONVOLUTION, _PYRAMID, _FORGET = range(4)  # instructions of run_folded, csrc/schema.cpp


@dataclass
class _Call:
    """An operator as it was called: tensors by their places, in arguments and results."""

    operator: Any
    arguments: list[Any]  # a _Place where a tensor, or a list of _Place, was
    keywords: dict[str, Any]
    results: list[int]


@dataclass(frozen=True)
class _Place:
    index: int


@dataclass
class _Row:
    """Fused operators in a row, as `run_folded` takes them."""

    values: list[int] = field(default_factory=list)
    program: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)  # places there
    places: list[int] = field(default_factory=list)  # of the results, here


class _Recorder(TorchDispatchMode):
    """Writes down the operators that run while it is active."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.constants: dict[int, Tensor] = {}
        self.complete = True
        self._places = WeakTensorKeyDictionary()
        self._count = itertools.count()
        self._new(image)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and to say so loads the compiler: a second

    def place(self, tensor: Tensor) -> int | None:
        """Where a tensor that has been seen is."""
        place: int | None = self._places.get(tensor)
        return place

    def _new(self, tensor: Tensor) -> int:
        self._places[tensor] = place = next(self._count)
        return place

    def _read(self, argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        place = self.place(argument)
        if place is None:  # it was there before the pass: weights
            place = self._new(argument)
            self.constants[place] = argument
        return _Place(place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        flat = _leaves(results)
        # A number that was read from a tensor, or drawn, may be another one the next time.
        reads = any(not isinstance(r, Tensor | None) for r in flat) and func is not _operators()[_CONVOLUTION]
        if reads or torch.Tag.nondeterministic_seeded in func.tags:
            self.complete = False
        arguments = [[self._read(item) for item in a] if isinstance(a, list | tuple) else self._read(a) for a in args]
        if any(isinstance(value, Tensor | list | tuple) for value in (kwargs or {}).values()):
            self.complete = False
        places = []
        for tensor in flat:
            if isinstance(tensor, Tensor):
                known = self.place(tensor)
                places.append(self._new(tensor) if known is None else known)
        self.calls.append(_Call(func, arguments, dict(kwargs or {}), places))
        return results


def _operators() -> tuple[Any, Any, Any]:
    ops = torch.ops.pyranet_fast
    return ops.fused_pointwise.default, ops.winograd_conv3x3.default, ops.pooled_pyramid_.default


class RecordedPass:
    """A pass as it was recorded.

    Args:
        recorder: it has seen all of the pass.
        outputs: places of the results.
        modules: those that have packed weights for it.
    """

    def __init__(self, recorder: _Recorder, outputs: list[int], modules: Iterable[PackedModule]) -> None:
        self._constants, self._outputs = recorder.constants, outputs
        self._packed = [(module, module.packed) for module in modules]
        self._steps: list[tuple[_Call | _Row, list[int]]] = []  # with the values that have no later consumer
        last = {place: k for k, call in enumerate(recorder.calls) for place in (*_tensors(call), *call.results)}
        kept = {*recorder.constants, *outputs}
        ends: list[list[int]] = [[] for _ in recorder.calls]
        for place, k in last.items():
            if place not in kept:
                ends[k].append(place)
        operators, k = _operators(), 0
        while k < len(recorder.calls):
            first = k
            made: set[int] = set()
            while k < len(recorder.calls) and _in_a_row(recorder.calls[k], operators, made):
                made.update(recorder.calls[k].results)
                k += 1
            if k - first >= 2:
                row = _row(recorder.calls[first:k], operators, ends[first:k])
                forgotten = {place for end in ends[first:k] for place in end}
                self._steps.append((row, [place for place in forgotten if place in row.values]))
            else:
                k = first + 1
                self._steps.append((recorder.calls[first], ends[first]))

    def holds(self) -> bool:
        """Whether no module has been converted or loaded since."""
        return all(module.packed is packed for module, packed in self._packed)

    def __call__(self, image: Tensor) -> list[Tensor] | None:
        """The results, or None where a convolution was not finite and has to be made in another way."""
        tensors: dict[int, Tensor] = dict(self._constants)
        tensors[_IMAGE] = image
        for step, ends in self._steps:
            if isinstance(step, _Row):
                values = [tensors[place] for place in step.values]
                operator = torch.ops.pyranet_fast.run_folded.default
                results, finite = without_gradient(operator, values, step.program, step.results)
                if not finite:
                    return None
                tensors.update(zip(step.places, results, strict=True))
            else:
                made = _leaves(step.operator(*[_given(a, tensors) for a in step.arguments], **step.keywords))
                if made and made[-1] is False:  # a single convolution tells whether it is finite
                    return None
                tensors.update(zip(step.results, (m for m in made if isinstance(m, Tensor)), strict=True))
            for place in ends:
                del tensors[place]
        return [tensors[place] for place in self._outputs]


def _leaves(results: Any) -> list[Any]:
    """An operator's results one by one, its lists unrolled."""
    if not isinstance(results, list | tuple):
        return [] if results is None else [results]
    return [leaf for r in results for leaf in (r if isinstance(r, list | tuple) else (r,))]


def _given(argument: Any, tensors: dict[int, Tensor]) -> Any:
    if isinstance(argument, _Place):
        return tensors[argument.index]
    return [_given(a, tensors) for a in argument] if isinstance(argument, list) else argument


def _tensors(call: _Call) -> Iterable[int]:
    for argument in call.arguments:
        for item in argument if isinstance(argument, list) else (argument,):
            if isinstance(item, _Place):
                yield item.index


def _in_a_row(call: _Call, operators: tuple[Any, Any, Any], made: set[int]) -> bool:
    """Whether ``run_folded`` can make a call after others that made tensors; a pyramid overwrites only one of those."""
    if call.operator is operators[_PYRAMID]:
        return call.arguments[-1].index in made
    return call.operator in operators


def _row(calls: list[_Call], operators: tuple[Any, Any, Any], ends: list[list[int]]) -> _Row:
    row, made = _Row(), {place for call in calls for place in call.results}
    read = dict.fromkeys(place for call in calls for place in _tensors(call))
    row.values = [place for place in read if place not in made]
    there = {place: i for i, place in enumerate((*row.values, *made))}
    for call, end in zip(calls, ends, strict=True):
        row.program += _instruction(call, operators.index(call.operator), there)
        here = [there[place] for place in end if place in made]
        row.program += [_FORGET, len(here), *here] if here else []
    forgotten = {place for end in ends for place in end}
    row.places = [place for place in made if place not in forgotten]
    row.results = [there[place] for place in row.places]
    return row


def _instruction(call: _Call, kind: int, there: dict[int, int]) -> list[int]:
    def one(argument: Any) -> int:
        return there[argument.index] if isinstance(argument, _Place) else -1 if argument is None else int(argument)

    def several(items: list[Any]) -> list[int]:
        return [len(items), *map(one, items)]

    results = [there[place] for place in call.results]
    if kind == _POINTWISE:
        x, other, scale, shift, weight, bias, relu, residual, keep, pool = call.arguments
        flat = [*map(one, (x, other, residual, keep, pool))]
        for items in (scale, shift, weight, bias, relu):
            flat += several(items)
        return [kind, *flat, *results]
    if kind == _CONVOLUTION:
        return [kind, *map(one, call.arguments), *results]
    x, sizes, filters, biases, expand, expand_bias, y = call.arguments
    return [kind, one(x), *several(sizes), *several(filters), *several(biases), *map(one, (expand, expand_bias, y))]


class Recordings:
    """The passes of a network by the shape of their image.

    Args:
        network: whose passes they are. Where a part of it has a hook or a ``forward`` of its own, or has been converted
            or loaded since, a recording is not used.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = list(network.modules())
        self._parts = [(m._modules, list(m._modules.values())) for m in self._modules if m._modules]
        self._packs = [module for module in self._modules if isinstance(module, PackedModule)]
        self._passes: OrderedDict[Any, RecordedPass | None] = OrderedDict()  # None: an image of the shape has been seen
        self._refused: set[Any] = set()

    def hold(self) -> bool:
        """Whether the network still has the parts that it had."""
        return all(list(parts.values()) == before for parts, before in self._parts)

    def run(self, image: Tensor, forward: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """``forward(image)``, by what was recorded from the second image of a shape on."""
        if not self._serve(image):
            return forward(image)
        key = (image.shape, image.stride(), image.dtype)
        recorded = self._passes.get(key)
        if recorded is not None:
            if recorded.holds():
                results = recorded(image)
                return forward(image) if results is None else results
            self._passes.clear()  # the others keep what was packed before, too
            self._refused.clear()
        if key in self._passes and key not in self._refused:
            return self._record(key, image, forward)
        self._passes[key] = None
        while len(self._passes) > MOST_SHAPES:
            self._refused.discard(self._passes.popitem(last=False)[0])
        return forward(image)

    def _serve(self, image: Tensor) -> bool:
        """Whether operators run as they were recorded: at once, by our kernels, without an observer."""
        return (
            policy.fuses()
            and type(image) is Tensor
            and policy.native_cpu(image)
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()
            and _get_current_dispatch_mode() is None
            and not observed(*self._modules)
        )

    def _record(self, key: Any, image: Tensor, forward: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        recorder = _Recorder(image)
        with recorder:
            results = forward(image)
        outputs = [place for place in map(recorder.place, results) if place is not None]
        if recorder.complete and len(outputs) == len(results):
            self._passes[key] = RecordedPass(recorder, outputs, self._packs)
        else:
            self._refused.add(key)
        return results
