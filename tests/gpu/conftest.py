"""Tests here need an NVIDIA GPU; elsewhere they skip.

With PYRANET_FAST_STAND_IN=1 the CPU stands in for one in `test_gpu_parity`: the dry run of `bench.gpu_all`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pyranet_fast.ops import dispatch

STAND_IN = os.environ.get("PYRANET_FAST_STAND_IN") == "1"
# Triton's kernels are compiled, seconds each: 140 of them for these, some 700 for all pairs. Native kernels, which are
# there, get all pairs.
OF_TRITON = {(torch.bfloat16, "channels_last"), (torch.float32, "contiguous")}


def of_triton(parameters: dict[str, Any]) -> bool:
    """Whether a case is one of Triton's."""
    dtype, layout = parameters.get("dtype"), parameters.get("layout")
    return dtype is None or layout is None or (dtype, layout) in OF_TRITON


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = []
    for item in items:
        if "gpu" not in item.path.parts:
            continue
        if not torch.cuda.is_available() and not (STAND_IN and item.path.name == "test_gpu_parity.py"):
            item.add_marker(pytest.mark.skip(reason="there is no GPU that torch can use"))
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if parameters.get("backend") == "triton" and not of_triton(parameters):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        chosen = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in chosen]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is sent to the GPU stays where it is, where there is none."""
    if STAND_IN and not torch.cuda.is_available():
        monkeypatch.setattr(Tensor, "cuda", lambda self, *_, **__: self)
    yield


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both kinds of CUDA kernels, in turn; one that is not there fails, since that is what a GPU run is to show."""
    name: str = request.param
    if torch.cuda.is_available():
        error = dispatch.native_on().reason if name == "native" else dispatch.triton_on().reason
        assert error is None, f"backend {name} is not there: {error}"
    return name
