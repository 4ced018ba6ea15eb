"""Tests here need an NVIDIA GPU; elsewhere they skip."""

from __future__ import annotations

import pytest
import torch

from pyranet_fast.ops import dispatch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="there is no GPU that torch can use"))


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both kinds of CUDA kernels, in turn; one that is not there fails, since that is what a GPU run is to show."""
    name: str = request.param
    if torch.cuda.is_available():
        error = dispatch.native_cuda.reason if name == "native" else dispatch.triton().reason
        assert error is None, f"backend {name} is not there: {error}"
    return name
