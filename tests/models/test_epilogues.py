"""The folded network as it runs on CUDA, on the CPU: cuDNN's fused convolutions are emulated, matrix products real."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet, optimize_for_inference
from pyranet_fast.models.optimized import epilogues
from pyranet_fast.ops.cpu import policy
from tests.models.test_optimize_for_inference import difference, native, trained


class FakeCudnn:
    """PyTorch's two fused convolutions by their definition, with the checks that they make; counts its calls."""

    def __init__(self) -> None:
        self.calls = {"relu": 0, "add_relu": 0}

    def relu(self, x: Tensor, weight: Tensor, bias: Tensor | None, *places: object) -> Tensor:
        self.calls["relu"] += 1
        return self._run(x, weight, None, 0.0, bias, *places)

    def add_relu(self, x: Tensor, weight: Tensor, other: Tensor, alpha: float, bias: Tensor, *places: object) -> Tensor:
        self.calls["add_relu"] += 1
        return self._run(x, weight, other, alpha, bias, *places)

    def _run(self, x, weight, other, alpha, bias, stride, padding, dilation, groups):
        assert x.dtype == weight.dtype and x.dtype != torch.float64
        assert bias is None or (bias.dtype == x.dtype and bias.shape == weight.shape[:1])
        wide = [t if t is None else t.float() for t in (x, weight, bias)]
        y = F.conv2d(*wide, stride, padding, dilation, groups)
        if other is not None:
            assert other.shape == y.shape and other.dtype == x.dtype
            y = y + alpha * other.float()
        return y.relu().to(x.dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> FakeCudnn:
    """Folded networks run as on CUDA."""
    fake = FakeCudnn()
    monkeypatch.setattr(epilogues, "applies", lambda x: True)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", fake.relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", fake.add_relu)
    return fake


def with_biases(**options: object) -> PyraNet:
    """A network all of whose biases would be seen if they were lost, or added twice."""
    model = trained(**options)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, 0, 0.3)
    return model


def exact_maps(model: PyraNet, image: Tensor) -> list[Tensor]:
    with torch.no_grad(), ops.backend("reference"):
        return copy.deepcopy(model).double()(image.double())


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant, control, backend, cudnn):
    model = with_biases(variant=variant, variance_control=control, stacks=3)
    image = torch.randn(2, 3, 64, 96)
    exact = exact_maps(model, image)
    with ops.backend(backend):
        fast = optimize_for_inference(model)
        assert difference(fast(image), exact) < 3e-6
        assert cudnn.calls["relu"] > 0 and (variant in ("plain", "wide")) == (cudnn.calls["add_relu"] == 0)
        half = optimize_for_inference(model, "bf16")(image)
    assert difference(half, exact) < 0.03 and all(m.dtype == torch.float32 for m in half)


@pytest.mark.parametrize("variant", VARIANTS)
def test_matrix_products_are_the_same_convolutions(variant, cudnn, monkeypatch):
    model = with_biases(variant=variant, depth=1, stacks=2)
    image = torch.randn(2, 3, 32, 64)
    fast = optimize_for_inference(model)
    fast(image)
    convolutions = sum(cudnn.calls.values())
    monkeypatch.setattr(policy, "LOWER_PRECISIONS", (torch.float32,))
    again = image.clone()
    maps = [fast(again) for _ in range(2)]  # what is overwritten is the network's own
    assert torch.equal(image, again)
    for found in maps:
        assert difference(found, exact_maps(model, image)) < 3e-6
    assert (sum(cudnn.calls.values()) - convolutions) / 2 < convolutions


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 3, 16, 16), (3, 3, 16, 48)])
def test_no_image_and_the_smallest(shape, cudnn):
    model, image = with_biases(), torch.randn(shape)
    maps = optimize_for_inference(model, "bf16")(image)
    assert [m.shape for m in maps] == [(shape[0], 5, shape[2] // 4, shape[3] // 4)] * 2
    assert not len(image) or difference(maps, exact_maps(model, image)) < 0.03


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_without_fused_convolutions(precision, cudnn, monkeypatch):
    refusals = []

    def refuse(*_: object) -> Tensor:
        refusals.append(1)
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    model, image = with_biases(), torch.randn(2, 3, 64, 64)
    expected = optimize_for_inference(model, precision)(image)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", refuse)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", refuse)
    fast = optimize_for_inference(model, precision)
    assert difference(fast(image), expected) < {"fp32": 2e-6, "bf16": 0.02}[precision]
    asked = len(refusals)
    assert asked > 0 and difference(fast(image), expected) < 0.02 and len(refusals) == asked  # each layer asks once
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert difference(optimize_for_inference(model, precision)(image), expected) < 0.02
    assert len(refusals) == asked


def test_memory_that_is_used_up_is_no_refusal(cudnn, monkeypatch):
    def out_of_memory(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        optimize_for_inference(with_biases(), "bf16")(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, copy.deepcopy])
def test_changed_afterwards(change, cudnn):
    model, image = with_biases(), torch.randn(1, 3, 64, 64)
    fast = change(optimize_for_inference(model))
    tolerance = 2e-6 if change in (nn.Module.double, copy.deepcopy) else 0.03
    assert difference(fast(image), exact_maps(model, image)) < tolerance


def test_a_graph_has_pytorch_s_own_operators(cudnn):
    model, image = with_biases(depth=1, stacks=2), torch.randn(2, 3, 32, 48)
    fast = optimize_for_inference(model, "bf16")
    expected = fast(image)
    with torch.no_grad():
        program = torch.export.export(fast, (image,))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("conv2d" in name for name in names) and not any("cudnn" in name or "addmm" in name for name in names)
    assert difference(program.module()(image), expected) < 0.03
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    assert difference(compiled(image), expected) < 0.03
    mapped = torch.func.vmap(lambda one: fast(one[None])[-1][0])(image)
    assert difference([mapped], expected[-1:]) < 0.03


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_to_half_the_size_is_max_pooling(dtype, backend):
    torch.manual_seed(0)
    half: Callable[..., list[Tensor]] = ops.fractional_max_pool_pyramid
    centers = torch.full((1, 1, 1, 2), 0.5)
    with ops.backend(backend):
        for h in (*range(2, 34, 2), 64, 128, 130):
            x = torch.randn(1, 3, h, 256 - h).to(dtype)
            x[0, 0, 0, 0], x[0, 1, -1, -1] = float("nan"), float("-inf")
            found = half(x, [(h // 2, (256 - h) // 2)], centers)[0]
            torch.testing.assert_close(found, F.max_pool2d(x, 2), rtol=0, atol=0, equal_nan=True)
