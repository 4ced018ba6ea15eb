"""Direct calls of `torch.ops.pyranet_fast`, as compilers and exported programs make them, with wrong arguments.

`python -m tests.ops.direct_calls --calls N --seed S` makes N calls of every operator in this process, which is what
`make sanitize` runs under a sanitizer; test_direct_calls.py makes some in children that may die.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyranet_fast import ops as _ops  # noqa: F401  loads the operators
from pyranet_fast.ops import dispatch

EXPECTED = (RuntimeError, TypeError, ValueError, MemoryError, NotImplementedError, IndexError)
"""What a refusal may be: a checked sentence, or one of torch's own where it cannot even pass the arguments on."""


def _map(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def valid_arguments() -> dict[str, Callable[[], list[Any]]]:
    """A list of arguments that each operator with a kernel for the CPU takes."""
    ops = torch.ops.pyranet_fast

    def pooled() -> list[Any]:
        x, samples = _last(_map(2, 5, 9, 8)), torch.rand(2, 2, 5, 2)
        values, positions = ops.fractional_max_pool_pyramid(x, samples, [5, 4, 8, 7], None, None, False, True)
        return [values, positions, samples, x, torch.randn(5), torch.randn(5), True]

    def normed() -> list[Any]:
        return [_map(2, 5, 4, 3), torch.randn(5), torch.randn(5), 1e-5]

    def shared() -> list[Any]:
        return [_last(_map(2, 5, 4, 3)), torch.randn(3, 5), torch.randn(3, 5), 1e-5]

    def convolved() -> list[Any]:
        packed = ops.winograd_pack(_map(36, 33, 3, 3), 4, False)
        return [_last(_map(1, 33, 7, 6)), packed, torch.randn(36), _last(_map(1, 36, 7, 6)), 36, True]

    def run() -> list[Any]:
        """A 1x1 with its norm, a 3x3 and a pyramid that is added to it, as a folded unit has them."""
        values = [
            _last(_map(1, 36, 9, 8)), torch.randn(36), torch.randn(36), ops.pointwise_pack(_map(36, 36)),
            torch.randn(36), ops.winograd_pack(_map(36, 36, 3, 3), 2, False), ops.pyramid_pack(_map(12, 36, 3, 3)),
            torch.randn(12), ops.pointwise_pack(_map(36, 12)),
        ]  # fmt: skip
        program = [
            *(0, 0, -1, -1, 0, 0, *(1, 1), *(1, 2), *(1, 3), *(1, 4), *(1, 1), 9),
            *(1, 9, 5, 4, 0, 36, 1, 10),
            *(2, 9, *(4, 5, 4, 8, 7), *(1, 6), *(1, 7), 8, 4, 10),
            *(3, 1, 9),
        ]
        return [values, program, [10]]

    def scored() -> list[Any]:
        return [_map(2, 3, 6, 5), torch.rand(2, 3, 2), torch.rand(2, 3), 1.0]

    return {
        "fractional_max_pool_pyramid": lambda: [
            _map(2, 5, 9, 8), torch.rand(2, 2, 5, 2), [5, 4, 8, 7], torch.randn(5), torch.randn(5), True, True
        ],
        "fractional_max_pool_pyramid_backward": pooled,
        "upsample_sum": lambda: [[_map(2, 5, 3, 4), _map(2, 5, 6, 7)], 8, 9, _map(2, 5, 8, 9), True],
        "upsample_sum_backward": lambda: [_last(_map(2, 5, 8, 9)), [3, 4, 8, 9], False],
        "winograd_pack": lambda: [_map(36, 33, 3, 3), 4, True],
        "winograd_weight_gradient": lambda: [_last(_map(1, 33, 7, 6)), _last(_map(1, 36, 7, 6))],
        "winograd_conv3x3": convolved,
        "run_folded": run,
        "add_affine_relu": lambda: [
            _last(_map(2, 5, 3, 4)), _last(_map(2, 5, 6, 8)), torch.randn(2, 5), torch.randn(2, 5), True
        ],
        "pointwise_pack": lambda: [_map(36, 33)],
        "fused_pointwise": lambda: [
            _last(_map(2, 6, 8, 6)), None, [torch.randn(6)], [torch.randn(6)], [ops.pointwise_pack(_map(40, 6))],
            [torch.randn(40)], [1], _last(_map(2, 40, 4, 3)), True, True,
        ],
        "pyramid_pack": lambda: [_map(12, 6, 3, 3)],
        "pooled_pyramid_": lambda: [
            _last(_map(2, 6, 9, 8)), [5, 4, 8, 7], [ops.pyramid_pack(_map(12, 6, 3, 3))], [torch.randn(12)],
            ops.pointwise_pack(_map(40, 12)), torch.randn(40), _last(_map(2, 40, 9, 8)),
        ],
        "heatmap_argmax": lambda: [_last(_map(2, 3, 6, 5)), True],
        "heatmap_argmax_backward": lambda: [_map(2, 3), torch.randint(0, 30, (2, 3)), 6, 5],
        "heatmap_loss": scored,
        "heatmap_loss_backward": lambda: [torch.tensor(1.0), *scored()],
        "gaussian_heatmaps": lambda: [torch.rand(2, 3, 2), torch.rand(2, 3), 6, 5, 1.0],
        "batch_norm_relu": normed,
        "batch_norm_relu_backward": lambda: [_map(2, 5, 4, 3), *normed()[:3], torch.randn(5), torch.rand(5), 1e-5],
        "shared_batch_norm_relu": shared,
        "shared_batch_norm_relu_backward": lambda: [
            [_last(_map(2, 5, 4, 3)), torch.empty(0), _map(2, 5, 4, 3)], _map(2, 5, 4, 3), *shared()[:3],
            torch.randn(5), torch.rand(5), 1e-5,
        ],
        "batch_norm_relu_update_": lambda: [
            *normed()[:3], torch.zeros(5), torch.ones(5), torch.tensor(0), 0.1, 1e-5
        ],
        "batch_norm_update_": lambda: [
            torch.zeros(5), torch.ones(5), torch.tensor(0), torch.randn(5), torch.rand(5), 0.1, 24
        ],
    }  # fmt: skip


_INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 2**22, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
    torch.complex64,
)  # fmt: skip


def _huge(x: Tensor, random: random.Random) -> Tensor:
    """Sizes that are absurd and take no memory: of stride 0, or of an empty tensor."""
    sizes = list(x.shape) or [1]
    if random.random() < 0.5 and x.numel() > 0 and x.dim() > 0:
        at = random.randrange(x.dim())
        return x.narrow(at, 0, 1).expand([random.choice((2**20, 2**31, 2**40)) if i == at else s
                                          for i, s in enumerate(sizes)])  # fmt: skip
    sizes[random.randrange(len(sizes))] = 0
    if len(sizes) > 1:
        sizes[random.randrange(len(sizes))] = random.choice((2**20, 2**31, 2**40, 2**62))
    return torch.empty([s for s in sizes], dtype=x.dtype)


def _other_tensor(x: Tensor, random: random.Random) -> Tensor:
    kinds: list[Callable[[], Tensor]] = [
        lambda: x.to(random.choice(_DTYPES)),
        lambda: x.unsqueeze(random.randrange(x.dim() + 1)),
        lambda: x.flatten(),
        lambda: x.new_empty(0),
        lambda: torch.zeros((), dtype=x.dtype),
        lambda: _huge(x, random),
        lambda: x.clone().fill_(random.choice((-1, 255, 127)) if not x.is_floating_point() else random.choice(_FLOATS)),
    ]
    if x.dim() > 0:
        at = random.randrange(x.dim())
        kinds += [
            lambda: x.narrow(at, 0, max(0, x.shape[at] - 1)),
            lambda: x.narrow(at, 0, min(1, x.shape[at])),
            lambda: torch.cat([x, x.narrow(at, 0, min(1, x.shape[at]))], at),
            lambda: torch.cat([x, x], at).narrow(at, 1, x.shape[at]) if x.shape[at] else x,
            lambda: x.transpose(at, random.randrange(x.dim())),
            lambda: x.transpose(at, -1).contiguous().transpose(at, -1),
            lambda: x.select(at, 0) if x.shape[at] else x,
            lambda: x.flip(at),
        ]
    if x.dim() == 4:
        kinds.append(lambda: _last(x))
    return random.choice(kinds)()


def changed(value: Any, random: random.Random) -> Any:
    """Another argument in the place of this one."""
    if isinstance(value, Tensor):
        return None if random.random() < 0.05 else _other_tensor(value, random)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((*_INTEGERS, value + 1, value - 1))
    if isinstance(value, float):
        return random.choice(_FLOATS)
    if isinstance(value, list):
        kind = random.randrange(4)
        if kind == 0 or not value:
            return [] if random.random() < 0.3 else value[:-1]
        if kind == 1:
            return [*value, random.choice(value)]
        at = random.randrange(len(value))
        return [changed(v, random) if i == at else v for i, v in enumerate(value)]
    return value


def calls(name: str, count: int, seed: int) -> Iterator[list[Any]]:
    """Argument lists of an operator: a valid one, then ones with one to three changes."""
    random_ = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    make = valid_arguments()[name]
    yield make()
    for _ in range(count - 1):
        arguments = make()
        for _ in range(random_.choice((1, 1, 1, 2, 3))):
            at = random_.randrange(len(arguments))
            try:
                arguments[at] = changed(arguments[at], random_)
            except RuntimeError:  # torch makes no such tensor
                continue
        yield arguments


def described(value: Any) -> str:
    """An argument in a line."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} strides {value.stride()}"
    return f"[{', '.join(map(described, value))}]" if isinstance(value, list) else repr(value)


def call(name: str, arguments: list[Any]) -> bool:
    """Whether an operator takes the arguments; what it makes of them is read to the last element.

    Raises:
        AssertionError: it fails with anything but a refusal.
    """
    try:
        with torch.no_grad():
            made = getattr(torch.ops.pyranet_fast, name)(*arguments)
        leaves = [made] if isinstance(made, Tensor) else [t for part in made or () for t in
                                                          (part if isinstance(part, list) else [part])]  # fmt: skip
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                leaf.double().sum().item()
    except EXPECTED as error:
        if "INTERNAL ASSERT" in str(error):
            raise AssertionError(f"{name}({', '.join(map(described, arguments))}): {error}") from error
        return False
    return True


def main() -> None:
    """Make the calls, and print how many were taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="of every operator (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operators", nargs="+", default=sorted(valid_arguments()), metavar="NAME")
    options = parser.parse_args()
    assert dispatch.native.here, dispatch.native.reason
    for name in options.operators:
        taken = sum(call(name, arguments) for arguments in calls(name, options.calls, options.seed))
        print(f"{name}: {options.calls} calls, {taken} taken, {options.calls - taken} refused", flush=True)


if __name__ == "__main__":
    main()
