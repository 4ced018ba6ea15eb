"""Predictions by graphs, with a fake in place of CUDA: shapes, copies, how many are kept."""

from __future__ import annotations

import contextlib
import copy
import types
from typing import Any

import pytest
import torch

from pyranet_fast.models import GraphedInference, InferencePyraNet, PyraNet, optimize_for_inference
from pyranet_fast.models.optimized.graphs import CudaCapture
from tests.fake_capture import FakeCapture


@pytest.fixture
def network() -> InferencePyraNet:
    torch.manual_seed(0)
    return optimize_for_inference(PyraNet(2, 3, features=24, depth=1))


def graphed(network: InferencePyraNet, shapes: int = 8) -> tuple[GraphedInference, list[str]]:
    fake = FakeCapture()
    return GraphedInference(network, shapes, lambda device: fake), fake.log


def test_every_image_gives_its_own_maps(network: InferencePyraNet) -> None:
    fast, log = graphed(network)
    images = [torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    results = [fast(image) for image in images]
    for image, maps in zip(images, results, strict=True):  # all are looked at after the last: none was overwritten
        assert all(torch.equal(a, b) for a, b in zip(maps, network(image), strict=True))
    assert log == ["warm up", "warm up", "record", "replay", "replay", "replay"]


def test_one_graph_a_shape_and_the_least_used_goes(network: InferencePyraNet) -> None:
    fast, log = graphed(network, shapes=2)
    small, large, other = (torch.randn(n, 3, side, 32) for n, side in ((1, 32), (1, 64), (2, 32)))
    for image in (small, large, small, other, small, large):
        maps = fast(image)
        assert all(torch.equal(a, b) for a, b in zip(maps, network(image), strict=True))
    assert log.count("record") == 4  # small, large, other in place of large, large again
    fast(small.bfloat16())
    assert log.count("record") == 5


def test_modes_and_memory_layouts_of_the_caller_do_not_matter(network: InferencePyraNet) -> None:
    fast, log = graphed(network)
    image = torch.randn(2, 3, 32, 32)
    expected = network(image)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = fast(image.clone())
    again = fast(image.contiguous(memory_format=torch.channels_last))
    assert all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(first, again, expected, strict=True))
    assert log.count("record") == 1 and not any(m.requires_grad or m.is_inference() for m in again)


def test_a_moved_or_copied_module_records_again(network: InferencePyraNet) -> None:
    fast, log = graphed(network)
    image = torch.randn(1, 3, 32, 32)
    fast(image)
    other = copy.deepcopy(fast)
    other(image)
    assert log.count("record") == 2, "a copy has no graph of the memory that it was copied from"
    fast.to(torch.float32)
    fast(image)
    assert log.count("record") == 3
    assert fast.config == network.config and not fast.training


def test_no_images_and_bad_ones(network: InferencePyraNet) -> None:
    fast, log = graphed(network)
    assert [tuple(m.shape) for m in fast(torch.zeros(0, 3, 32, 32))] == [(0, 3, 8, 8)] * 2 and not log
    with pytest.raises(ValueError, match=r"image must be multiples of .*, got 30x32"):
        fast(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="shapes must be at least 1, got 0"):
        GraphedInference(network, 0)
    asked = optimize_for_inference(PyraNet(1, 3, features=24, depth=1), graph=True)
    assert isinstance(asked, GraphedInference)
    with pytest.raises(ValueError, match="image must be on a CUDA device with graph=True, got cpu"):
        asked(torch.zeros(1, 3, 32, 32))


def test_a_capture_is_made_on_a_stream_of_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch alone would capture on one stream, of the device of the first capture: the other device's work is lost."""
    current, captured = [0], []

    class OnDevice:
        def __init__(self, device: torch.device) -> None:
            self.index, self.before = torch.device(device).index, 0

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.before

    class Stream:
        def __init__(self) -> None:
            self.device = current[0]

        def wait_stream(self, other: Stream) -> None:
            assert other.device == self.device

    def graph(_: object, *, stream: Stream | None = None, capture_error_mode: str = "global") -> Any:
        captured.append((current[0], None if stream is None else stream.device, capture_error_mode))
        return contextlib.nullcontext()

    fakes = {"device": OnDevice, "Stream": Stream, "graph": graph, "current_stream": Stream}
    fakes |= {"CUDAGraph": lambda: types.SimpleNamespace(replay=None), "stream": lambda s: contextlib.nullcontext()}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for index in (0, 1):
        capture = CudaCapture(torch.device("cuda", index))
        assert capture.warm_up(lambda: current[0]) == index
        assert capture.record(lambda: current[0])[1] == index
    assert CudaCapture(torch.device("cuda", 1)).record(lambda: current[0])[1] == 1, "without a warm-up before"
    assert captured == [(0, 0, "thread_local"), (1, 1, "thread_local"), (1, 1, "thread_local")]
