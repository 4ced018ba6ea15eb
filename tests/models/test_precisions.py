"""Networks in float64, bfloat16 and float16 as a whole: they run, fold, or say in a sentence what is expected."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.inference.heatmaps import score_maps
from pyranet_fast.keypoints import Skeleton, resolve_skeleton
from pyranet_fast.models import VARIANTS, PyraNet, classifier, complexity, optimize_for_inference
from pyranet_fast.nn.init import INITIALIZERS, initialize_

NETWORKS = (*VARIANTS, "wrn-10-1-pyramid", "resnext-11-2x4d-pyramid")
CLOSE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
BACKENDS = [name for name in ("reference", "native") if name in ops.available_backends()]


def network(name: str, joints: int = 3) -> nn.Module:
    torch.manual_seed(0)
    if name in VARIANTS:
        return PyraNet(2, joints, features=36, depth=1, levels=3, variant=name)
    return classifier(name, classes=4)


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    made = model(image)
    return [made] if isinstance(made, Tensor) else list(made)


def difference(got: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(got, expected, strict=True)
    return max(((a.detach().double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_and_backward(name: str, dtype: torch.dtype, backend: str) -> None:
    exact, image = network(name).eval(), torch.randn(2, 3, 32, 32)
    layout = torch.contiguous_format if name in ("A", "plain") else torch.channels_last
    model = copy.deepcopy(exact).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    own = image.to(dtype).contiguous(memory_format=layout)
    with ops.backend(backend):
        for training in (False, True):
            made = outputs(model.train(training), own)
            assert all(y.dtype == dtype for y in made)
            if not training:  # statistics of few values, rounded to bfloat16, are no measure
                with torch.no_grad():
                    assert difference(made, outputs(exact, image)) < CLOSE[dtype]
            model.zero_grad()
            torch.stack([y.float().square().mean() for y in made]).sum().backward()
            for parameter in model.parameters():
                assert parameter.grad is not None and parameter.grad.dtype == dtype and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_made_under_a_default_of_float64(name: str, float64_by_default: None) -> None:
    model, image = network(name), torch.randn(2, 3, 32, 32)
    assert next(model.parameters()).dtype == torch.float64
    for training in (True, False):
        made = outputs(model.train(training), image)
        assert all(y.dtype == torch.float64 for y in made)
        torch.stack([y.square().mean() for y in made]).sum().backward()
    for way in INITIALIZERS:
        initialize_(model, way, image)
    assert complexity(model, (1, 3, 32, 32)).params == sum(p.numel() for p in model.parameters())
    if isinstance(model, PyraNet):
        with torch.no_grad():
            assert difference(optimize_for_inference(model)(image), model(image)) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_a_network_of_any_precision_and_changing_it_afterwards(variant: str, backend: str) -> None:
    model, image = network(variant).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad(), ops.backend(backend):
        exact = outputs(model, image)
        for dtype, close in CLOSE.items():
            folded = optimize_for_inference(copy.deepcopy(model).to(dtype))  # type: ignore[type-var]
            assert folded.precision == "fp32" and difference(folded(image), exact) < close
            names = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
            changed = optimize_for_inference(model).to(dtype)  # type: ignore[arg-type]
            assert changed.precision == names[dtype]
            for given in (image, image.to(dtype), image.double()):
                made = changed(given)
                assert difference(made, exact) < close and all(y.dtype == torch.float32 for y in made)


def test_half_afterwards_is_fp16_from_the_start() -> None:
    model, image = network("B*").eval(), torch.randn(1, 3, 32, 32)
    assert isinstance(model, PyraNet)
    for after, before in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        maps = optimize_for_inference(model).to(after)(image)
        assert all(torch.equal(a, b) for a, b in zip(maps, optimize_for_inference(model, before)(image), strict=True))


@pytest.mark.parametrize("name", ["B*", "wrn-10-1-pyramid"])
def test_an_image_of_another_precision_is_named(name: str) -> None:
    model = network(name).double()
    sentence = r"image must have the dtype of the network's weights, torch.float64, got torch.float32"
    with pytest.raises(TypeError, match=sentence):
        model(torch.randn(2, 3, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        model.float()(torch.randn(2, 3, 32, 32, dtype=torch.bfloat16))


def test_predictions_of_a_network_in_float64() -> None:
    skeleton = resolve_skeleton("lsp")
    assert isinstance(skeleton, Skeleton)
    model = network("B*", len(skeleton))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = score_maps(model, images, skeleton)
    got = score_maps(copy.deepcopy(model).double(), images, skeleton)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
