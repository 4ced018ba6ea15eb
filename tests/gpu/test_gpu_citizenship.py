"""CUDA graphs, streams, a second GPU, more than 2^31 elements, torch.compile, autocast, deterministic mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pyranet_fast as pf
from pyranet_fast import ops

LEVELS = [(27, 27), (22, 22), (19, 19), (16, 16)]


def steps(device: str = "cuda") -> dict[str, Callable[[Tensor], list[Tensor]]]:
    """Every operator, forward and backward, as a function of (4, 16, 32, 32) maps."""
    samples = torch.rand(4, 4, 16, 2, generator=torch.Generator().manual_seed(0)).to(device)
    joints = torch.rand(4, 16, 2, generator=torch.Generator().manual_seed(1)).to(device) * 32
    weight = torch.ones(4, 16, device=device)
    swap = torch.arange(15, -1, -1, device=device)

    def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], list[Tensor]]:
        def step(x: Tensor) -> list[Tensor]:
            leaf = x.detach().requires_grad_()
            out = function(leaf)
            return [out.detach(), *torch.autograd.grad(out, leaf)]

        return step

    def pyramid(x: Tensor) -> Tensor:
        levels = ops.fractional_max_pool_pyramid(x, LEVELS, samples)
        return ops.upsample_sum(levels, (32, 32), base=x).square().mean()

    def argmax(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            mean = ops.heatmap_argmax(x, refine="quarter", mirrored=x, swap=swap)
        return [*ops.heatmap_argmax(x, refine="quarter"), *mean]

    return {
        "pyramid": with_gradient(pyramid),
        "loss": with_gradient(lambda x: ops.heatmap_loss(x, joints, weight)),
        "argmax": argmax,
        "targets": lambda x: [ops.gaussian_heatmaps(joints + x[:, :, :1, 0], weight, (32, 32))],
    }


def data(seed: int, device: str = "cuda") -> Tensor:
    return torch.randn(4, 16, 32, 32, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("name", ["pyramid", "loss", "argmax", "targets"])
def test_cuda_graph_replays_with_new_data(backend: str, name: str) -> None:
    with ops.backend(backend):
        step = steps()[name]
        static = data(0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(static)
        for seed in (1, 2):
            static.copy_(data(seed))
            graph.replay()
            for a, b in zip(captured, step(data(seed)), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["pyramid", "loss", "argmax", "targets"])
def test_work_is_queued_on_the_current_stream(backend: str, name: str) -> None:
    with ops.backend(backend):
        step = steps()[name]
        expected = step(data(3))
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        x = torch.zeros(4, 16, 32, 32, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)  # a kernel on another stream would read x before it is filled
            x.copy_(data(3))
            got = step(x)
        stream.synchronize()
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize("name", ["pyramid", "loss", "argmax", "targets"])
def test_a_second_gpu(backend: str, name: str) -> None:
    with ops.backend(backend):
        for a, b in zip(steps("cuda:1")[name](data(3, "cuda:1")), steps()[name](data(3)), strict=True):
            assert a.device == torch.device("cuda:1") and torch.equal(a.cpu(), b.cpu())
    assert torch.cuda.current_device() == 0


def enough_memory(gigabytes: float) -> None:
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"{gigabytes} GiB of GPU memory are not free")


def test_more_than_two_to_the_31_elements(backend: str) -> None:
    enough_memory(40)
    torch.cuda.empty_cache()
    x = torch.zeros(2, 1100, 1024, 1024, device="cuda", dtype=torch.bfloat16)  # 2.3e9
    assert x.numel() > 2**31
    x[-1, -1] = torch.randn(1024, 1024, device="cuda")
    x.requires_grad_()
    samples = torch.full((1, 1, 1, 2), 0.5, device="cuda")
    with ops.backend(backend):
        (pooled,) = ops.fractional_max_pool_pyramid(x, [(512, 512)], samples)
        with ops.backend("reference"):
            (expected,) = ops.fractional_max_pool_pyramid(x[-1:, -1:], [(512, 512)], samples)
        assert torch.equal(pooled[-1, -1], expected[0, 0])
        pooled[-1, -1].float().sum().backward()
        assert x.grad is not None and float(x.grad[-1, -1].float().sum()) == pytest.approx(512 * 512, rel=1e-3)
        assert not x.grad[0, 0].any()
        x = x.detach()
        whole = ops.upsample_sum([pooled.detach()], (1024, 1024), base=x)
        with ops.backend("reference"):
            last = ops.upsample_sum([pooled.detach()[-1:, -1:]], (1024, 1024), base=x[-1:, -1:])
        torch.testing.assert_close(whole[-1, -1], last[0, 0])
        coords, scores = ops.heatmap_argmax(x)
    flat = int(x[-1, -1].flatten().float().argmax())
    assert coords[-1, -1].tolist() == [flat % 1024, flat // 1024] and scores[-1, -1] == x[-1, -1].max()


def test_a_single_map_of_more_than_two_to_the_31_elements(backend: str) -> None:
    enough_memory(16)
    torch.cuda.empty_cache()
    x = torch.zeros(1, 1, 46342, 46342, device="cuda", dtype=torch.bfloat16)
    x[0, 0, -1, -2] = 1
    with ops.backend(backend):
        coords, _ = ops.heatmap_argmax(x)
        (pooled,) = ops.fractional_max_pool_pyramid(x, [(23171, 23171)], torch.zeros(1, 1, 1, 2, device="cuda"))
    assert coords.flatten().tolist() == [46340, 46341]
    assert pooled[0, 0, -1, -1] == 1 and pooled.sum() == 1


def test_compile_without_graph_breaks_or_storms(backend: str) -> None:
    torch._dynamo.reset()
    with ops.backend(backend):
        for step in steps().values():
            step(data(0))
        model = pf.models.PyraNet(1, 14, features=64, variant="B*").cuda().to(memory_format=torch.channels_last)
        compiled = torch.compile(model, fullgraph=True, dynamic=True)
        torch._dynamo.utils.counters.clear()
        for batch, side in ((2, 64), (3, 64), (4, 128), (5, 128)):
            images = torch.randn(batch, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", torch.bfloat16):
                compiled(images)[-1].float().square().mean().backward()
        frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert frames <= 4, f"{frames} graphs for four shapes of one dynamic model"


def test_deterministic_mode_and_autocast(backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with ops.backend(backend), torch.autocast("cuda", torch.bfloat16):
            for step in steps().values():
                first, second = step(data(0)), step(data(0))
                assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_double_backward_and_forward_mode_are_the_reference_s(backend: str) -> None:
    def derivatives(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x = data(0).requires_grad_()
        (grad,) = torch.autograd.grad(function(x), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        return [second, torch.func.jvp(function, (data(0),), (data(1),))[1]]

    n, c, h, w = data(0).shape
    samples = torch.rand(1, n, c, 2, device="cuda")
    joints, weight = torch.rand(n, c, 2, device="cuda") * h, torch.ones(n, c, device="cuda")
    for function in (
        lambda x: ops.upsample_sum([x], (9, 9)).square().sum(),
        lambda x: ops.fractional_max_pool_pyramid(x, [(h - 1, w // 2)], samples, relu=True)[0].square().sum(),
        lambda x: ops.heatmap_argmax(x)[1].square().sum(),
        lambda x: ops.heatmap_loss(x, joints, weight).square(),
    ):
        with ops.backend(backend):
            ours = derivatives(function)
        with ops.backend("reference"):
            theirs = derivatives(function)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_training_on_the_gpu_goes_on_from_a_checkpoint(tmp_path: object) -> None:
    from pyranet_fast import train

    arguments = f"--output {tmp_path} --device cuda --stacks 1 --features 32 --depth 2 --input-size 64 --batch-size 32"
    arguments += " --precision bf16 --workers 0 --epochs 1 --max-steps"
    assert train.main([*arguments.split(), "4"]) == 0
    assert train.main([*arguments.split(), "4"]) == 0  # finished: nothing left to do
