"""optimize_for_inference: the same maps from every variant, in every precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet, optimize_for_inference, wide_resnet
from pyranet_fast.nn import BatchNormReLU

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")


def trained(**options: object) -> PyraNet:
    """A network whose norms are as far from the identity as after training, negative scales included."""
    torch.manual_seed(0)
    model = PyraNet(**{"stacks": 2, "joints": 5, "features": 36, "depth": 2, "levels": 3, **options})
    for module in model.modules():
        if isinstance(module, BatchNormReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.3, 2)
    return model.eval()


def difference(maps: list[Tensor], exact: list[Tensor]) -> float:
    assert [m.shape for m in maps] == [e.shape for e in exact]
    return max(((m - e).norm() / e.norm()).item() for m, e in zip(maps, exact, strict=True))


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant, control, backend):
    model = trained(variant=variant, variance_control=control)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        exact = model.double()(image.double())
        model.float()
    with ops.backend(backend):
        fast = optimize_for_inference(model)
        assert difference(fast(image), exact) < 2e-6
        half = optimize_for_inference(model, "bf16")(image)
    assert difference(half, exact) < 0.03 and all(m.dtype == torch.float32 for m in half)


@native
def test_wide_enough_for_winograd_and_images_of_any_size():
    model = trained(features=128, depth=1, stacks=1)
    fast = optimize_for_inference(model)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 64), (1, 3, 128, 128), (0, 3, 64, 64)):
        image = torch.randn(shape)
        with torch.no_grad(), ops.backend("reference"):
            exact = model(image)
        maps = fast(image)
        assert maps[0].shape == exact[0].shape and (not shape[0] or difference(maps, exact) < 2e-5)
        assert not maps[0].requires_grad


def test_the_model_is_left_alone_and_the_copy_is_its_own():
    model = trained(stacks=1)
    model.train()
    before = copy.deepcopy(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    fast = optimize_for_inference(model)
    first = fast(image)[0]
    assert model.training and not fast.training and fast.config == model.config
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(fast(image)[0], first)
    assert torch.equal(copy.deepcopy(fast)(image)[0], first)
    wide = copy.deepcopy(fast).double()  # .to() reaches weights and folded norms; maps stay in the precision asked for
    assert next(wide.buffers()).dtype == torch.float64


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_exports_as_pytorch_s_own_operators_and_ours(variant, precision):
    model = optimize_for_inference(trained(variant=variant, stacks=1, depth=1), precision)
    image = torch.randn(2, 3, 32, 48)
    for warm in (False, True):  # packed weights are no part of a program
        batch = torch.export.Dim("batch")
        with torch.no_grad():
            program = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
        other = torch.randn(3, 3, 32, 48)
        assert difference(program(other), model(other)) < {"fp32": 1e-5, "bf16": 0.03}[precision], warm
        with torch.inference_mode():
            assert difference(program(image), model(image)) < {"fp32": 1e-5, "bf16": 0.03}[precision]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="precision must be one of 'fp32', 'bf16', 'fp16', got 'int8'"):
        optimize_for_inference(trained(stacks=1), "int8")
    with pytest.raises(TypeError, match="model must be a PyraNet, got WideResNet"):
        optimize_for_inference(wide_resnet(10, 1))
    with pytest.raises(ValueError, match=r"image must be multiples of .*, got 60x64"):
        optimize_for_inference(trained(stacks=1))(torch.randn(1, 3, 60, 64))
