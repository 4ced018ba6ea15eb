"""Hooks, parametrizations and wrappers on any part of a network: all are run, and the values stay."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet, classifier, optimize_for_inference
from pyranet_fast.nn import BatchNormReLU, PooledPyramid, PyramidBranch, PyramidResidualModule, ResidualUnit

CLASSIFIERS = ("wrn-10-1", "wrn-10-1-pyramid", "resnext-11-2x4d-pyramid")
BACKENDS = [name for name in ("reference", "native") if name in ops.available_backends()]
KINDS = ("forward_pre", "forward", "full_backward_pre", "full_backward")


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in VARIANTS:
        return PyraNet(2, 3, features=24, depth=2, levels=3, variant=name)
    return classifier(name, classes=4)


def unit(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "branch":
        return PyramidBranch(8, 4, 8, levels=3)
    kind, _, how = name.partition(" ")
    options: dict[str, Any] = {"project_skip": how == "projected", "preactivate": how != "bare"}
    if kind == "plain":
        return ResidualUnit(8, 8, **options)
    return PyramidResidualModule(8, 8, variant=kind, levels=3, base_width=2, **options)


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, all gradients, and the statistics after one step; the pooling windows are the same each time."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    outputs = model(x)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    model.zero_grad()
    torch.stack([y.square().sum() for y in outputs]).sum().backward()
    return [*outputs, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]  # type: ignore[list-item]


def picture(model: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    channels, side = (8, 16) if isinstance(model, ResidualUnit | PyramidResidualModule | PyramidBranch) else (3, 32)
    return torch.randn(2, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)


def called(model: nn.Module) -> dict[str, int]:
    """How often each module is called in a forward pass: lists never are, the filters of all levels once a level."""
    expected = {name: 1 for name, module in model.named_modules() if not isinstance(module, nn.ModuleList)}
    for name, module in model.named_modules():
        if isinstance(module, PooledPyramid) and len(module.filters) == 1:
            expected[f"{name}.filters.0"] = module.levels
    return expected


class Recorder:
    """Hooks of every kind on some modules: how often each ran, and the outputs they were shown."""

    def __init__(self) -> None:
        self.ran: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.kept: list[tuple[str, Tensor, Tensor]] = []
        self.handles: list[Any] = []

    def attach(self, name: str, module: nn.Module) -> None:
        for kind in KINDS:
            register = getattr(module, f"register_{kind}_hook")
            self.handles.append(register(self._hook(kind, name)))

    def _hook(self, kind: str, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, *values: Any) -> None:
            self.ran[kind][name] += 1
            if kind == "forward":
                outputs = values[1] if isinstance(values[1], tuple | list) else [values[1]]
                self.kept += [(name, y, y.detach().clone()) for y in outputs]

        return hook

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.double().abs().max().item()))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.filterwarnings("ignore:For backward hooks to be called, module output should be")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*VARIANTS, *CLASSIFIERS])
def test_every_hook_on_every_module_runs_and_values_stay(name: str, training: bool) -> None:
    model = network(name).double().to(memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
    hooked, x = copy.deepcopy(model), picture(model)
    recorder = Recorder()
    for path, module in hooked.named_modules():
        recorder.attach(path, module)
    expected = run(model, x)
    assert_close(run(hooked, x), expected, 1e-9)
    for kind in KINDS:
        counts = called(model)
        if isinstance(model, PyraNet) and "backward" in kind:
            del counts[""]  # PyTorch calls no backward hooks of a module that returns a list, and warns
        assert dict(recorder.ran[kind]) == counts, kind
    changed = {path for path, kept, before in recorder.kept if not torch.equal(kept, before)}
    assert changed == set()  # nothing is added into what a hook has kept
    recorder.detach()
    assert_close(run(hooked.train(False), x), run(model.train(False), x), 1e-9)


UNITS = ("branch", "plain", "plain projected", "A", "B bare", "B*", "B* projected", "C projected", "D", "D bare")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", UNITS)
def test_a_single_hook_is_noticed_wherever_it_is(name: str, training: bool) -> None:
    model = unit(name).double().to(memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
    x, counts = picture(model), called(model)
    expected = run(copy.deepcopy(model), x)
    for path in counts:
        hooked, recorder = copy.deepcopy(model), Recorder()
        recorder.attach(path, hooked.get_submodule(path))
        assert_close(run(hooked, x), expected, 1e-9)
        assert {kind: dict(ran) for kind, ran in recorder.ran.items()} == {k: {path: counts[path]} for k in KINDS}
        assert all(torch.equal(kept, before) for _, kept, before in recorder.kept), path


@pytest.mark.parametrize("path", ["reduce", "reduce.bn", "pyramid", "pyramid.preactivation", "skip", "skip.bn"])
def test_what_a_hook_returns_is_what_counts(path: str) -> None:
    model = unit("B* projected").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    part = model.get_submodule(path)
    part.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    own = list(part.parameters())
    model(picture(model, torch.float32))[0].sum().backward()
    assert own and all(p.grad is None for p in own)


@pytest.mark.filterwarnings("ignore:For backward hooks to be called, module output should be")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", ["B*", "D", "wrn-10-1-pyramid"])
def test_global_hooks(name: str) -> None:
    model = network(name).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = picture(model)
    expected = run(copy.deepcopy(model), x)
    names = {module: path for path, module in model.named_modules()}
    forward: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    handles = [
        torch_module.register_module_forward_hook(lambda m, *_: forward.update([names[m]])),
        torch_module.register_module_full_backward_hook(lambda m, *_: backward.update([names[m]])),
    ]
    try:
        assert_close(run(model, x), expected, 1e-9)
    finally:
        for handle in handles:
            handle.remove()
    counts = called(model)
    assert dict(forward) == counts
    if isinstance(model, PyraNet):
        del counts[""]  # see above
    assert dict(backward) == counts


@contextmanager
def forwards_replaced(model: nn.Module, path: str) -> Iterator[list[str]]:
    """The ``forward`` of one module replaced on the instance, as libraries that move weights about do."""
    seen: list[str] = []
    module = model.get_submodule(path)
    own = module.forward

    def forward(*values: Any) -> Any:
        seen.append(path)
        return own(*values)

    module.forward = forward  # type: ignore[method-assign]
    yield seen


@pytest.mark.parametrize("path", ["reduce", "reduce.bn", "pyramid", "pyramid.preactivation", "pyramid.bn.0", "skip"])
@pytest.mark.parametrize("training", [True, False])
def test_a_forward_of_an_instance_and_a_wrapper_are_called(path: str, training: bool) -> None:
    model = unit("B* projected").double().to(memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
    x = picture(model)
    expected = run(copy.deepcopy(model), x)
    replaced = copy.deepcopy(model)
    with forwards_replaced(replaced, path) as seen:
        assert_close(run(replaced, x), expected, 1e-9)
    assert seen == [path]

    class Doubling(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name: str) -> Any:  # as wrappers do that shard weights
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, *values: Any) -> Tensor:
            y: Tensor = 2 * self.inner(*values)
            return y

    parent, _, child = path.rpartition(".")
    wrapped = copy.deepcopy(model)
    setattr(wrapped.get_submodule(parent), child, Doubling(wrapped.get_submodule(path)))
    hooked = copy.deepcopy(model)
    hooked.get_submodule(path).register_forward_hook(lambda module, inputs, output: 2 * output)
    assert_close(run(wrapped, x), run(hooked, x), 1e-9)


NORMALIZATIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral": parametrizations.spectral_norm,
    "weight": parametrizations.weight_norm,
    "spectral before 2.0": torch.nn.utils.spectral_norm,
    "weight before 2.0": torch.nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("normalize", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
@pytest.mark.parametrize("name", ["B* projected", "A", "D", "plain"])
def test_normalized_weights_of_pointwise_convolutions(name: str, normalize: Callable[[nn.Module], nn.Module]) -> None:
    """Spectral norm moves its vectors each time the weight is read in training: once, as in nn.Conv2d."""
    results = []
    for backend in BACKENDS:
        model = unit(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(2)
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                normalize(module)
        with ops.backend(backend):
            results.append(run(model, picture(model, torch.float32)))
    # The gradient of a bias before a norm is a sum of large values that is 0 but for rounding.
    for got in results[1:]:
        assert_close(got, results[0], 5e-3)


def test_a_parametrized_norm() -> None:
    class Softplus(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.softplus(x)

    model = unit("B* projected").double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in list(model.modules()):
        if isinstance(module, BatchNormReLU):
            parametrize.register_parametrization(module, "weight", Softplus())
    x = picture(model)
    twin = copy.deepcopy(model)
    got = run(model, x)
    with ops.backend("reference"):
        assert_close(got, run(twin, x), 1e-9)


def test_a_network_with_forward_hooks_is_not_folded() -> None:
    model = network("B*").eval()
    assert isinstance(model, PyraNet)
    model.stem.conv.register_full_backward_hook(lambda *_: None)  # nothing has gradients there
    optimize_for_inference(model)
    handle = model.stem.unit1.reduce.register_forward_hook(lambda *_: None)  # type: ignore[union-attr,operator]
    with pytest.raises(ValueError, match=r"model must have no forward hooks.*, got one on stem.unit1.reduce"):
        optimize_for_inference(model)
    handle.remove()
    parametrizations.weight_norm(model.stem.conv)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(optimize_for_inference(model)(image)[0], model(image)[0], rtol=1e-4, atol=1e-4)
