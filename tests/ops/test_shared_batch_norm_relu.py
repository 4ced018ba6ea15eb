"""Norms that share statistics and passes against the same norms one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.nn import BatchNormReLU, PyramidResidualModule, ResidualUnit
from pyranet_fast.nn.layers import norms_of
from pyranet_fast.ops import dispatch
from pyranet_fast.ops.cpu import batch_norm_relu as shared
from pyranet_fast.ops.cpu import policy

pytestmark = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")

SHAPES = [(2, 7, 9, 11), (3, 28, 16, 16), (1, 64, 33, 65), (2, 1, 5, 5)]
ROUNDING = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def norms(count: int, channels: int, dtype: torch.dtype) -> list[BatchNormReLU]:
    made = []
    for _ in range(count):
        norm = BatchNormReLU(channels).to(dtype)
        nn.init.uniform_(norm.weight, -1, 2)
        nn.init.normal_(norm.bias)
        made.append(norm)
    return made


def run(x: Tensor, own: list[BatchNormReLU], grads: list[Tensor | None], extra: Tensor | None) -> list[Tensor]:
    x = x.detach().requires_grad_()
    kept, outputs = norms_of(x, own)
    pairs = [(y, g) for y, g in zip((kept * 1, *outputs), (extra, *grads), strict=True) if g is not None]
    leaves = [x, *(p for norm in own for p in norm.parameters())]
    found = torch.autograd.grad([y for y, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)
    return [*outputs, *(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)),
            *(b for norm in own for b in (norm.running_mean, norm.running_var))]  # type: ignore[list-item]  # fmt: skip


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_norms_one_by_one_in_double(shape, dtype, count, skip, monkeypatch):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = (torch.randn(shape) * 3 + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    grads: list[Tensor | None] = [torch.randn(shape).to(dtype) for _ in range(count)]
    if count == 3:
        grads[1] = None  # an output that nobody reads
    extra = torch.randn(shape).to(dtype) if skip else None
    own = norms(count, shape[1], wide)
    twins = [copy.deepcopy(norm).double() for norm in own]
    calls = []
    real = shared.shared_batch_norm_relu
    monkeypatch.setattr(shared, "shared_batch_norm_relu", lambda *a: calls.append(1) or real(*a))
    got = run(x, own, grads, extra)
    assert calls == [1] or shape[1] == 1  # one channel: both layouts at once, which counts as contiguous
    with ops.backend("reference"):
        exact = run(x.double(), twins, [None if g is None else g.double() for g in grads],
                    None if extra is None else extra.double())  # fmt: skip
    for number, (a, b) in enumerate(zip(got, exact, strict=True)):
        of_map = a.shape == x.shape
        tolerance = (2 * ROUNDING[dtype]) if of_map else (1e-10 if dtype == torch.float64 else 4e-5)
        if of_map:  # where x * scale + shift is a rounding away from 0, the ReLU may decide otherwise
            wrong = (a - b).abs() > tolerance * (b.abs() + max(b.abs().max().item(), 1e-3))
            assert wrong.double().mean() < 1e-4, f"result {number}"
        else:
            close = {torch.float64: 1e-10, torch.float32: 1e-3}.get(dtype, 2e-2)  # such a pixel counts whole
            torch.testing.assert_close(a.double(), b, rtol=close, atol=close * max(b.abs().max().item(), 1e-3))
    assert all(norm.num_batches_tracked.item() == 1 for norm in own)


def test_any_number_of_threads_gives_the_same_bits():
    torch.manual_seed(0)
    x = torch.randn(5, 20, 40, 33).contiguous(memory_format=torch.channels_last)
    grads: list[Tensor | None] = [torch.randn_like(x) for _ in range(2)]
    own, before, results = norms(2, 20, torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(run(x, [copy.deepcopy(n) for n in own], grads, x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("unit", [ResidualUnit, PyramidResidualModule])
@pytest.mark.parametrize("project", [False, True])
def test_units_train_as_with_separate_norms(unit, project):
    torch.manual_seed(0)
    own = unit(24, 24, project_skip=project).double().to(memory_format=torch.channels_last)
    twin = copy.deepcopy(own)
    x = torch.randn(2, 24, 16, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    results = []
    for module, backend in ((own, "native"), (twin, "reference")):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        with ops.backend(backend):
            y = module(leaf)
            y.square().sum().backward()
        results.append([y, leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_where_it_serves():
    x = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    (norm,) = norms(1, 6, torch.float32)
    vectors = (norm.weight, norm.bias)
    assert policy.supports_shared_batch_norm_relu(x, *vectors) and not policy.supports_shared_batch_norm_relu(
        x.contiguous(), *vectors
    )
    assert not policy.supports_shared_batch_norm_relu(x, None, None) and not policy.supports_shared_batch_norm_relu(
        x.double(), *vectors
    )
    assert not policy.supports_shared_batch_norm_relu(x[:0], *vectors)
    with ops.backend("reference"):
        assert not policy.supports_shared_batch_norm_relu(x, *vectors)
    norm.eval()
    kept, (y,) = norms_of(x, [norm])
    assert kept is x and torch.equal(y, norm(x))
    kept, (same,) = norms_of(x, [nn.Identity()])
    assert kept is x and same is x
    norm.train()


def test_twice_differentiated():
    x = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    both = norms(2, 6, torch.float32)
    leaves = [x, *(p for norm in both for p in norm.parameters())]

    def second() -> list[Tensor]:
        kept, (first, other) = norms_of(x, both)
        loss = (first * kept).square().sum() + other.sin().sum()
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        return [*gradients, *torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)]

    ours = second()
    with ops.backend("reference"):
        theirs = second()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_units_compile_without_graph_breaks():
    torch.manual_seed(0)
    unit = ResidualUnit(8, 8).train()
    twin = copy.deepcopy(unit)
    x = torch.randn(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.compile(unit, fullgraph=True)(x), twin(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(unit.reduce.bn.running_var, twin.reduce.bn.running_var)


@pytest.mark.parametrize("device, backend, most", [("cpu", "native", 5), ("cuda", "native", 3), ("cuda", "triton", 0)])
def test_which_norms_share_passes(device: str, backend: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, which is pretended here, native kernels take three norms at most."""

    where = torch.device(device)

    class OnDevice(Tensor):
        device = where  # type: ignore[assignment]

    monkeypatch.setattr(dispatch, "choose", lambda x: backend)
    x = torch.zeros(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).as_subclass(OnDevice)
    vectors = [torch.ones(4)] * 4
    taken = [policy.supports_shared_batch_norm_relu(x, *vectors * count) for count in range(1, 6)]
    assert taken == [count <= most for count in range(1, 6)]
    assert policy.supports_batch_norm_relu(x, vectors, torch.tensor(0)) is (backend == "native")
