"""Triton's heat-map loss, in its interpreter, against plain PyTorch; all heat-map operators compiled together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyranet_fast import ops
from tests.ops.testing import (
    HEATMAP_CASES,
    INF,
    NAN,
    assert_close,
    compile_in_subprocess,
    example,
    heatmap_dtype,
    in_layout,
    on,
    spoilt,
    triton_marks,
)

__all__ = ["heatmap_dtype", "spoilt"]
pytestmark = triton_marks


def loss_and_gradient(backend: str, pred: Tensor, joints: Tensor, weight: Tensor, factor: float = 3.0) -> list[Tensor]:
    pred = pred.detach().requires_grad_()
    loss = on(backend, ops.heatmap_loss, pred, joints, weight, sigma=1.3)
    return [loss.detach(), *torch.autograd.grad(loss * factor, pred)]


@pytest.mark.usefixtures("spoilt")
def test_loss_and_gradient(heatmap_dtype: torch.dtype) -> None:
    for layout, shape in HEATMAP_CASES:
        pred, joints, weight = example(shape, heatmap_dtype)
        maps = in_layout(layout, pred)
        actual = loss_and_gradient("triton", maps, joints, weight)
        expected = loss_and_gradient("reference", maps, joints, weight)
        assert actual[0].dtype == expected[0].dtype and actual[1].dtype == heatmap_dtype, layout
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)
        last = layout == "channels_last" and not maps.is_contiguous()
        assert actual[1].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), layout


def test_loss_divides_maps_among_programs_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyranet_fast.ops.triton import heatmap_loss

    pred, joints, weight = example((1, 2, 90, 70), torch.float64)  # six tiles a map
    expected = on("reference", ops.heatmap_loss, pred, joints, weight)
    for programs, block in ((1, 1024), (4, 1024), (6, 1024), (1024, 4)):
        monkeypatch.setattr(heatmap_loss, "_PROGRAMS", programs)
        monkeypatch.setattr(heatmap_loss, "_SUMS", block)
        assert_close(on("triton", ops.heatmap_loss, pred, joints, weight), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_maps_of_weight_zero_take_no_part(layout: str) -> None:
    pred, joints, weight = example((2, 5, 4, 5))
    weight[0, 1] = weight[1, 4] = 0
    pred = in_layout(layout, pred)
    spoilt, spoilt_joints = pred.clone(), joints.clone()
    spoilt[0, 1], spoilt[1, 4] = NAN, INF
    spoilt_joints[0, 1] = NAN
    plain = loss_and_gradient("triton", pred, joints, weight)
    for a, b in zip(plain, loss_and_gradient("triton", spoilt, spoilt_joints, weight), strict=True):
        assert torch.equal(a, b)
    assert not plain[1][0, 1].any() and not plain[1][1, 4].any() and plain[1][0, 0].any()
    loss, gradient = loss_and_gradient("triton", spoilt, spoilt_joints, torch.zeros(2, 5))
    assert loss.item() == 0 and not gradient.any()
    pred[1, 1, 2, 3] = NAN  # of weight above 0: it is seen
    weight[1, 1] = 0.5
    loss, gradient = loss_and_gradient("triton", pred, joints, weight)
    assert loss.isnan() and gradient[1, 1, 2, 3].isnan() and gradient.isnan().sum() == 1


def test_loss_takes_joints_and_weights_of_any_strides_and_dtype() -> None:
    pred, joints, weight = example((2, 2, 6, 5))
    expected = loss_and_gradient("reference", pred, joints, weight)
    strided = (joints.permute(2, 1, 0).contiguous().permute(2, 1, 0), weight.t().contiguous().t())
    for j, w in (strided, (joints.double(), weight), (joints, weight.double())):
        for a, e in zip(loss_and_gradient("triton", pred, j, w), expected, strict=True):
            assert_close(a, e)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    loss = on("triton", ops.heatmap_loss, x, torch.zeros(*shape[:2], 2), torch.ones(shape[:2]))
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and x.grad.shape == shape


def test_a_second_run_gives_the_same_bits() -> None:
    pred, joints, weight = example((2, 6, 40, 60))
    for layout in ("contiguous", "channels_last"):
        maps = in_layout(layout, pred)
        runs = [loss_and_gradient("triton", maps, joints, weight) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_derivatives() -> None:
    pred, joints, weight = example((1, 2, 3, 4), torch.float64)
    pred.requires_grad_()
    with ops.backend("triton"):
        torch.autograd.gradcheck(lambda p: ops.heatmap_loss(p, joints, weight), (pred,), check_forward_ad=True)
        torch.autograd.gradgradcheck(lambda p: ops.heatmap_loss(p, joints, weight), (pred,), fast_mode=True)


def test_opcheck() -> None:
    pred, joints, weight = example((2, 3, 4, 5))
    space = torch.ops.pyranet_fast_triton
    for layout in ("contiguous", "channels_last"):
        maps = in_layout(layout, pred).detach().requires_grad_()
        torch.library.opcheck(space.heatmap_loss.default, (maps, joints, weight, 1.0))
    torch.library.opcheck(space.heatmap_loss_backward.default, (torch.ones(()), pred, joints, weight, 1.0))


def test_compiles_whole_and_dynamic() -> None:
    def everything(pred: Tensor, joints: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        target = ops.gaussian_heatmaps(joints, weight, pred.shape[2:])
        coords, scores = ops.heatmap_argmax(pred, refine="quarter")
        return ops.heatmap_loss(pred, joints, weight), target, coords, scores

    with ops.backend("triton"):
        compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend="aot_eager")
        for shape in ((1, 2, 5, 6), (2, 2, 7, 4)):
            pred, joints, weight = example(shape)
            results = []
            for function in (compiled, everything):
                p = pred.clone().requires_grad_()
                outputs = function(p, joints, weight)
                (outputs[0] + outputs[3].sum()).backward()
                results.append([*(t.detach() for t in outputs), p.grad])
            for a, b in zip(*results, strict=True):
                assert a is not None and b is not None and torch.equal(a, b)


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert len(compile_in_subprocess("heatmap_loss", tmp_path)) == 3 * 3
