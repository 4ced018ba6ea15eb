"""Recorded passes: the same maps as module by module, and not used where they would not be."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet, optimize_for_inference
from pyranet_fast.models.optimized import recording
from pyranet_fast.models.optimized.recording import MOST_SHAPES, RecordedPass

from ..ops.testing import native_only

pytestmark = native_only


def network(precision: str = "fp32", **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = PyraNet(**{"stacks": 2, "joints": 5, "features": 64, "depth": 2, "levels": 3, **options}).eval()
    return optimize_for_inference(model, precision)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every pass that a recording makes."""
    runs: list[int] = []
    real = RecordedPass.__call__

    def run(self: RecordedPass, image: Tensor) -> list[Tensor] | None:
        runs.append(1)
        return real(self, image)

    monkeypatch.setattr(RecordedPass, "__call__", run)
    return runs


def assert_equal(maps: list[Tensor], expected: list[Tensor]) -> None:
    assert len(maps) == len(expected)
    for got, wanted in zip(maps, expected, strict=True):
        assert torch.equal(got, wanted) and got.dtype == wanted.dtype and got.stride() == wanted.stride()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recorded_from_the_second_image_on(variant, precision, recorded):
    fast = network(precision, variant=variant)
    images = torch.randn(4, 2, 3, 64, 96)
    expected = [fast._pass(image) for image in images]
    for k, (image, maps) in enumerate(zip(images, expected, strict=True)):
        kept = image.clone()
        assert_equal(fast(image), maps)
        assert torch.equal(image, kept)
        assert len(recorded) == max(0, k - 1)


def test_most_kernels_are_called_in_rows():
    fast = network(features=128, stacks=1)
    image = torch.randn(1, 3, 128, 128)
    for _ in range(2):
        fast(image)
    (made,) = fast._recordings._passes.values()
    in_rows = [step for step, _ in made._steps if isinstance(step, recording._Row)]
    alone = [step for step, _ in made._steps if not isinstance(step, recording._Row)]
    fused = [call for call in alone if call.operator in recording._operators()]
    assert in_rows and len(fused) <= len(in_rows) and len(alone) < 16


def test_shapes_layouts_and_modes(recorded):
    """Each has a recording of its own; the oldest goes where there are many."""
    fast = network(depth=1, stacks=1)
    images = [torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 64), torch.randn(0, 3, 32, 32)]
    images += [images[1].contiguous(memory_format=torch.channels_last), images[0].double()]
    expected = [fast._pass(image) for image in images]
    for _ in range(3):
        for image, maps in zip(images, expected, strict=True):
            with torch.inference_mode():
                assert_equal(fast(image), maps)
            assert_equal(fast(image), maps)
    assert len(recorded) == 4 * len(images)
    for width in range(MOST_SHAPES + 3):
        fast(torch.randn(1, 3, 32, 32 * (width + 1)))
    assert len(fast._recordings._passes) == MOST_SHAPES


def test_what_is_not_finite_is_made_module_by_module(recorded):
    fast = network(features=128, depth=1, stacks=1)
    image = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        fast(image)
    for value in (float("inf"), float("nan"), 3e38):
        bad = image.clone()
        bad[1, 0, 3, 5] = value
        runs = len(recorded)
        maps, expected = fast(bad), fast._pass(bad)
        assert len(recorded) == runs + 1
        for got, wanted in zip(maps, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    # An infinity within the network, which Winograd's tiles would spread: its convolution is made directly.
    fast = network(features=128, depth=1, stacks=1)
    fast.unit2.filter.weight.mul_(1e30), fast.unit2.entry.convs[0].weight.mul_(1e20)
    expected = fast._pass(image)
    for _ in range(3):
        for got, wanted in zip(fast(image), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def test_hooks_are_called_at_every_pass(recorded):
    fast = network(depth=1, stacks=1)
    image = torch.randn(1, 3, 32, 32)
    for _ in range(3):
        fast(image)
    calls: list[int] = []
    for register in (
        fast.stacks[0].hourglass.low1.register_forward_hook,
        fast.unit1.entry.register_forward_pre_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        handle = register(lambda *a: calls.append(1))
        runs = len(recorded), len(calls)
        fast(image)
        assert len(recorded) == runs[0] and len(calls) > runs[1]
        handle.remove()
    runs = (len(recorded),)
    fast(image)
    assert len(recorded) == runs[0] + 1


def test_a_part_that_is_wrapped_or_replaced_is_called():
    fast, image = network(depth=1, stacks=1), torch.randn(1, 3, 32, 32)
    for _ in range(3):
        (before,) = fast(image)
    score = fast.stacks[0].score
    score.forward = lambda x: type(score).forward(score, x) + 1
    assert_equal(fast(image), [before + 1])
    del score.forward
    fast.stacks[0].score = nn.Sequential(score, nn.ReLU())
    for _ in range(3):
        assert_equal(fast(image), [before.relu()])


def test_not_used_where_operators_are_watched_or_others(recorded):
    fast = network(depth=1, stacks=1)
    image = torch.randn(1, 3, 32, 32)
    for _ in range(3):
        fast(image)
    runs, seen = len(recorded), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watching():
        fast(image)
    assert len(seen) > 20
    with ops.backend("reference"):
        fast(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(image)
    torch.func.vmap(lambda x: fast(x)[-1])(image[None])
    exported = torch.export.export(fast, (image,))
    assert "run_folded" not in str(exported.graph)
    assert len(recorded) == runs


def test_converted_loaded_and_copied_networks_forget(recorded):
    fast, other, image = network(depth=1, stacks=1), network(depth=1, stacks=1, variant="A"), torch.randn(1, 3, 32, 32)
    for _ in range(3):
        before = fast(image)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        runs = len(recorded)
        for _ in range(2):
            assert_equal(copied(image), before)
        assert len(recorded) == runs
    torch.manual_seed(7)
    same = optimize_for_inference(PyraNet(stacks=1, joints=5, features=64, depth=1, levels=3).eval())
    expected = same(image)
    fast.load_state_dict(same.state_dict())
    for _ in range(3):
        assert_equal(fast(image), expected)
    assert not torch.equal(before[0], expected[0]) and len(other(image)) == 1
    fast(images := torch.randn(2, 3, 32, 32)), fast(images)
    assert len(fast._recordings._passes) == 2
    fast.load_state_dict(same.state_dict())
    assert_equal(fast(image), expected)
    assert [*fast._recordings._passes.values()] == [None]  # nothing keeps the weights of before
    wide = [m.float() for m in copy.deepcopy(same).double()(image.double())]
    fast.stacks[0].features.double()  # a part alone
    with pytest.raises(TypeError, match="scale must have dtype"):
        fast(image)
    for _ in range(3):
        torch.testing.assert_close(fast.double()(image.double()), wide)


def test_threads_share_a_network():
    fast = network(stacks=1)
    images = torch.randn(8, 2, 3, 64, 64)
    expected = [fast._pass(image) for image in images]
    failures: list[BaseException] = []

    def work(offset: int) -> None:
        try:
            for k in range(12):
                at = (k + offset) % len(images)
                assert_equal(fast(images[at]), expected[at])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(2 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_numbers_that_are_read_are_not_recorded():
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x * float(x.sum())]

    class Draws(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x + torch.rand(())]

    for module in (Reads(), Draws()):
        recordings = recording.Recordings(module)
        for k in range(4):
            x = torch.full((2,), float(k))
            torch.manual_seed(k)
            expected = module(x)
            torch.manual_seed(k)
            assert_equal(recordings.run(x, module), expected)
        assert [*recordings._passes.values()] == [None]
