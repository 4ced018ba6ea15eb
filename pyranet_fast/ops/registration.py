"""What Python adds to an operator, once for all backends: the shapes of its results, for compilers, and its gradient.

A gradient is a `torch.autograd.Function` behind the operator itself, so that eager mode, compilers and a caller of
``torch.ops`` take one path. It is what ``torch.library.register_autograd`` makes, but for lists of tensors: their
general machinery there walks over all arguments and results, in Python, at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch

Backward = Callable[..., Sequence[Any]]
_libraries: list[torch.library.Library] = []  # what they register is gone when they are collected


def describe(
    name: str,
    fake: Callable[..., Any],
    *,
    save: Callable[..., None] | None = None,
    backward: Backward | None = None,
    fake_backward: Callable[..., Any] | None = None,
    only: str | None = None,
) -> None:
    """Register an operator's shapes, and its gradient where it has one, for every backend that is or gets loaded.

    Args:
        name: of the operator, without namespace.
        fake: the results without values, of the operator's arguments.
        save: ``save(ctx, inputs, output)`` keeps for the backward what it needs.
        backward: ``backward(ops, ctx, *grads)`` gives a gradient (or None) for every argument, a list of them for a
            list; ``ops`` is ``torch.ops.<namespace>``, and the gradient of a result that is a list is a list.
        fake_backward: as ``fake``, for the operator ``<name>_backward``, which is not differentiable.
        only: a namespace; the other backends do not have this operator.
    """

    @dispatch.on_load
    def register(namespace: str, ops: Any) -> None:
        if only not in (None, namespace):
            return
        torch.library.register_fake(f"{namespace}::{name}", fake)
        if backward is not None:
            assert save is not None
            _differentiate(namespace, ops, name, save, backward)
        if fake_backward is not None:
            torch.library.register_fake(f"{namespace}::{name}_backward", fake_backward)
            _differentiate(namespace, ops, f"{name}_backward", _save_nothing, _no_double_backward(name))


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    return None


def _no_double_backward(name: str) -> Backward:
    def backward(ops: Any, ctx: Any, *grads: Any) -> Sequence[Any]:
        raise RuntimeError(f"{name} has no double backward: its gradient cannot be differentiated again")

    return backward


def _is_list(of: Any) -> bool:
    return str(of.type) == "List[Tensor]"


def _differentiate(namespace: str, ops: Any, name: str, save: Callable[..., None], backward: Backward) -> None:
    """Put a `torch.autograd.Function` at the operator's dispatch key for autograd."""
    operator = getattr(ops, name).default
    schema = operator._schema
    lists = [i for i, argument in enumerate(schema.arguments) if _is_list(argument)]
    returns_list, alone = _is_list(schema.returns[0]), len(schema.returns) == 1
    others = len(schema.returns) - 1  # results after the list

    def grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
        """Results, or their gradients, in the schema's form."""
        return (list(flat[: len(flat) - others]), *flat[len(flat) - others :]) if returns_list else tuple(flat)

    def forward(ctx: Any, keyset: Any, arguments: tuple[Any, ...], *_: Any) -> Any:
        # The arguments once more, one by one and lists unrolled, are there for autograd, which looks at no lists.
        result = below_autograd(keyset, arguments)
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

    gradient: Any = type(
        name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(of_arguments)}
    )

    def below_autograd(keyset: Any, arguments: tuple[Any, ...]) -> Any:
        """The backend's kernel; in the words of register_autograd, which there is no public form of."""
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            return below_autograd(keyset, arguments)
        made = gradient.apply(keyset, arguments, *arguments, *(t for i in lists for t in arguments[i]))
        if not returns_list:
            return made
        return list(made) if alone else grouped(made)

    library = torch.library.Library(namespace, "FRAGMENT")
    library.impl(name, kernel, "Autograd", with_keyset=True)
    _libraries.append(library)
