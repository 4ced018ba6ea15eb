"""`python -m bench.gpu_model`, which is `make gpu-model`: count kernels and memory traffic of a GPU run, without a GPU.

The network's own code runs over fake CUDA tensors, which have shapes, dtypes and strides but no values, and every
operator is counted: the kernels it launches, the bytes they read and write by precision, their FLOPs. The time of a
kernel is the longest of three: the shortest there is, that of its bytes, that of its products (`Rates`). Kernels follow
each other as in a CUDA graph. Caches get no credit; the layout and padding kernels that cuDNN may add for 14 and 28
channels are not counted.

It predicts, it does not measure: no GPU has confirmed a number of this command. Its use is to compare two forms, and to
be compared with a run of `make gpu`: ``--results`` prints both side by side, to set the rates by.

Inference runs under any torch. A training step's backward asks for a CUDA build of torch, but no GPU.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bench import runner
from bench.report import markdown_table
from pyranet_fast import cli, ops
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.models.biases import absorb_biases_
from pyranet_fast.ops import dispatch
from pyranet_fast.ops.checks import memory_format
from pyranet_fast.training.casting import CastWeights
from pyranet_fast.training.step import Step

# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """What a kernel's time is made of; chosen for an H200, confirmed by nothing yet.

    Attributes:
        kernel_s: the shortest kernel, with its gap to the next one in a graph.
        bytes_per_s: what a kernel that streams reaches.
        flop_per_s: of products in bfloat16, in convolutions and matrix products.
        narrow_flop_per_s: the same with fewer channels than ``narrow`` on either side, which fill no tile.
        narrow: channels.
    """

    kernel_s: float = 2e-6
    bytes_per_s: float = 3.6e12
    flop_per_s: float = 450e12
    narrow_flop_per_s: float = 100e12
    narrow: int = 32


RATES = Rates()
"""The one place of the constants; to calibrate, see ``--results``."""


@dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        operator: that launched it, without namespace and overload.
        bytes: read and written, by dtype.
        flops: of its products, 2 a multiply-add.
        channels: the fewer of a product's inputs and outputs; None: it has no products.
    """

    operator: str
    bytes: dict[torch.dtype, int]
    flops: int = 0
    channels: int | None = None

    def seconds(self, rates: Rates = RATES) -> float:
        """As the model has it."""
        narrow = self.channels is not None and self.channels < rates.narrow
        rate = rates.narrow_flop_per_s if narrow else rates.flop_per_s
        return max(rates.kernel_s, sum(self.bytes.values()) / rates.bytes_per_s, self.flops / rate)


@dataclass
class Count:
    """What a piece of work launches.

    Attributes:
        operators: calls of operators that launch anything.
        kernels: in order.
        host: operators that read a value on the host, or move one between host and GPU.
    """

    operators: int = 0
    kernels: list[Kernel] = field(default_factory=list)
    host: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> dict[torch.dtype, int]:
        """Read and written, by dtype."""
        total: Counter[torch.dtype] = Counter()
        for kernel in self.kernels:
            total.update(kernel.bytes)
        return dict(total)

    def seconds(self, rates: Rates = RATES) -> float:
        """As the model has it."""
        return sum(kernel.seconds(rates) for kernel in self.kernels)

    def by_operator(self, rates: Rates = RATES) -> list[tuple[str, int, float, float]]:
        """Operator, kernels, bytes and seconds; the longest first."""
        found: dict[str, list[Kernel]] = {}
        for kernel in self.kernels:
            found.setdefault(kernel.operator, []).append(kernel)
        rows = [
            (name, len(of), float(sum(sum(k.bytes.values()) for k in of)), sum(k.seconds(rates) for k in of))
            for name, of in found.items()
        ]
        return sorted(rows, key=lambda row: -row[3])


# --- from operators to kernels ----------------------------------------------------------------------------------------

Launches = list[Kernel]
# Memory without a kernel, and what is no operator.
_NOTHING = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"),
    *("promote_types", "device", "is_same_size", "_record_function_enter_new", "_record_function_exit"),
}
_HOST = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"}


def _size(x: Tensor) -> int:
    """Bytes of memory behind a tensor: what is expanded counts once."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


def _kernel(name: str, tensors: Sequence[Any], flops: int = 0, channels: int | None = None) -> Kernel:
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            sizes[tensor.dtype] += _size(tensor)
    return Kernel(name, dict(sizes), flops, channels)


def _convolution(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    """cuDNN's, which adds a bias by a kernel of its own."""
    x, weight, bias, (out,) = args[0], args[1], args[2], outs
    main = _kernel(name, (x, weight, out), 2 * out.numel() * (weight.numel() // len(weight)), min(weight.shape[:2]))
    return [main, *([] if bias is None else [_kernel("bias", (out, out, bias))])]


def _fused_convolution(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    x, weight, (out,) = args[0], args[1], outs
    tensors = [x, weight, out, args[2]] if name == "cudnn_convolution_add_relu" else [x, weight, out]
    return [_kernel(name, tensors, 2 * out.numel() * (weight.numel() // len(weight)), min(weight.shape[:2]))]


def _convolution_backward(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    grad, x, weight, (of_x, of_weight, of_bias) = args[0], args[1], args[2], args[-1]
    work = 2 * grad.numel() * (weight.numel() // len(weight)), min(weight.shape[:2])
    launches = [_kernel(name, (grad, x, weight), *work)] * (int(of_x) + int(of_weight))
    return [*launches, *([_kernel("gradient of a bias", (grad,))] if of_bias else [])]


def _matrix_product(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    """mm(a, b), addmm(c, a, b): a vector c and an activation join in the product, a matrix c is copied first."""
    *added, a, b = args[: 2 if name == "mm" else 3]
    out, copied = outs[0], []
    tensors = [a, b, out, *added]
    if added and added[0].dim() == 2 and name != "addmm_":
        copied, tensors = [_kernel("copy of what is added to", (added[0], out))], [a, b, out, out]
    return [*copied, _kernel(name, tensors, 2 * out.numel() * a.shape[1], min(b.shape))]


def _batch_norm(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    """Statistics, their running means, values; in evaluation values alone."""
    x, y = args[0], outs[0]
    training = len(args) <= 5 or bool(args[5])
    before = [_kernel(name, (x,)), _kernel(name, outs[1:])] if training else []
    return [*before, _kernel(name, (x, y))]


def _batch_norm_backward(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    """Sums, then values: the norm's own operators begin with the gradient and x."""
    grad, x = args[0], args[1]
    return [_kernel(name, (grad, x)), _kernel(name, (grad, x, outs[0]))]


def _own_batch_norm(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    return [_kernel(name, (args[0], *outs[1:])), _kernel(name, (args[0], outs[0]))]


def _shared_batch_norm(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    *made, mean, var = outs
    return [_kernel(name, (args[0], mean, var)), _kernel(name, (args[0], *made))]


def _shared_batch_norm_backward(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    grads, extra, x = args[:3]
    return [_kernel(name, (*grads, x)), _kernel(name, (*grads, x, extra, outs[0]))]


def _loss(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    return [_kernel(name, (*args, *outs)), _kernel(name, outs)]


_MULTI_TENSOR = {1: 110, 2: 64, 3: 48, 4: 36}
"""Tensors a launch of a foreach operator takes, by its number of lists: multi_tensor_apply's tables."""
_MULTI_TENSOR_VALUES = 320 * 65536


def _foreach(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> Launches:
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
    made = [t for t in outs if all(t is not given for of in lists for given in of)]
    count = max(
        math.ceil(len(lists[0]) / _MULTI_TENSOR.get(len(lists) + bool(made), 30)),
        math.ceil(sum(t.numel() for t in lists[0]) / _MULTI_TENSOR_VALUES),
    )
    moved = _kernel(name, [*tree_leaves(lists), *(made or lists[0])])
    share = {dtype: size // count for dtype, size in moved.bytes.items()}
    return [Kernel(name, share)] * count


_RULES: dict[str, Callable[[str, Sequence[Any], Sequence[Tensor]], Launches]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "cudnn_convolution_relu": _fused_convolution,
    "cudnn_convolution_add_relu": _fused_convolution,
    **dict.fromkeys(("mm", "addmm", "addmm_", "_addmm_activation"), _matrix_product),
    **dict.fromkeys(
        ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"), _batch_norm
    ),
    "batch_norm_relu": _own_batch_norm,
    "batch_norm_relu_update_": _own_batch_norm,
    "shared_batch_norm_relu": _shared_batch_norm,
    "shared_batch_norm_relu_backward": _shared_batch_norm_backward,
    "native_batch_norm_backward": _batch_norm_backward,
    "batch_norm_backward": _batch_norm_backward,
    "batch_norm_relu_backward": _batch_norm_backward,
    "cudnn_batch_norm_backward": lambda name, args, outs: _batch_norm_backward(name, (args[1], args[0]), outs),
    "heatmap_loss": _loss,
}
"""Operators that are not one kernel which reads every tensor it is given and writes every one it returns."""


def _laid_out(made: Any, x: Tensor) -> Any:
    """Results of a convolution of x in cuDNN's layout: over tensors without values PyTorch makes them contiguous."""
    if memory_format(x) != torch.channels_last:
        return made
    return tree_map_only(Tensor, lambda t: _moved(t) if t.dim() == 4 else t, made)


class Counting(TorchDispatchMode):
    """Counts what runs inside the ``with`` block, into ``count``."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func.is_view or name in _NOTHING:
            return made
        if name in ("convolution", "convolution_backward"):
            made = _laid_out(made, args[name == "convolution_backward"])
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outs = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
        devices = {t.device.type for t in [*given, *outs] if t.dim()} | {t.device.type for t in outs}
        if name in _HOST or len(devices) > 1:
            self.count.host.append(name)
        self.count.operators += 1
        if name.startswith("_foreach_"):
            launches = _foreach(name, args, outs)
        elif rule := _RULES.get(name):
            launches = rule(name, args, outs)
        else:
            launches = [_kernel(name, [*given, *outs])]
        self.count.kernels += launches
        return made


# --- fake CUDA tensors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is counted.

    Attributes:
        stacks, side: of the network and of its input.
        options: more keyword arguments of PyraNet.
    """

    stacks: int = 8
    side: int = 256
    options: dict[str, Any] = field(default_factory=dict)

    def image(self, batch: int) -> Tensor:
        """On "cuda", channels_last."""
        shape = (batch, 3, self.side, self.side)
        return torch.empty(shape, device="cuda", memory_format=torch.channels_last)


_libraries: list[torch.library.Library] = []


def _describe_cudnn() -> None:
    """Shapes of cuDNN's fused convolutions, which PyTorch does not have for tensors without values."""
    if _libraries:
        return
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)

    def shaped(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        made = torch.convolution(x, weight, None, stride, padding, dilation, False, [0, 0], groups)
        return made.contiguous(memory_format=memory_format(x))

    def relu(x: Tensor, weight: Tensor, bias: Any, *places: Any) -> Tensor:
        return shaped(x, weight, *places)

    def add_relu(x: Tensor, weight: Tensor, other: Tensor, alpha: Any, bias: Any, *places: Any) -> Tensor:
        return shaped(x, weight, *places)

    library.impl("cudnn_convolution_relu", relu, "Meta")
    library.impl("cudnn_convolution_add_relu", add_relu, "Meta")


def _describe_norms() -> None:
    """Shapes of the norms that eager training calls; compilers are not shown them."""
    if not dispatch.native.here or torch._C._dispatch_has_kernel_for_dispatch_key(_NORMS[0], "Meta"):
        return

    def norm(x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(mean), torch.empty_like(var)

    def shared(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[list[Tensor], Tensor, Tensor]:
        return [torch.empty_like(x) for _ in weight], torch.empty_like(weight[0]), torch.empty_like(weight[0])

    def backward(grads: Any, extra: Any, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

    fakes: tuple[Callable[..., Any], ...] = norm, shared, backward
    for name, fake in zip(_NORMS, fakes, strict=True):
        torch.library.register_fake(name, fake)


_NORMS = tuple(
    f"pyranet_fast::{name}"
    for name in ("batch_norm_relu_update_", "shared_batch_norm_relu", "shared_batch_norm_relu_backward")
)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, tensors made on "cuda" have shapes alone, and the network takes them for those of a GPU.

    The native CUDA kernels and cuDNN count as loaded and autocast as possible, whatever is built and found here.
    """
    _describe_cudnn()
    _describe_norms()
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        if dispatch.native.here:
            stack.enter_context(mock.patch.object(dispatch, "native_cuda", dispatch.Availability()))
        no = mock.Mock(return_value=False)
        stack.enter_context(mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", no))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", no))
        stack.enter_context(mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_: True))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "is_available", mock.Mock(return_value=True)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _moved(x: Tensor) -> Tensor:
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device="cuda", memory_format=layout)


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """A module without parameters, made of CPU tensors, moved as ``.to("cuda")`` would; its values are gone."""
    return module._apply(_moved)


def fake_network(work: Work, *, gradient: bool = False) -> PyraNet:
    """A PyraNet on "cuda", its filters channels_last."""
    with torch.no_grad():
        network = PyraNet(work.stacks, **work.options)
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(_moved(parameter), gradient)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else _moved(buffer)
    return network


def counted(work: Callable[[], Any]) -> Count:
    """What a piece of work launches."""
    with Counting() as counting:
        work()
    return counting.count


# --- backward without autograd's engine -------------------------------------------------------------------------------


def backward(loss: Tensor) -> None:
    """Adds up gradients in the leaves, as ``loss.backward()``, whose engine asks for a device with threads of its own.

    Nodes run in an order in which each has all its gradients; those of several readers are added, each by a kernel.
    """
    root: Any = loss.grad_fn
    readers: Counter[Any] = Counter()
    seen, queue = {root}, deque([root])
    while queue:
        for node, _ in queue.popleft().next_functions:
            if node is not None:
                readers[node] += 1
                if node not in seen:
                    seen.add(node)
                    queue.append(node)
    grads: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    ready = [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = grads.pop(node, [None] * len(node._input_metadata))
            for (reader, place), grad in _after(node, given):
                of = grads.setdefault(reader, [None] * max(len(reader._input_metadata), place + 1))
                if grad is not None:
                    before = of[place]
                    of[place] = grad if before is None else before + grad
                readers[reader] -= 1
                if not readers[reader]:
                    ready.append(reader)


def _after(node: Any, grads: Sequence[Tensor | None]) -> list[tuple[tuple[Any, int], Tensor | None]]:
    """The nodes after one, and what it hands them; nothing came to it: nothing."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    if all(g is None for g in grads):
        return [(edge, None) for edge in edges]
    if node.name() == "torch::autograd::AccumulateGrad":
        leaf, (grad,) = node.variable, grads
        if leaf.grad is None and grad is not None and grad.stride() == leaf.stride():
            leaf.grad = grad  # as the engine does, which holds the only reference to it
            return []
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        made = node(*grads)
        made = made if isinstance(made, tuple) else (made,)
        return [(edge, made[i]) for i, edge in enumerate(node.next_functions) if edge[0] is not None]
    made = node.apply(*grads)  # one for each argument, tensor or not
    made = made if isinstance(made, tuple) else (made,)
    wanted = [g for g, needed in zip(made, node.needs_input_grad, strict=True) if needed]
    return list(zip(edges, wanted, strict=True))


# --- forms ------------------------------------------------------------------------------------------------------------


Form = Callable[[Work, Sequence[int]], list[Count]]


def unfolded(work: Work, batches: Sequence[int]) -> list[Count]:
    """A PyraNet in eval mode under autocast."""
    with fake_cuda(), torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        network = fake_network(work).eval()
        return [counted(partial(network, work.image(batch))) for batch in batches]


def folded(work: Work, batches: Sequence[int]) -> list[Count]:
    """What `optimize_for_inference` makes."""
    network = optimize_for_inference(PyraNet(work.stacks, **work.options).eval(), "bf16")
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(network)
        return [counted(partial(network, work.image(batch))) for batch in batches]


@dataclass
class _Task:
    """What `training.step.Step` asks of a task: the sum over the stacks of the loss, under autocast."""

    network: PyraNet
    device: torch.device = field(default_factory=lambda: torch.device("cuda"))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        with torch.autocast("cuda", torch.bfloat16):
            maps = self.network(batch["image"])
        losses = [ops.heatmap_loss(m, batch["joints"], batch["weight"]) for m in maps]
        total = torch.stack(losses).sum()
        return total, total, len(batch["image"])


def training(work: Work, batches: Sequence[int]) -> list[Count]:
    """A step as `train` makes it: forward under autocast, loss, backward, RMSprop as in a CUDA graph."""
    if not torch.version.cuda:
        raise UserError(
            f"the backward of a CUDA tensor needs a CUDA build of torch, but no GPU; this one is {torch.__version__}: "
            "another Python (make gpu-model GPU_PYTHON=...), or --modes inference"
        )
    with fake_cuda(), mock.patch.object(Tensor, "backward", backward):
        network = fake_network(work, gradient=True).train()
        optimizer = torch.optim.RMSprop(network.parameters(), alpha=0.99, foreach=True, capturable=True)
        optimizer.param_groups[0]["lr"] = torch.empty((), device="cuda")
        biases = absorb_biases_(network)
        step, counts = Step(_Task(network), optimizer, casts=CastWeights(network), without_bias=biases), []
        for size in batches:
            joints = torch.empty(size, network.config["joints"], 2, device="cuda")
            weight = torch.empty(joints.shape[:2], device="cuda")
            batch = {"image": work.image(size), "joints": joints, "weight": weight}
            step.run(batch, 1e-3)  # the first makes the optimizer's state
            counts.append(counted(partial(step.run, batch, 1e-3)))
        return counts


FORMS: dict[str, dict[str, Form]] = {
    "inference": {"unfolded, autocast": unfolded, "folded": folded},
    "training": {"step, autocast": training},
}

MEASURED: dict[str, Form] = {"inference": folded, "training": training}


# --- table ------------------------------------------------------------------------------------------------------------


def row_of(form: str, counts: Sequence[Count], batches: Sequence[int], rates: Rates = RATES) -> list[str]:
    """A line of the table; kernels and bytes are those of the largest batch."""
    last = counts[-1]
    sizes = last.bytes
    total = sum(sizes.values())
    shares = [sizes.get(torch.bfloat16, 0), sizes.get(torch.float32, 0)]
    shares.append(total - sum(shares))
    speeds = [f"{batch / count.seconds(rates):,.0f}" for batch, count in zip(batches, counts, strict=True)]
    by_dtype = " / ".join(f"{share / 1e9:.1f}" for share in shares)
    return [form, f"{last.operators:,}", f"{len(last.kernels):,}", f"{total / 1e9:.1f}", by_dtype, " / ".join(speeds)]


def table(mode: str, rows: Sequence[Sequence[str]], batches: Sequence[int]) -> str:
    """Rows of one mode as Markdown."""
    speed = "images/s " + " / ".join(f"b{batch}" for batch in batches)
    head = [mode, "ops", "kernels", f"GB b{batches[-1]}", "bf16 / fp32 / other", speed]
    return "\n".join(markdown_table(head, rows))


MEASURED_FORM = "ours graphed bf16"
"""Of bench/results/<gpu>.json: what the model is of, kernels one after the other without Python between them."""


def comparison(content: Mapping[str, Any], modes: Sequence[str]) -> list[str]:
    """What a file of results measured, and what is predicted for the same cases, as Markdown.

    Raises:
        UserError: it has no row of these modes in the form that is predicted.
    """
    body = []
    for row in content["rows"]:
        if row["part"] != "model" or row["form"] != MEASURED_FORM or row["mode"] not in modes or "ms" not in row:
            continue
        names = ("features", "depth", "levels", "base_width", "variant")
        work = Work(row["stacks"], row["side"], {name: row[name] for name in names if name in row})
        (count,) = MEASURED[row["mode"]](work, [row["batch"]])
        predicted = 1e3 * count.seconds()
        case = f"{row['mode']}, {row['stacks']} stacks, batch {row['batch']}"
        body.append([case, f"{predicted:.2f}", f"{row['ms']:.2f}", f"{row['ms'] / predicted:.2f}"])
    if not body:
        raise UserError(f"there is no row of {' or '.join(modes)} in the form {MEASURED_FORM!r}; make gpu measures it")
    return markdown_table([content["machine"], "predicted, ms", "measured, ms", "measured / predicted"], body)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(FORMS), choices=list(FORMS), help="(default: both)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64], help="(default: 1 16 64)")
    parser.add_argument("--stacks", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--input-size", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--operators", type=int, metavar="N", help="also list the N slowest operators of each form")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="compare with the measurements of bench/results/<gpu>.json"
    )
    arguments = parser.parse_args(argv)
    runner.check_positive(parser, arguments)
    if arguments.results:
        content = runner.read_results(arguments.results)
        print("\n".join(comparison(content, arguments.modes)))
        print(f"\nreached: {content['parts'].get('model', {}).get('ceilings', 'not in the file')}; assumed: {RATES}")
        return 0
    work, batches = Work(arguments.stacks, arguments.input_size), sorted(arguments.batches)
    print(
        f"{work.stacks} stacks, {work.side} px, bfloat16, torch {torch.__version__}; a model's prediction that no GPU "
        f"has confirmed: {RATES}"
    )
    for mode in arguments.modes:
        rows, details = [], []
        for name, form in FORMS[mode].items():
            counts = form(work, batches)
            rows.append(row_of(name, counts, batches))
            for operator, kernels, size, seconds in counts[-1].by_operator()[: arguments.operators or 0]:
                details.append([name, operator, f"{kernels:,}", f"{size / 1e9:.2f}", f"{1e3 * seconds:.2f}"])
            if counts[-1].host:
                print(f"{name}: reads or copies on the host: {', '.join(sorted(set(counts[-1].host)))}")
        print(f"\n{table(mode, rows, batches)}", flush=True)
        if details:
            head = [f"{mode}, batch {batches[-1]}", "operator", "kernels", "GB", "ms"]
            print("\n" + "\n".join(markdown_table(head, details)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
