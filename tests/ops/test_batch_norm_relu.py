"""batch_norm_relu against BatchNorm2d and ReLU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyranet_fast import ops
from pyranet_fast.nn import BatchNormReLU

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
BACKENDS = [pytest.param("reference"), pytest.param("native", marks=native)]
SHAPES = [(4, 7, 9, 11), (2, 28, 16, 16), (8, 64, 33, 3), (3, 3, 64, 70), (2, 1, 5, 5), (1, 14, 40, 60)]


def run(x: Tensor, grad: Tensor, backend: str, wide: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    c = x.shape[1]
    weight = torch.randn(c, generator=generator).to(wide).requires_grad_()
    bias = torch.randn(c, generator=generator).to(wide).requires_grad_()
    mean, var, count = torch.zeros(c, dtype=wide), torch.ones(c, dtype=wide), torch.tensor(3)
    x = x.detach().requires_grad_()
    with ops.backend(backend):
        y = ops.batch_norm_relu(x, weight, bias, mean, var, count, momentum=0.3)
    y.backward(grad)
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    assert count.item() == 4
    return [y.detach(), x.grad, weight.grad, bias.grad, mean, var]


@native
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "permuted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_batch_norm_in_double(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) * 3 + 20).to(dtype)
    grad = torch.randn(shape).to(dtype)
    exact = run(x.double(), grad.double(), "reference", torch.float64)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        x = torch.cat([x, x], 3)[..., : shape[3]]
        grad = torch.cat([grad, grad], 1)[:, : shape[1]]
    elif layout == "permuted":
        x = x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        grad = grad.contiguous(memory_format=torch.channels_last)
    got = run(x, grad, "native", torch.float64 if dtype == torch.float64 else torch.float32)
    assert got[0].dtype == got[1].dtype == dtype
    # One rounding of the result for the 16-bit types; sums in float32 for the rest.
    rounding = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    for name, a, b in zip(("y", "grad_x", "grad_weight", "grad_bias", "mean", "var"), got, exact, strict=True):
        tolerance = rounding if name in ("y", "grad_x") else max(1e-10 if dtype == torch.float64 else 2e-5, 0)
        torch.testing.assert_close(
            a.double(), b, rtol=2 * tolerance, atol=2 * tolerance * b.abs().max().item(), msg=name
        )


@native
def test_a_large_mean_does_not_drown_the_variance() -> None:
    x = torch.randn(4, 5, 32, 32) + 3000
    y = ops.batch_norm_relu(x)
    torch.testing.assert_close(
        y, F.relu(F.batch_norm(x.double(), None, None, training=True)).float(), rtol=1e-3, atol=1e-3
    )


@native
@pytest.mark.parametrize("channels_last", [False, True])
def test_two_runs_and_any_number_of_threads_give_the_same_bits(channels_last: bool) -> None:
    x, grad = torch.randn(6, 28, 50, 50), torch.randn(6, 28, 50, 50)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(x, grad, "native", torch.float32)
        torch.set_num_threads(3)
        three = run(x, grad, "native", torch.float32)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, three, strict=True):
        assert torch.equal(a, b)


@native
def test_gradcheck_and_opcheck() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, dtype=torch.float64).add(0.5).requires_grad_()
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *a: ops.batch_norm_relu(*a), (x, weight, bias))
    torch.library.opcheck(torch.ops.pyranet_fast.batch_norm_relu.default, (x, weight, bias, 1e-5))
    last = x.detach().float().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.pyranet_fast.batch_norm_relu.default, (last, None, None, 1e-5))


@native
def test_nan_and_infinity_spread_as_in_batch_norm() -> None:
    x = torch.randn(2, 3, 4, 4)
    x[0, 0, 1, 1] = float("nan")
    x[1, 1, 0, 0] = float("inf")
    for layout in (torch.contiguous_format, torch.channels_last):
        y = ops.batch_norm_relu(x.contiguous(memory_format=layout))
        assert y[:, 0].isnan().all() and y[:, 1].isnan().any()
        assert y[:, 2].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_module_trains_compiled_without_graph_breaks(backend: str) -> None:
    module = BatchNormReLU(6).train()
    twin = BatchNormReLU(6).train()
    with ops.backend(backend):
        compiled = torch.compile(module, fullgraph=True, dynamic=True)
        for n in (2, 3):
            x = torch.randn(n, 6, 8, 8).contiguous(memory_format=torch.channels_last)
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            compiled(a).square().sum().backward()
            twin(b).square().sum().backward()
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.running_mean, twin.running_mean)
    torch.testing.assert_close(module.running_var, twin.running_var)
    assert module.num_batches_tracked.item() == 2


@native
def test_second_derivatives_and_forward_mode() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 3, 4).double(), torch.randn(3).double(), torch.randn(3).double()
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    torch.autograd.gradcheck(ops.batch_norm_relu, inputs, check_forward_ad=True)
    torch.autograd.gradgradcheck(ops.batch_norm_relu, inputs, check_fwd_over_rev=True)
    torch.autograd.gradgradcheck(lambda x: ops.batch_norm_relu(x), inputs[:1])
    _, mean, var = torch.ops.pyranet_fast.batch_norm_relu(*inputs, 1e-5)
    assert not mean.requires_grad and not var.requires_grad


@native
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_call_moves_the_averages_as_two_do(layout: torch.memory_format) -> None:
    """Eager training takes one operator for both; compilers and transforms take the two."""
    x = torch.randn(3, 6, 5, 7).contiguous(memory_format=layout)
    weight, bias = torch.randn(6), torch.randn(6)
    moved = [torch.zeros(6), torch.ones(6), torch.tensor(3)]
    y, mean, var = torch.ops.pyranet_fast.batch_norm_relu_update_(x, weight, bias, *moved, 0.3, 1e-5)
    apart = [torch.zeros(6), torch.ones(6), torch.tensor(3)]
    expected = torch.ops.pyranet_fast.batch_norm_relu(x, weight, bias, 1e-5)
    torch.ops.pyranet_fast.batch_norm_update_(*apart, *expected[1:], 0.3, x.numel() // 6)
    for a, b in zip((y, mean, var, *moved), (*expected, *apart), strict=True):
        assert torch.equal(a, b)
    with torch.profiler.profile() as profile:
        ops.batch_norm_relu(x, weight, bias, *moved)
    called = {event.key for event in profile.key_averages() if event.key.startswith("pyranet_fast::")}
    assert called == {"pyranet_fast::batch_norm_relu_update_"} and moved[2] == 5


@native
def test_second_derivatives_while_averages_move() -> None:
    torch.manual_seed(0)
    inputs = [t.double().requires_grad_() for t in (torch.randn(2, 3, 3, 4), torch.randn(3), torch.randn(3))]

    def training(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        averages = torch.zeros(3).double(), torch.ones(3).double(), torch.tensor(0)
        return ops.batch_norm_relu(x, weight, bias, *averages)

    torch.autograd.gradcheck(training, inputs)
    torch.autograd.gradgradcheck(training, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_goes_with_float32_weights_and_averages(backend: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for wide in (torch.float32, torch.float64):
        weight, mean, var, count = torch.full((3,), 1.5), torch.zeros(3), torch.ones(3), torch.tensor(3)
        vectors = [v.to(wide) for v in (weight, weight / 3, mean, var)]
        vectors[0].requires_grad_()
        with ops.backend(backend):
            y = ops.batch_norm_relu(x, *vectors, count)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, vectors[0]]), *vectors[2:], count])
    assert results[0][0].dtype == torch.float64 and results[0][3].dtype == torch.float32
    for single, double in zip(*results, strict=True):
        torch.testing.assert_close(single.double(), double.double(), rtol=1e-6, atol=1e-6)


def test_bad_arguments_are_named() -> None:
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\), .*, got \(4,\)"):
        ops.batch_norm_relu(x, torch.ones(4))
    with pytest.raises(ValueError, match="more than one value per channel"):
        ops.batch_norm_relu(torch.randn(1, 3, 1, 1))
    with pytest.raises(ValueError, match="must be given together"):
        ops.batch_norm_relu(x, running_mean=torch.zeros(3))
    with pytest.raises(TypeError, match=r"x must have dtype .*, got int64"):
        ops.batch_norm_relu(torch.ones(2, 3, 4, 4, dtype=torch.int64))
