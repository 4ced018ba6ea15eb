"""The training step and predictions as CUDA graphs, against the same work without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyranet_fast as pf
from pyranet_fast import train
from pyranet_fast.models import GraphedInference
from pyranet_fast.models.optimized.graphs import CudaCapture
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.training.config import PoseConfig
from pyranet_fast.training.pose import PoseTask
from pyranet_fast.training.step import WARM_UPS, GraphedStep, Step


class CountingCapture(CudaCapture):
    """Counts what it records."""

    recordings = 0

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        CountingCapture.recordings += 1
        return super().record(function)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Gives the number of graphs that were recorded so far."""
    monkeypatch.setattr(CountingCapture, "recordings", 0)
    return lambda: CountingCapture.recordings


def task(**options: object) -> PoseTask:
    config = PoseConfig(**{
        "dataset": "demo", "cache": False, "workers": 0, "stacks": 1, "features": 32, "depth": 2, "input_size": 64,
        "batch_size": 8, **options,
    })  # fmt: skip
    made = PoseTask(config, torch.device("cuda"))
    made.model.train()
    return made


def curve(options: dict[str, object], graphed: bool, steps: int = 8) -> tuple[list[float], dict[str, Tensor]]:
    one = task(**options, cuda_graph=graphed)
    optimizer = one.optimizer()
    step = GraphedStep(one, optimizer, CudaCapture(one.device)) if graphed else Step(one, optimizer)
    torch.manual_seed(1)
    losses = []
    for number, batch in enumerate(one.batches(0, steps)):
        losses.append(step.run(batch, 1e-3 / (1 + number))[0].item())
    return losses, {name: tensor.cpu() for name, tensor in one.model.state_dict().items()}


@pytest.mark.parametrize("checkpointing", [False, True], ids=("kept", "recomputed"))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graphed_training_follows_the_eager_one(backend: str, precision: str, checkpointing: bool) -> None:
    options = {"variant": "plain", "precision": precision, "activation_checkpointing": checkpointing}  # no windows
    with pf.ops.backend(backend):
        expected, weights = curve(options, graphed=False)
        losses, graphed_weights = curve(options, graphed=True)
    assert losses == pytest.approx(expected, rel=1e-2 if precision == "fp32" else 5e-2)
    counts = {name: int(t) for name, t in weights.items() if name.endswith("num_batches_tracked")}
    assert counts and all(int(graphed_weights[name]) == count for name, count in counts.items())


def test_windows_are_drawn_anew_in_each_replay(backend: str, recordings: Callable[[], int]) -> None:
    """One batch again and again, at a rate of almost nothing: only the windows change the loss."""
    with pf.ops.backend(backend):
        one = task(cuda_graph=True)
        step = GraphedStep(one, one.optimizer(), CountingCapture(one.device))
        batch = next(one.batches(0, 1))
        losses = [step.run(batch, 1e-12)[0].item() for _ in range(8)]
    assert recordings() == 1 and len(set(losses[WARM_UPS:])) == 5


def test_the_rate_is_read_in_each_replay() -> None:
    one = task(cuda_graph=True, variant="plain")
    step = GraphedStep(one, one.optimizer(), CudaCapture(one.device))
    batch = next(one.batches(0, 1))
    for _ in range(5):
        step.run(batch, 1e-3)
    weight = next(p for p in one.model.parameters() if p.dim() == 4)
    before = weight.detach().clone()
    step.run(batch, 0.0)
    assert torch.equal(weight, before)
    step.run(batch, 1e-3)
    assert not torch.equal(weight, before)


def test_train_with_a_graph_goes_on_without_and_back(tmp_path: Path) -> None:
    flags = (
        f"--output {tmp_path} --device cuda --stacks 1 --features 32 --depth 2 --input-size 64 --batch-size 512 "
        "--precision bf16 --workers 0 --epochs 2 --early-size 32 --ema 0.9"
    ).split()
    assert train.main([*flags, "--cuda-graph"]) == 0
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint.training["step"] == 16
    assert all(t.isfinite().all() for t in checkpoint.weights.values() if t.is_floating_point())
    group = checkpoint.training["optimizer"]["param_groups"][0]
    assert isinstance(group["lr"], float) and group["capturable"] is False
    assert train.main(flags) == 0  # finished: nothing left to do, but the state has to fit


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_predictions_by_graphs(backend: str, precision: str, recordings: Callable[[], int]) -> None:
    torch.manual_seed(0)
    model = pf.models.PyraNet(2, 5, features=64, depth=2)
    for module in model.modules():
        if isinstance(module, pf.nn.BatchNormReLU):
            module.running_mean.normal_(0, 0.5)
    with pf.ops.backend(backend):
        plain = pf.models.optimize_for_inference(model.cuda(), precision)
        fast = GraphedInference(plain, shapes=2, capture=CountingCapture)
        shapes = ((1, 64), (1, 64), (2, 32), (4, 64), (1, 64))
        images = [torch.randn(n, 3, side, 64, device="cuda") for n, side in shapes]
        results = [fast(image) for image in images]
        for image, maps in zip(images, results, strict=True):
            for a, b in zip(maps, plain(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert recordings() == 4  # the third shape takes the place of the first, which is recorded again


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_graphs_on_a_second_gpu_after_the_first() -> None:
    torch.manual_seed(0)
    model = pf.models.PyraNet(1, 5, features=64, depth=2)
    for device in ("cuda:0", "cuda:1"):
        plain = pf.models.optimize_for_inference(model).to(device)
        fast = GraphedInference(plain)
        for seed in range(3):
            image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).to(device)
            for a, b in zip(fast(image), plain(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_bf16_stays_bf16_under_autocast() -> None:
    """CUDA's autocast would make nearest interpolation float32, and all norms after it."""
    model = pf.models.PyraNet(1, 5, features=64, depth=2).cuda().to(memory_format=torch.channels_last)
    wide: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, result: Any) -> None:
            if isinstance(result, Tensor) and result.dtype == torch.float32:
                wide.append(name)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(look(name))
    with torch.autocast("cuda", torch.bfloat16):
        maps = model(torch.randn(1, 3, 64, 64, device="cuda"))
    assert not wide and maps[0].dtype == torch.bfloat16
