"""The folded network on a GPU, in memory that is full of NaN, beside the network that it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.models.optimized.folding import FoldedConv
from tests.models.test_epilogues import with_biases
from tests.models.test_optimize_for_inference import difference


def spoil_memory() -> None:
    """Leave NaN in the allocator's free blocks: cuDNN's fused ReLU is handed its own output as the map to add 0 of."""
    blocks = [
        torch.full((size,), float("nan"), device="cuda") for size in (2**12, 2**16, 2**20, 2**24) for _ in range(8)
    ]
    torch.cuda.synchronize()
    del blocks


def maps_of(model: PyraNet, image: Tensor, precision: str) -> tuple[list[Tensor], list[str]]:
    fast = optimize_for_inference(model, precision).cuda()
    spoil_memory()
    maps = fast(image.cuda())
    convolutions = [m for m in fast.modules() if isinstance(m, FoldedConv)]
    refused = [f"{tuple(m.weight.shape)}: {m.cudnn_refuses}" for m in convolutions if m.cudnn_refuses is not None]
    return [m.cpu() for m in maps], refused


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("variant", ["B*", "A", "C", "D", "plain"])
def test_the_same_maps(variant: str, precision: str) -> None:
    model, image = with_biases(variant=variant), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double())
    maps, _ = maps_of(model, image, precision)
    assert difference(maps, exact) < (0.01 if precision == "fp32" else 0.03)  # TF32 has ten bits


def test_cudnn_has_the_fused_convolutions_of_the_whole_network() -> None:
    torch.manual_seed(0)
    maps, refused = maps_of(PyraNet(1, 16).eval(), torch.randn(2, 3, 256, 256), "bf16")
    assert all(m.isfinite().all() for m in maps)
    assert not refused
