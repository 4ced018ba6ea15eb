"""NaN and infinity in images and weights: every form of a network tells, as PyTorch's own operators do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.models.exportable import exportable
from pyranet_fast.ops import dispatch

SPECIAL = (float("nan"), float("inf"), -float("inf"))
SIDE = 64
VARIANTS = ("plain", "A", "B*", "C", "D")


def network(variant: str) -> PyraNet:
    """Small, with statistics as after some training; 64 px, so that Winograd and oneDNN both run."""
    torch.manual_seed(0)
    model = PyraNet(stacks=2, joints=4, features=72, depth=2, variant=variant, levels=3)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var") and module.running_var is not None:
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(0, 0.2)
                module.bias.normal_(0, 0.2)
    return model.eval()


def forms(model: PyraNet) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {"plain": model, "optimized": optimize_for_inference(model)}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        made["optimized bf16"] = optimize_for_inference(model, "bf16")
    made |= {f"exportable {custom}": exportable(model, SIDE, custom=custom) for custom in (False, True)}
    return made


def last(made: Tensor | list[Tensor]) -> Tensor:
    return made if isinstance(made, Tensor) else made[-1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_finite_in_an_image_reaches_its_maps(variant: str) -> None:
    model = network(variant)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        for name, form in forms(model).items():
            clean = last(form(images))
            assert clean.isfinite().all(), name
            for place, special in zip(((1, 0, 0, 0), (1, 1, 31, 40), (1, 2, 63, 63)), SPECIAL, strict=True):
                changed = images.clone()
                changed[place] = special
                with ops.backend("reference"):
                    expected = model(changed)[-1].isfinite()
                assert not expected[1].any() and expected[0].all()
                made = last(form(changed))
                assert torch.equal(made.isfinite(), expected), (name, place, special)
                # In bfloat16 the other image's convolutions are made directly too, with other roundings.
                close = 2e-2 if "bf16" in name else 1e-4
                torch.testing.assert_close(made[0], clean[0], rtol=close, atol=close * clean[0].abs().max().item())


@pytest.mark.skipif(not dispatch.native.here, reason="the native library is not built")
@pytest.mark.parametrize("training", [False, True])
def test_what_is_not_finite_in_weights_reaches_the_maps(training: bool) -> None:
    """Any tensor of the network, statistics included; the folded forms refuse it."""
    model = network("B*")
    images = torch.randn(2, 3, SIDE, SIDE)
    tensors = [name for name, t in model.state_dict().items() if t.is_floating_point()]
    seen = refused = 0
    for number, name in enumerate(tensors[:: 13 if training else 5]):
        # A filter's infinities are upsampled, where PyTorch alone makes NaN of a neighbor's share of 0, see
        # test_upsampling_spoils_the_pixels_that_have_a_share.
        special = SPECIAL[0 if ".pyramid.filters." in name else number % 3]
        spoilt = copy.deepcopy(model).train(training)
        with torch.no_grad():
            spoilt.state_dict()[name].view(-1)[number % 3] = special
        made = []
        for backend in ("native", "reference"):
            form = copy.deepcopy(spoilt)
            torch.manual_seed(0)
            with ops.backend(backend), torch.no_grad():
                maps = form(images)[-1]
            averages = [t for key, t in form.state_dict().items() if "running" in key]
            made.append([maps, *averages])
        for ours, theirs in zip(*made, strict=True):
            assert torch.equal(ours.isfinite(), theirs.isfinite()), (name, special)
        seen += int(not made[1][0].isfinite().all())
        if not training:
            for build in (optimize_for_inference, lambda m: exportable(m, SIDE)):
                try:
                    maps = last(build(spoilt)(images))
                except UserError as error:
                    assert "weights or running statistics that are not finite in fp32" in str(error)
                    refused += 1
                else:  # an infinite variance divides to zeros
                    assert name.endswith("running_var") and special == SPECIAL[1]
                    assert torch.equal(maps.isfinite(), made[1][0].isfinite())
    assert seen > 3 and (training or refused > 20)


def test_weights_that_a_precision_cannot_hold_are_refused() -> None:
    model = network("plain")
    with torch.no_grad():
        model.stacks[0].score.weight[0, 0] = 1e6
    assert optimize_for_inference(model)(torch.randn(1, 3, SIDE, SIDE))[-1].isfinite().all()
    with pytest.raises(UserError, match=r"not finite in fp16: folded, they are stacks\.0\.score\.weight"):
        optimize_for_inference(model, "fp16")
