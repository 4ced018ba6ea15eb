"""How many branches are summed into every layer of a network, and to how many its output goes: C_i and C_o.

The network is traced once (``torch.export``, evaluation mode) and its graph of operations is run twice on counts
instead of values: forwards for C_i, backwards for C_o. The two are the same rule read in two directions, and it is
the rule by which independent terms of equal variance add up:

==================================  =====================================  =====================================
operation                           C_i, forwards                          C_o, backwards
==================================  =====================================  =====================================
input of the model                  1                                      -
convolution, linear layer           recorded; its output starts at 1       recorded; it counts as 1 for its input
addition, subtraction (in place     the counts of the terms are added      every term gets the count of the sum
too), sum over an axis
a value used several times          every use gets its count               the counts of its uses are added
output of the model                 -                                      1: the loss is a branch too
identity skip: a term of an         arrives as one branch                  the addition counts as one reader
addition that others read too
concatenation, stack                every channel keeps its own count      every input gets its own channels' counts
split, chunk, slice, select,        the counts move with the channels      the same, backwards
view, flatten, permute, flip ...
pooling, resizing, mean over axes   mean over positions: passes through    passes through, at every position
`ops.upsample_sum`                  an addition of the resized maps, and of ``base``
batch, group and layer norm         passes through                         passes through
ReLU and every other operation of   passes through                         passes through
one activation that keeps its shape
addition of, product with, a        passes through                         passes through
parameter, buffer or number
padding                             of space: passes through; of channels with zeros: these count 0
anything else of two activations    an error that names the module and the operation
(products, matmul, where, ...)
==================================  =====================================  =====================================

What is recorded for a layer is the mean over the channels it reads or writes. For C_i that is exact: the variance of a
response is the sum over the n_i terms that it adds, and a channel of count c brings c times the variance.

Two decisions need their reason.

*An identity skip is one branch.* In x + P(x) the next layer reads two branches, x and P(x), however many responses x
itself is the sum of; and of what makes x, one reader is P and one the addition. That is the count of section 4.1, whose
networks normalize what every branch reads. Without any normalization it is too small: x is a sum of L + 1 responses
after L units, and their variance then grows by half with every unit. ``skips="sum"`` follows skips to their end
instead, L + 1 branches forwards and backwards, and keeps such a network bounded. In a network with normalization it
would do harm: what the normalized branches add does not shrink with x, so counts that shrink x (its responses have many
readers) make the gradients of the branches explode (8 stacks of PRM-B*, measured: by 10^9 from the last to the first).

*Normalization does not reset the count.* Equation 15 is derived without normalization. Forwards a norm would make every
count 1, and equation 15 would be without effect in the network that the paper states it for, where sums of branches
are always followed by BN-ReLU-1x1. Backwards it does not stop the sum of gradients either.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ..ops import backend
from .pyramid import PooledPyramid


class Spread(torch.autograd.Function):
    """Broadcast a count; backwards the mean over what was broadcast: a pixel's count, not the sum over pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        return x.expand(shape).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.sum(tuple(range(grad.dim() - len(ctx.shape)))) if grad.dim() > len(ctx.shape) else grad
        dims = tuple(d for d, n in enumerate(ctx.shape) if n == 1 and grad.shape[d] != 1)
        return grad.mean(dims, keepdim=True) if dims else grad, None


class OneBranch(torch.autograd.Function):
    """An identity skip: it arrives as one branch, and for what it comes from the addition is one reader."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad != 0).to(grad.dtype)


class Mean(torch.autograd.Function):
    """Mean over axes, which stay with length 1; backwards the same count for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        return x.mean(dims, keepdim=True) if dims else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.expand(ctx.shape), None


_LAYERS = {
    f"aten.{name}"
    for name in (
        *(f"conv{d}d" for d in (1, 2, 3)),
        *(f"conv_transpose{d}d" for d in (1, 2, 3)),
        "convolution",
        "linear",
    )
}
_SUMS = {"aten.add", "aten.sub", "aten.rsub"}
_MOVES = {
    f"aten.{name}"
    for name in (
        "view reshape _unsafe_view view_as flatten unflatten permute transpose t squeeze unsqueeze slice select narrow "
        "split split_with_sizes chunk unbind stack sum flip roll repeat tile movedim swapaxes "
        "pixel_shuffle pixel_unshuffle channel_shuffle"
    ).split()
}
_MEANS = {"aten.mean", "aten.amax", "aten.amin"}
_SAME_WEIGHT = {
    f"aten.{name}" for name in ("to", "_to_copy", "alias", "detach", "clone", "contiguous", "lift_fresh_copy")
}


@dataclass
class CallSite:
    """One use of a layer's weight: its name in the state dict, the module that used it, and its counts."""

    weight: str
    bias: str | None
    module: str
    groups: int
    stride: tuple[int, ...]
    transposed: bool
    inputs: float
    output: Tensor = field(repr=False)

    @property
    def outputs(self) -> float:
        """C_o, once `count_branches` has gone backwards; 0 where nothing reads the output."""
        return 0.0 if self.output.grad is None else self.output.grad.mean().item()


class GraphCounter:
    """Runs the graph on counts. A count has its activation's number of axes; an axis of length 1 stands for all."""

    def __init__(self, program: torch.export.ExportedProgram, *, follow_skips: bool) -> None:
        self.graph = program.graph
        self.follow_skips = follow_skips
        signature = program.graph_signature
        self.parameters = dict(signature.inputs_to_parameters)
        self.inputs = set(signature.user_inputs)
        self.counts: dict[fx.Node, Any] = {}
        self.sites: list[CallSite] = []
        self.read: list[Tensor] = []  # what layers and the loss read
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.storage: dict[fx.Node, fx.Node] = {}  # a view: the value that it is a view of
        self.rules: dict[str, Callable[[fx.Node], Any]] = {
            **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_MEANS, self._mean),
            **dict.fromkeys(_SUMS, self._addition),
            "aten.cat": self._cat,
            "aten.copy": self._copy,
            "getitem": self._item,
            "pyranet_fast.upsample_sum": self._upsample_sum,
            "pyranet_fast_triton.upsample_sum": self._upsample_sum,
        }

    def run(self) -> list[CallSite]:
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in self.inputs:
                value = node.meta.get("val")
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.counts[node] = torch.ones([1] * value.dim())
            elif node.op == "output":
                results = [n for n in tree_leaves(node.args[0]) if isinstance(n, fx.Node)]
                self.read += [self.counts[n] for n in results if isinstance(self.counts.get(n), Tensor)]
            elif node.op == "call_function":
                self._step(node)
        total = torch.stack([count.sum() for count in self.read]).sum() if self.read else torch.zeros(())
        if total.requires_grad:
            total.backward()
        return self.sites

    def _step(self, node: fx.Node) -> None:
        name, in_place = _kind(node)
        active = [n for n in node.all_input_nodes if n in self.counts]
        if name in _LAYERS:
            result = self._layer(node, name)
        elif not active or not _is_floating(node.meta.get("val")):
            return  # made of parameters, buffers and numbers only, an assertion, or indices: no branch
        else:
            result = self._count(node, name, active)
        if node.target is operator.getitem or name in _MOVES:
            self.storage[node] = self.storage.get(active[0], active[0])
        if in_place:
            self._write(node, name, result)
        if result is not None:
            self.counts[node] = result

    def _count(self, node: fx.Node, name: str, active: list[fx.Node]) -> Any:
        """The count of an operation's result, by the rules of the module's docstring."""
        rule = self.rules.get(name)
        if rule is not None:
            return rule(node)
        if len(active) > 1:
            raise self._error(node, f"multiplies or mixes {len(active)} activations")
        return self._count_of_one(node, name, active[0])

    def _count_of_one(self, node: fx.Node, name: str, source: fx.Node) -> Any:
        """The count of a result that is made of one activation: it passes through where the shape says how."""
        if name.endswith("fractional_max_pool_pyramid"):
            levels = len(node.meta["val"][0])
            return ([self._positions(source, 2) for _ in range(levels)], None)
        if "pad" in name:
            return self._pad(node, source)
        shape = node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else None
        spatial = next((d for d in (1, 2, 3) if f"{d}d" in name), None)
        if spatial and ("pool" in name or "upsample" in name):
            pooled = self._positions(source, spatial)
            return pooled if shape is not None else (pooled, None)
        count = self.counts[source]
        if shape is None:
            if name.startswith(("aten._native_batch_norm", "aten.native_")):
                return (count.clone(), None, None)
        elif tuple(shape) == tuple(source.meta["val"].shape):
            return count.clone()
        elif name in ("aten.expand", "aten.expand_as"):
            return count[(None,) * (len(shape) - count.dim())]
        raise self._error(node, "changes the shape of an activation in a way that is not known here")

    def _addition(self, node: fx.Node) -> Tensor:
        return self._sum([self._term(n) for n in node.args[:2] if n in self.counts])  # type: ignore[arg-type]

    def _upsample_sum(self, node: fx.Node) -> Tensor:
        maps, base = node.args[0], node.args[3]
        terms = [self._positions(n, 2) for n in maps if n in self.counts]  # type: ignore[union-attr,arg-type]
        return self._sum(terms + ([self._term(base)] if base in self.counts else []))  # type: ignore[arg-type]

    def _item(self, node: fx.Node) -> Any:
        return self.counts[node.args[0]][node.args[1]]  # type: ignore[index]

    def _copy(self, node: fx.Node) -> Any:
        raise self._error(node, "copies into a part of another value")

    def _layer(self, node: fx.Node, name: str) -> Tensor:
        weight = _parameter(node.args[1])
        if weight is None or weight.name not in self.parameters:
            raise self._error(node, "uses a weight that is computed, not a parameter")
        bias_node = _parameter(node.args[2]) if len(node.args) > 2 else None
        bias = None if bias_node is None else self.parameters.get(bias_node.name)
        transposed = "transpose" in name or (name == "aten.convolution" and bool(node.args[6]))
        arguments = _named(node)
        source = node.args[0]
        count = self.counts.get(source) if isinstance(source, fx.Node) else None
        spatial = len(weight.meta["val"].shape) - 2
        value: Tensor = node.meta["val"]
        channel = value.dim() - 1 if name == "aten.linear" else value.dim() - 1 - spatial
        output = torch.ones([n if d == channel else 1 for d, n in enumerate(value.shape)], requires_grad=True)
        stride = arguments.get("stride", 1)
        strides = tuple(stride) if isinstance(stride, list | tuple) else (stride,)
        self.sites.append(
            CallSite(
                weight=self.parameters[weight.name],
                bias=bias,
                module=_module_of(node),
                groups=int(arguments.get("groups", 1)),
                stride=strides * (spatial // len(strides)) if spatial > 0 else (),
                transposed=transposed,
                inputs=1.0 if count is None else count.mean().item(),
                output=output,
            )
        )
        if count is not None:
            self.read.append(count)
        return output.clone()

    def _term(self, node: fx.Node) -> Tensor:
        """The count that a term brings into an addition."""
        count: Tensor = self.counts[node]
        return count if self.follow_skips or not self._is_skip(node) else OneBranch.apply(count)

    def _is_skip(self, node: fx.Node) -> bool:
        """Whether others read the term too, here or before operations that only pass its count on."""
        while True:
            readers = [u for u in node.users if u.op == "output" or _is_floating(u.meta.get("val"))]
            # Who reads a value after an operation in place reads what that made of it.
            written = min((self.order[u] for u in readers if _kind(u)[1] and u.args[0] is node), default=math.inf)
            if sum(self.order[u] <= written for u in readers) > 1:
                return True
            sources = [n for n in node.all_input_nodes if n in self.counts]
            if len(sources) != 1 or _kind(node)[0] in _LAYERS:
                return False
            node = sources[0]

    def _sum(self, terms: list[Tensor]) -> Tensor:
        if len(terms) == 1:
            return terms[0].clone()
        shape = torch.broadcast_shapes(*(t.shape for t in terms))
        total = Spread.apply(terms[0], shape)
        for term in terms[1:]:
            total = total + Spread.apply(term, shape)
        return total

    def _full(self, node: fx.Node) -> Tensor:
        return Spread.apply(self.counts[node], tuple(node.meta["val"].shape))

    def _cat(self, node: fx.Node) -> Tensor:
        parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
        dim = int(_named(node).get("dim", 0)) % node.meta["val"].dim()
        # A constant part has no response of a layer in it: it counts 0, as zeros that widen a skip do.
        counts = [self.counts.get(n, torch.zeros([1] * n.meta["val"].dim())) for n in parts]
        common = torch.broadcast_shapes(*([*c.shape[:dim], 1, *c.shape[dim + 1 :]] for c in counts))
        spread = [
            Spread.apply(c, (*common[:dim], n.meta["val"].shape[dim], *common[dim + 1 :]))
            for c, n in zip(counts, parts, strict=True)
        ]
        return torch.cat(spread, dim)

    def _move(self, node: fx.Node) -> Any:
        def count(n: fx.Node) -> Any:
            if n in self.counts:
                return self._full(n)
            value = n.meta.get("val")
            return torch.zeros(value.shape) if isinstance(value, Tensor) and value.is_floating_point() else value

        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        return target(*fx.map_arg(node.args, count), **fx.map_arg(node.kwargs, count))

    def _positions(self, node: fx.Node, spatial: int) -> Tensor:
        count = self.counts[node]
        return Mean.apply(count, tuple(range(count.dim() - spatial, count.dim())))

    def _mean(self, node: fx.Node) -> Tensor:
        count, arguments = self.counts[node.args[0]], _named(node)  # type: ignore[index]
        dims = arguments.get("dim") or list(range(count.dim()))
        dims = tuple(d % count.dim() for d in (dims if isinstance(dims, list | tuple) else [dims]))
        result = Mean.apply(count, dims)
        return result if arguments.get("keepdim", False) else result.squeeze(dims)

    def _pad(self, node: fx.Node, source: fx.Node) -> Tensor:
        pads: list[int] = list(node.args[1])  # type: ignore[arg-type]
        dims = source.meta["val"].dim()
        spatial = max(dims - 2, 1)
        count = Mean.apply(self.counts[source], tuple(range(dims - min(spatial, len(pads) // 2), dims)))
        pads[: 2 * spatial] = [0] * len(pads[: 2 * spatial])
        if not any(pads):
            return count
        shape = [n if 2 * (dims - 1 - d) < len(pads) and d < dims - spatial else count.shape[d]
                 for d, n in enumerate(source.meta["val"].shape)]  # fmt: skip
        return torch.nn.functional.pad(Spread.apply(count, tuple(shape)), pads)

    def _write(self, node: fx.Node, name: str, result: Any) -> None:
        """An operation in place: later reads of its first argument are reads of its result."""
        target = node.args[0]
        assert isinstance(target, fx.Node)
        if name in _SUMS:
            root = self.storage.get(target, target)
            for other in (root, *(v for v, r in self.storage.items() if r is root)):
                if other is not target and any(self.order[u] > self.order[node] for u in other.users):
                    raise self._error(node, "writes in place into a part or view of a value that is read later")
        if target in self.counts or name in _SUMS:
            self.counts[target] = result

    def _error(self, node: fx.Node, what: str) -> ValueError:
        where = _module_of(node) or "the model itself"
        return ValueError(
            f"branches cannot be counted in {where}: {node.target} {what}; expected convolutions, linear "
            "layers, additions, concatenations and operations on one activation"
        )


def _kind(node: fx.Node) -> tuple[str, bool]:
    """Name of an operation without its overload, and whether it writes into its first argument."""
    name = str(node.target).rsplit(".", 1)[0] if node.target is not operator.getitem else "getitem"
    in_place = name.endswith("_") and not name.endswith("__")
    return name.removesuffix("_") if in_place else name, in_place


def _named(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by their names in its schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _parameter(node: Any) -> fx.Node | None:
    """The graph's input that a weight is, through changes of dtype and layout."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if str(node.target).rsplit(".", 1)[0] not in _SAME_WEIGHT:
            return None
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


def _module_of(node: fx.Node) -> str:
    """Dotted name of the innermost module that an operation was traced in; empty for the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _is_floating(value: Any) -> bool:
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return any(leaf.is_floating_point() for leaf in leaves)


@contextmanager
def _for_tracing(model: nn.Module) -> Iterator[list[str]]:
    """Evaluation mode, operators in plain PyTorch, no canvas; yields the names of the modules that are running."""
    training = {module: module.training for module in model.modules()}
    canvases = [m for m in model.modules() if isinstance(m, PooledPyramid) and m.canvas]
    running: list[str] = []
    handles = []

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, x, name=name: running.append(name)))
        handles.append(module.register_forward_hook(leave))
    model.eval()
    for pyramid in canvases:
        pyramid.canvas = False  # the same values; in the graph, an addition of maps instead of copies into a canvas
    try:
        with backend("reference"):
            yield running
    finally:
        for handle in handles:
            handle.remove()
        for pyramid in canvases:
            pyramid.canvas = True
        for module, mode in training.items():
            module.training = mode


def count_branches(
    model: nn.Module, example_input: Tensor | tuple[Any, ...], *, skips: str = "branch"
) -> list[CallSite]:
    """C_i and C_o of every use of a convolution or linear layer, in the order in which they run.

    Args:
        model: any module that ``torch.export`` can trace. Neither its weights nor its mode are changed.
        example_input: what it is called with, a tensor or a tuple of arguments, on the model's device.
        skips: an identity skip is one ``"branch"``, or the ``"sum"`` of all that it carries.

    Raises:
        ValueError: the model cannot be traced, or holds an operation whose branches cannot be counted; the
            sentence names the module.
    """
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    with _for_tracing(model) as running:
        try:
            program = torch.export.export(model, arguments, strict=False)
        except Exception as error:
            where = next((name for name in reversed(running) if name), "the model itself")
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"branches cannot be counted: torch.export cannot trace {where} "
                f"({type(error).__name__}: {lines[0]}); expected a model whose control flow does not depend on data"
            ) from error
    with torch.enable_grad():
        return GraphCounter(program, follow_skips=skips == "sum").run()
