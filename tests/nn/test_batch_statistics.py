"""Batch norms of two processes with the statistics of the whole batch: what one process makes of all of it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyranet_fast
from pyranet_fast.models import VARIANTS, PyraNet, classifier, optimize_for_inference
from pyranet_fast.nn import BatchNorm, BatchNormReLU, synchronize_batch_norms_, update_bn
from pyranet_fast.nn.pyramid import draw_samples

CLASSIFIERS = ("wrn-10-1", "wrn-10-1-pyramid", "resnext-11-2x4d", "resnext-11-2x4d-pyramid")
NETWORKS = (*VARIANTS, *CLASSIFIERS)
RANKS = 2

# Runs the cases of this module in one of two processes and keeps what they give.
WORKER = """
import sys
import torch, torch.distributed as dist
from tests.nn import test_batch_statistics as tests

tests.fix_windows(setattr)
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=tests.RANKS)
results = {name: case(rank) for name, case in tests.CASES.items()}
results["apart"] = tests.of_network("plain", rank, synchronized=False)
torch.save(results, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in VARIANTS:
        return PyraNet(2, 3, features=24, depth=1, levels=3, variant=name)
    return classifier(name, classes=4)


def share(x: Tensor, rank: int | None) -> Tensor:
    return x if rank is None else x.chunk(RANKS)[rank]


def of_network(name: str, rank: int | None, *, synchronized: bool = True, recompute: bool = False) -> dict[str, Any]:
    """Outputs, gradients and statistics after two steps, of a share of the batch or (None) of all of it."""
    model = network(name).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    synchronize_batch_norms_(model, synchronized)
    if recompute:
        pyranet_fast.nn.checkpoint_activations_(model)
    running = model if rank is None else nn.parallel.DistributedDataParallel(model)
    torch.manual_seed(1)
    scale = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64).view(-1, 1, 1, 1)  # shares differ
    outputs: list[Tensor] = []
    for _ in range(2):
        whole = (torch.randn(4, 3, 32, 32, dtype=torch.float64) + 1) * scale
        x = share(whole, rank).contiguous(memory_format=torch.channels_last).requires_grad_()
        model.zero_grad()
        made = running(x)
        outputs = [made] if isinstance(made, Tensor) else made
        torch.stack([y.square().mean() for y in outputs]).sum().backward()
        assert x.grad is not None
    # A process's gradient of its input is that of the sum of all losses, of which the whole batch's is the mean.
    grad_x = x.grad if rank is None else x.grad / RANKS
    return {
        "share": [*(y.detach() for y in outputs), grad_x],
        "gradients": {n: p.grad for n, p in model.named_parameters()},
        "state": dict(model.named_buffers()),
    }


NORMS: dict[str, Any] = {
    "ReLU": lambda: BatchNormReLU(5),
    "plain": lambda: BatchNorm(5),
    "average of all": lambda: BatchNormReLU(5, momentum=None),
    "no averages": lambda: BatchNorm(5, track_running_stats=False),
    "no weights": lambda: BatchNormReLU(5, affine=False),
}


def of_norm(kind: str, dtype: torch.dtype, rank: int | None) -> dict[str, Any]:
    """One norm, of shares of three images and of one."""
    torch.manual_seed(0)
    norm = NORMS[kind]()
    if norm.affine:
        nn.init.uniform_(norm.weight, -1, 2)
        nn.init.normal_(norm.bias)
    norm = norm.double() if dtype == torch.float64 else norm
    synchronize_batch_norms_(norm)
    x, slope = torch.randn(4, 5, 6, 7) * torch.arange(1, 5).view(-1, 1, 1, 1) + 3, torch.randn(4, 5, 6, 7)
    parts = (slice(0, 3), slice(3, 4))
    part = slice(None) if rank is None else parts[rank]
    own = x[part].to(dtype).requires_grad_()
    for _ in range(2):
        y = norm(own)
    assert y.dtype == dtype
    (y * slope[part].to(dtype)).sum().backward()
    gradients = {n: p.grad for n, p in norm.named_parameters()}
    if rank is not None:
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
    return {"part": part, "share": [y.detach(), own.grad], "gradients": gradients, "state": dict(norm.named_buffers())}


def frozen(rank: int | None) -> dict[str, Any]:
    """A network in evaluation, and one whose first norm reads what needs no gradient."""
    model = network("B*")
    synchronize_batch_norms_(model)
    x = share(torch.ones(4, 3, 32, 32), rank)
    with torch.no_grad():
        model.train()(x)
        y = model.eval()(x)[-1]
    return {"share": [y], "gradients": {}, "state": dict(model.named_buffers())}


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASES: dict[str, Any] = {
    **{name: lambda rank, name=name: of_network(name, rank) for name in NETWORKS},
    "recomputed": lambda rank: of_network("B*", rank, recompute=True),
    **{f"{k} {t}": lambda rank, k=k, t=t: of_norm(k, t, rank) for k in NORMS for t in DTYPES},
    "frozen": frozen,
}


@pytest.fixture(autouse=True)
def windows_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_windows(monkeypatch.setattr)


def fix_windows(set_attribute: Any) -> None:
    """Random windows are drawn for each sample of a share: the same ones for all make results comparable."""
    fixed = lambda x, levels, windows, training, channels=None: draw_samples(x, levels, windows, False, channels)  # noqa: E731
    set_attribute(pyranet_fast.nn.pyramid, "draw_samples", fixed)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(Path(pyranet_fast.__file__).parents[1]), str(root)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(folder)], env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * RANKS, "\n".join(texts)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def tolerance(case: str) -> float:
    return {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}.get(case.rpartition("torch.")[2], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_with_the_whole_batch(case: str, of_two: list[dict[str, Any]]) -> None:
    expected = CASES[case](None)
    close = 1e-5 if case == "frozen" else tolerance(case)
    for rank, found in enumerate(results[case] for results in of_two):
        for got, all_of_it in zip(found["share"], expected["share"], strict=True):
            own = all_of_it[found["part"]] if "part" in found else share(all_of_it, rank)
            torch.testing.assert_close(got, own, rtol=close, atol=close * max(1.0, own.abs().max().item()))
        for kind in ("gradients", "state"):
            assert found[kind].keys() == expected[kind].keys()
            for name, tensor in expected[kind].items():
                scale = max([1.0, *tensor.double().abs().flatten().tolist()])
                torch.testing.assert_close(found[kind][name], tensor, rtol=close, atol=close * scale)


def test_shares_apart_give_something_else(of_two: list[dict[str, Any]]) -> None:
    """What is compared above differs without synchronization."""
    apart, together = (of_two[1][case]["share"][0] for case in ("apart", "plain"))
    assert (apart - together).abs().max() > 0.01 * together.abs().max()


def test_alone_or_without_the_switch_nothing_changes() -> None:
    torch.manual_seed(0)
    norm = BatchNormReLU(3)
    twin = copy.deepcopy(norm)
    assert synchronize_batch_norms_(norm) == 1 and norm.synchronized and not norm.synchronizes
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(norm(x), twin(x)) and torch.equal(norm.running_var, twin.running_var)
    assert synchronize_batch_norms_(norm, enabled=False) == 1 and not norm.synchronized


def test_copies_pickles_and_state_dicts_are_as_before() -> None:
    for name in NETWORKS:
        model = network(name)
        before = copy.deepcopy(model.state_dict())
        count = synchronize_batch_norms_(model)
        assert count == sum(key.endswith("num_batches_tracked") for key in before)
        assert model.state_dict().keys() == before.keys()
        assert synchronize_batch_norms_(copy.deepcopy(model)) == count
        network(name).load_state_dict(model.state_dict())
    optimize_for_inference(network("B*"))


@pytest.mark.parametrize("name", NETWORKS)
def test_conversion_by_pytorch_leaves_the_values(name: str) -> None:
    """It goes by class: a BatchNorm2d becomes a SyncBatchNorm, which has no ReLU."""
    model = network(name)
    twin = copy.deepcopy(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    image = torch.randn(2, 3, 32, 32)
    for training in (True, False):
        got, expected = converted.train(training)(image), twin.train(training)(image)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert converted.state_dict().keys() == twin.state_dict().keys()
    if isinstance(converted, PyraNet):
        fast = optimize_for_inference(converted)(image)[-1]
        torch.testing.assert_close(fast, twin(image)[-1], rtol=1e-4, atol=1e-4)


def test_what_else_swaps_norms_by_class_says_no_or_leaves_them() -> None:
    model = network("B*").eval()
    assert isinstance(model, PyraNet)
    with pytest.raises((NotImplementedError, AssertionError), match="fuse"):
        torch.ao.quantization.fuse_modules(model.stem, [["conv", "bn"]])
    assert isinstance(torch.func.replace_all_batch_norm_modules_(model), PyraNet)
    assert all(m.running_mean is not None for m in model.modules() if isinstance(m, BatchNormReLU))
    model.stacks[0].bn = nn.BatchNorm2d(24)  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="the norms of model must be BatchNormReLU, got BatchNorm2d"):
        optimize_for_inference(model)


@pytest.mark.parametrize("name", ["B*", "resnext-11-2x4d-pyramid"])
def test_statistics_by_one_more_pass(name: str) -> None:
    model = network(name).eval()
    momenta = [m.momentum for m in model.modules() if isinstance(m, BatchNorm | BatchNormReLU)]
    batches = [torch.randn(2, 3, 32, 32) + number for number in range(3)]
    first = next(m for m in model.modules() if isinstance(m, BatchNorm | BatchNormReLU))
    inputs: list[Tensor] = []
    handle = first.register_forward_hook(lambda module, x, y: inputs.append(x[0].detach()))
    update_bn([[batch, "label"] for batch in batches], model, "cpu")
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs])
    torch.testing.assert_close(first.running_mean, means.mean(0), rtol=1e-4, atol=1e-5)
    assert not any(m.training for m in model.modules())
    assert momenta == [m.momentum for m in model.modules() if isinstance(m, BatchNorm | BatchNormReLU)]
    assert {int(b) for n, b in model.named_buffers() if n.endswith("tracked")} == {3}


def test_a_model_without_norms_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"model must have batch norms of this package, got a Linear without any.*convert_sync"
    ):
        synchronize_batch_norms_(nn.Linear(2, 2))
