"""Python registrations of the operators for all backends: shapes for compilers, derivatives, rules for torch.vmap.

A gradient is a `torch.autograd.Function` behind the operator itself, so that eager mode, compilers, the transforms of
torch.func and a caller of ``torch.ops`` take one path. It is what ``torch.library.register_autograd`` makes, but for
lists of tensors (their general machinery there walks over all arguments and results, in Python, at every call) and for
``torch.func.grad``, which refuses what ``register_autograd`` makes (torch 2.13).

Everything beyond the first gradient may be slower than the kernels: an operator that is not linear is differentiated
forward, or twice, as its ``composite`` in PyTorch's own operations is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from . import dispatch
from .checks import transformed

Backward = Callable[..., Sequence[Any]]
BatchRule = Callable[..., tuple[Any, Any]]
_libraries: list[torch.library.Library] = []  # garbage collection would remove their registrations


def describe(
    name: str,
    fake: Callable[..., Any],
    *,
    save: Callable[..., None] | None = None,
    backward: Backward | None = None,
    composite: Callable[..., Any] | None = None,
    linear: Sequence[str] = (),
    recorded: Callable[..., tuple[Any, ...]] | None = None,
    batched: BatchRule | None = None,
    only: str | None = None,
) -> None:
    """Register what an operator is beside its kernels, for every backend that is or gets loaded.

    Args:
        name: of the operator, without namespace.
        fake: the results without values, of the operator's arguments.
        save: ``save(ctx, inputs, output)`` keeps for the backward what it needs.
        backward: ``backward(ops, ctx, *grads)`` gives a gradient (or None) for every argument, a list of them for a
            list; ``ops`` is ``torch.ops.<namespace>``, and the gradient of a result that is a list is a list. Without
            it the composite is differentiated.
        composite: ``composite(ops, *arguments)`` gives the results by operations that PyTorch differentiates.
        linear: the arguments that the operator is linear in, all that have a tangent, instead of a composite: in
            forward mode it is applied to their tangents.
        recorded: ``recorded(*arguments)``, the arguments to call the operator with where its gradient is recorded.
        batched: ``batched(operator, size, dims, *arguments)`` gives the results, and their vmapped dimensions, of
            arguments that have a vmapped dimension of ``size`` at ``dims`` (None: they have not); without it the
            operator is called once for each index, see `one_by_one`.
        only: a namespace; the other backends do not have this operator.
    """

    @dispatch.on_load
    def register(namespace: str, ops: Any) -> None:
        if only not in (None, namespace):
            return
        operator, library = getattr(ops, name).default, torch.library.Library(namespace, "FRAGMENT")
        _libraries.append(library)
        torch.library.register_fake(f"{namespace}::{name}", fake)
        _register_batched(operator, batched or one_by_one, library)
        if backward is not None or composite is not None or linear:
            _differentiate(ops, operator, library, _Derivatives(save, backward, composite, linear, recorded))


def describe_inference(*names: str) -> None:
    """Register that native operators, called by `without_gradient`, have no derivative: asking for one raises by name.

    Compilers do not see these operators.
    """

    @dispatch.on_load
    def register(namespace: str, ops: Any) -> None:
        if namespace != "pyranet_fast":
            return
        library = torch.library.Library(namespace, "FRAGMENT")
        _libraries.append(library)
        for name in names:
            operator = getattr(ops, name).default
            _register_batched(operator, one_by_one, library)
            _differentiate(ops, operator, library, _Derivatives())


def without_gradient(operator: Any, *arguments: Any) -> Any:
    """Call an operator past its gradient, which would be a detour through Python of microseconds."""
    if torch.compiler.is_compiling() or transformed():
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


# --- derivatives -----------------------------------------------------------------------------------------------------


def _is_list(of: Any) -> bool:
    return str(of.type) == "List[Tensor]"


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _flat(values: Any) -> list[Any]:
    """Arguments or results, lists of tensors among them unrolled."""
    if not isinstance(values, tuple | list):
        return [values]
    return [leaf for value in values for leaf in (value if isinstance(value, list) else [value])]


def _map(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The function of the corresponding leaves of arguments or results."""
    if isinstance(first, tuple | list):
        return type(first)(_map(function, *values) for values in zip(first, *others, strict=True))
    return function(first, *others)


@dataclass(frozen=True)
class _Derivatives:
    """What `describe` takes of an operator's derivatives."""

    save: Callable[..., None] | None = None
    backward: Backward | None = None
    composite: Callable[..., Any] | None = None
    linear: Sequence[str] = ()
    recorded: Callable[..., tuple[Any, ...]] | None = None


def _name(operator: Any) -> str:
    return operator._schema.name.split("::")[1]


def _below_autograd(operator: Any, keyset: Any, arguments: tuple[Any, ...]) -> Any:
    """The backend's kernel; in the words of register_autograd, which there is no public form of."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def _differentiate(ops: Any, operator: Any, library: torch.library.Library, given: _Derivatives) -> None:
    """Put derivatives at the operator's dispatch key for autograd."""
    name, recorded = _name(operator), given.recorded
    forward_mode = _forward_mode(ops, operator, given)
    record = _recording(ops, operator, given)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if _may_be_dual(arguments[0]) and any(_tangent_of(t) is not None for t in _flat(arguments)):
            return forward_mode(arguments)
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            return _below_autograd(operator, keyset, arguments)
        if record is None:
            raise _no_derivative(name)
        return record(keyset, arguments if recorded is None else recorded(*arguments))

    library.impl(name, kernel, "Autograd", with_keyset=True)


def _forward_mode(ops: Any, operator: Any, given: _Derivatives) -> Callable[[tuple[Any, ...]], Any]:
    """Gives results with tangents, of arguments of which some have tangents."""
    linear = [argument.name in given.linear for argument in operator._schema.arguments]

    def forward_mode(arguments: tuple[Any, ...]) -> Any:
        if not given.linear and given.composite is None:
            raise _no_derivative(_name(operator))
        if given.composite is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return given.composite(ops, *arguments)  # whose backward has tangents too: the kernels' saves values alone
        results = operator(*_map(_primal, arguments))
        if given.composite is None:
            moved = operator(*(_map(_tangent, a) if moves else a for moves, a in zip(linear, arguments, strict=True)))
            return _map(_dual, results, moved)
        moved = given.composite(ops, *arguments)
        return _map(lambda result, dual: _dual(result, _tangent_of(dual)), results, moved)

    return forward_mode


def _recording(ops: Any, operator: Any, given: _Derivatives) -> Callable[[Any, tuple[Any, ...]], Any] | None:
    """Runs the operator so that autograd knows its gradient; None where it has none."""
    save, backward = given.save, given.backward
    if backward is None:
        if given.composite is None:
            return None
        save, backward = _gradient_of(given.composite)
    schema = operator._schema
    lists = [i for i, argument in enumerate(schema.arguments) if _is_list(argument)]
    returns_list, alone = _is_list(schema.returns[0]), len(schema.returns) == 1
    others = len(schema.returns) - 1  # results after the list

    def grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
        """Results, or their gradients, in the schema's form."""
        return (list(flat[: len(flat) - others]), *flat[len(flat) - others :]) if returns_list else tuple(flat)

    def forward(ctx: Any, keyset: Any, arguments: tuple[Any, ...], *_: Any) -> Any:
        # The arguments once more, one by one and lists unrolled, are there for autograd, which looks at no lists.
        assert save is not None
        if torch._C._are_functorch_transforms_active():  # outer transforms follow: this one's mode is not theirs
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                result = _below_autograd(operator, keyset, arguments)
        else:
            result = _below_autograd(operator, keyset, arguments)
        save(ctx, arguments, result)
        ctx.counts = [len(arguments[i]) for i in lists]
        if not returns_list:
            return result
        return tuple(result) if alone else (*result[0], *result[1:])

    def of_arguments(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        found = list(backward(ops, ctx, *grouped(grads)))
        unrolled: list[Tensor | None] = []
        for i, count in zip(lists, ctx.counts, strict=True):
            unrolled += [None] * count if found[i] is None else found[i]
            found[i] = None
        return None, None, *found, *unrolled

    methods = {"forward": staticmethod(forward), "backward": staticmethod(of_arguments)}
    gradient: Any = type(_name(operator), (torch.autograd.Function,), methods)
    # Function.apply itself would look for transforms of torch.func, which have looked at the operator already: here is
    # but one of them, and the function is for that one alone.
    apply = super(torch.autograd.Function, gradient).apply

    def record(keyset: Any, arguments: tuple[Any, ...]) -> Any:
        flat = (keyset, arguments, *arguments, *(t for i in lists for t in arguments[i]))
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                made = apply(*flat)
        else:
            made = apply(*flat)
        if not returns_list:
            return made
        return list(made) if alone else grouped(made)

    return record


def _no_derivative(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} is for inference and has no derivative; expected tensors without requires_grad and without a tangent"
    )


def _gradient_of(composite: Callable[..., Any]) -> tuple[Callable[..., None], Backward]:
    """``save`` and ``backward`` that differentiate a composite, in a way that can be differentiated again."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        leaves = _flat(inputs)
        ctx.save_for_backward(*(leaf if isinstance(leaf, Tensor) else None for leaf in leaves))
        ctx.inputs = _map(lambda leaf: None if isinstance(leaf, Tensor) else leaf, inputs)
        ctx.varied = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
        ctx.results = [_is_float(result) for result in _flat(output)]

    def backward(ops: Any, ctx: Any, *grads: Any) -> Sequence[Any]:
        saved = zip(ctx.saved_tensors, _flat(ctx.inputs), strict=True)
        leaves = [fixed if tensor is None else tensor for tensor, fixed in saved]

        def results(*varied: Tensor) -> tuple[Tensor, ...]:
            current = list(leaves)
            for i, value in zip(ctx.varied, varied, strict=True):
                current[i] = value
            given = iter(current)
            made = _flat(composite(ops, *_map(lambda _: next(given), ctx.inputs)))
            return tuple(result for result, wanted in zip(made, ctx.results, strict=True) if wanted)

        pull_back = torch.func.vjp(results, *(leaves[i] for i in ctx.varied))[1]
        given = (grad for grad, wanted in zip(_flat(grads), ctx.results, strict=True) if wanted)
        found = dict(zip(ctx.varied, pull_back(tuple(given)), strict=True))
        places = iter(range(len(leaves)))
        gradients = _map(lambda _: found.get(next(places)), ctx.inputs)
        return [None if isinstance(g, list) and all(t is None for t in g) else g for g in gradients]

    return save, backward


_LEVEL = 0  # of forward-mode AD: PyTorch has one, and torch.func.jvp inside another wraps tensors


def _may_be_dual(first: Any) -> bool:
    """Whether to look for tangents, which takes microseconds, by the first argument.

    Inside a compiler, whose tensors are no plain ones, forward-mode AD can be on where Python does not know of it.
    """
    return transformed() or type(first[0] if isinstance(first, list) and first else first) is not Tensor


def _tangent_of(x: Any) -> Tensor | None:
    return forward_ad.unpack_dual(x, level=_LEVEL).tangent if _is_float(x) else None


def _primal(x: Any) -> Any:
    return forward_ad.unpack_dual(x, level=_LEVEL).primal if _is_float(x) else x


def _tangent(x: Any) -> Any:
    """The tangent of an argument, zero where it has none."""
    if not isinstance(x, Tensor):
        return x
    primal, tangent = forward_ad.unpack_dual(x, level=_LEVEL)
    return torch.zeros_like(primal) if tangent is None else tangent


def _dual(result: Tensor, tangent: Tensor | None) -> Tensor:
    return result if tangent is None else forward_ad.make_dual(result, tangent, level=_LEVEL)


# --- torch.vmap ------------------------------------------------------------------------------------------------------


def fold(x: Tensor, dim: int | None, size: int, axis: int = 0) -> Tensor:
    """The vmapped dimension, or ``size`` times the same, as the outer part of an axis."""
    first = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return first.movedim(0, axis).flatten(axis, axis + 1)


def unfold(x: Tensor, size: int, axis: int = 0) -> Tensor:
    """What `fold` did, undone: the vmapped dimension comes first."""
    return x.unflatten(axis, (size, x.shape[axis] // size)).movedim(axis, 0)


def folded(axes: Mapping[str, int], results: Any = 0) -> BatchRule:
    """A rule for torch.vmap: arguments and results with the vmapped dimension folded into an axis.

    Args:
        axes: the axis by argument, each a tensor, a list of them or None. Where another one is vmapped the operator
            is called `one_by_one`.
        results: the axis, or one for each result.
    """

    def rule(operator: Any, size: int, dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        names = [argument.name for argument in operator._schema.arguments]
        if any(n not in axes and any(d is not None for d in _flat(dim)) for n, dim in zip(names, dims, strict=True)):
            return one_by_one(operator, size, dims, *arguments)
        given = list(arguments)
        for i, (n, dim) in enumerate(zip(names, dims, strict=True)):
            if n in axes and given[i] is not None:
                given[i] = _map(functools.partial(fold, size=size, axis=axes[n]), given[i], dim)
        made = operator(*given)
        if isinstance(results, int):
            return _map(lambda x: unfold(x, size, results), made), 0
        return tuple(unfold(x, size, axis) for x, axis in zip(made, results, strict=True)), 0

    return rule


def one_by_one(operator: Any, size: int, dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
    """A rule for torch.vmap: the operator of every index of the vmapped dimension, one after the other."""
    schema = operator._schema
    for argument, dim in zip(schema.arguments, dims, strict=True):
        if argument.alias_info is not None and argument.alias_info.is_write and dim is None:
            raise RuntimeError(
                f"{_name(operator)} writes into {argument.name}, which is not vmapped although other "
                "arguments are; expected a vmapped one inside torch.vmap"
            )

    def at(x: Any, dim: int | None, i: int) -> Any:
        if dim is None:
            return x
        return x.select(dim, i) if size else x.new_zeros(x.movedim(dim, 0).shape[1:])  # for the shape of the results

    made = [operator(*_map(lambda x, d, i=i: at(x, d, i), arguments, tuple(dims))) for i in range(max(size, 1))]
    if not schema.returns:
        return None, None

    def joined(*results: Any) -> Any:
        return torch.stack(results)[:size] if isinstance(results[0], Tensor) else all(results)

    return _map(joined, *made), _map(lambda result: 0 if isinstance(result, Tensor) else None, made[0])


def _register_batched(operator: Any, rule: BatchRule, library: torch.library.Library) -> None:
    def batched(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        return (rule if size else one_by_one)(operator, size, dims, *arguments)

    torch.library.register_vmap(operator._schema.name, batched, lib=library)
