"""The step as a graph: what is copied, when it records, when it runs eagerly. A fake stands in for CUDA."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyranet_fast import UserError, cli, ops, train
from pyranet_fast.checkpoint import Checkpoint
from pyranet_fast.data.classification import LabeledImages, load_shapes
from pyranet_fast.data.transforms import MEAN, normalize
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.nn import checkpoint_activations_
from pyranet_fast.training import classification, trainer
from pyranet_fast.training.casting import CastWeights
from pyranet_fast.training.classification import ClassificationTask
from pyranet_fast.training.config import ClassifierConfig, PoseConfig
from pyranet_fast.training.optim import MovingAverage, load_optimizer_state, optimizer_state
from pyranet_fast.training.step import WARM_UPS, GraphedStep, Step, set_learning_rate
from tests.fake_capture import FakeCapture


class SmallTask:
    """A pose network with pooling windows on random pictures."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.device = torch.device("cpu")
        self.model: nn.Module = PyraNet(1, 3, features=24, depth=1).train()
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-3)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        maps = self.model(batch["image"])[-1]
        loss = ops.heatmap_loss(maps, batch["joints"], torch.ones(batch["joints"].shape[:2]))
        return loss, maps.detach().mean(), len(maps)


def batch(number: int, people: int = 3, side: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "image": torch.randn(people, 3, side, side, generator=generator),
        "joints": torch.rand(people, 3, 2, generator=generator) * 8,
    }


def run(batches: list[dict[str, Tensor]], graphed: bool) -> tuple[list[float], dict[str, Tensor], list[str]]:
    task = SmallTask()
    capture = FakeCapture(task.model, task.optimizer)
    step = GraphedStep(task, task.optimizer, capture) if graphed else Step(task, task.optimizer)
    torch.manual_seed(5)
    seen = []
    for number, content in enumerate(batches):
        loss, accuracy, samples = step.run(content, 1e-3 / (1 + number))
        assert samples == len(content["image"])
        seen += [loss.item(), accuracy.item()]
    return seen, task.model.state_dict(), capture.log


@pytest.mark.parametrize(
    ("batches", "log"),
    [
        # the last, smaller batch of an epoch is eager and leaves the graph as it is
        (
            [*map(batch, range(6)), batch(6, people=2), batch(7), batch(8)],
            "warm up, warm up, warm up, record, replay, replay, replay, warm up, replay, replay",
        ),
        # pictures that grow for good get a graph of their own, and so do the small ones when they come back
        (
            [batch(n, side=64 if 4 <= n < 8 else 32) for n in range(12)],
            ", ".join(["warm up, warm up, warm up, record, replay"] * 3),
        ),
        # fewer batches of a shape in a row than warm it up are never recorded
        ([batch(n, people=2 + n // 3 % 2) for n in range(9)], ", ".join(["warm up"] * 9)),
    ],
    ids=["last batch", "early size", "changing"],
)
def test_a_graph_trains_as_the_eager_step_does(batches: list[dict[str, Tensor]], log: str) -> None:
    seen, weights, _ = run(batches, graphed=False)
    got, graphed_weights, calls = run(batches, graphed=True)
    assert ", ".join(calls) == log
    assert got == seen
    assert all(torch.equal(tensor, graphed_weights[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("graphed", [False, True])
def test_the_moving_average_is_part_of_the_step(graphed: bool) -> None:
    """A replay makes it follow, by what the host has put into its share."""
    tasks = [SmallTask(), SmallTask()]
    expected = MovingAverage(tasks[0].model, 0.99)
    average = MovingAverage(tasks[1].model, 0.99, torch.ones(()) if graphed else None)
    capture = FakeCapture(nn.ModuleList([tasks[1].model, average.module]), tasks[1].optimizer)
    plain: Step = Step(tasks[0], tasks[0].optimizer)
    step: Step = Step(tasks[1], tasks[1].optimizer, average)
    if graphed:
        step = GraphedStep(tasks[1], tasks[1].optimizer, capture, average)
    for one in (plain, step):
        torch.manual_seed(5)
        for number in range(8):
            one.run(batch(number), 1e-3)
            if one is plain:
                expected.update()
    assert ("replay" in capture.log) is graphed and average.count == 8
    got = average.module.state_dict()
    for name, tensor in expected.module.state_dict().items():
        torch.testing.assert_close(got[name], tensor, **({} if graphed else {"rtol": 0, "atol": 0}))


class LowTask(SmallTask):
    """With products in bfloat16."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model(batch["image"])[-1]
        return ops.heatmap_loss(maps.float(), batch["joints"], torch.ones(batch["joints"].shape[:2])), maps.mean(), 3


@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_weights_that_are_cast_at_once_train_as_autocast_does(graphed: bool, checkpointed: bool) -> None:
    seen = []
    for casting in (False, True):
        task = LowTask()
        if checkpointed:
            checkpoint_activations_(task.model)
        parameters = dict(task.model.named_parameters())
        casts = CastWeights(task.model) if casting else None
        step: Step = Step(task, task.optimizer, casts=casts)
        if graphed:
            step = GraphedStep(task, task.optimizer, FakeCapture(task.model, task.optimizer), casts=casts)
        torch.manual_seed(5)
        with casts_counted() as count:
            losses = [step.run(batch(number), 1e-3)[0].item() for number in range(6)]
        assert all(p is parameters[n] and p.dtype == torch.float32 for n, p in task.model.named_parameters())
        gradients = {n: p.grad for n, p in parameters.items()}
        assert all(g is not None and g.dtype == torch.float32 for g in gradients.values())
        seen.append((losses, task.model.state_dict(), gradients, count[0]))
    (losses, weights, gradients, plain), (got, got_weights, got_gradients, at_once) = seen
    assert got == losses
    assert all(torch.equal(tensor, got_weights[name]) for name, tensor in weights.items())
    assert all(torch.equal(tensor, got_gradients[name]) for name, tensor in gradients.items())
    assert at_once < plain / 2, (at_once, plain)


@contextmanager
def casts_counted() -> Iterator[list[int]]:
    """Counts casts of tensors to another floating-point type, lists of them once."""

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func in (torch.ops.aten._to_copy.default, torch.ops.aten._foreach_copy_.default):
                count[0] += 1
            return func(*args, **(kwargs or {}))

    count = [0]
    with Counting():
        yield count


def test_weights_are_put_back_where_a_loss_fails() -> None:
    task = LowTask()
    parameters, casts = dict(task.model.named_parameters()), CastWeights(task.model)
    with pytest.raises(ValueError, match="broken"), casts.applied():
        assert any(p.dtype == torch.bfloat16 for p in task.model.parameters())
        raise ValueError("broken")
    assert all(p is parameters[n] for n, p in task.model.named_parameters())


def test_batches_are_copied_into_the_same_buffers() -> None:
    """A replay reads where the recording read, never the batch's own memory, which it leaves as it was."""
    task = SmallTask()
    seen: list[dict[str, Tensor]] = []

    def loss(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        seen.append(dict(batch))
        return SmallTask.loss(task, batch)

    task.loss = loss  # type: ignore[method-assign]
    step = GraphedStep(task, task.optimizer, FakeCapture(task.model, task.optimizer))
    for number in range(WARM_UPS + 1):  # the last one is recorded and replayed
        step.run(batch(number), 1e-3)
    recorded = seen[-1]
    given = batch(9)
    before = copy.deepcopy(given)
    step.run(given, 1e-3)
    for name, tensor in seen[-1].items():
        assert tensor.data_ptr() == recorded[name].data_ptr() != given[name].data_ptr()
        assert torch.equal(tensor, given[name]) and torch.equal(given[name], before[name])


def test_the_rate_changes_in_place_where_it_is_a_tensor() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    rate = torch.tensor(0.5)
    for optimizer in (torch.optim.RMSprop(parameters, lr=rate), torch.optim.RMSprop(parameters, lr=0.5)):
        set_learning_rate(optimizer, 0.125)
        assert float(optimizer.param_groups[0]["lr"]) == 0.125
    assert rate.item() == 0.125


def test_checkpoints_are_the_same_with_and_without_a_graph() -> None:
    def optimizer(kind: str) -> torch.optim.RMSprop:
        model = nn.Linear(2, 2)
        nn.init.ones_(model.weight)
        made = torch.optim.RMSprop(model.parameters(), lr=torch.tensor(0.5) if kind == "graph" else 0.5)
        model(torch.ones(1, 2)).sum().backward()
        made.step()
        made.param_groups[0]["capturable"] = kind == "graph"  # the constructor refuses it for the CPU
        return made

    eager, graphed = optimizer("eager"), optimizer("graph")
    for source in (eager, graphed):
        state = optimizer_state(source)
        assert state["param_groups"][0]["lr"] == 0.5 and type(state["param_groups"][0]["lr"]) is float
        assert state["param_groups"][0]["capturable"] is False
    state = optimizer_state(graphed)
    state["param_groups"][0]["lr"] = 0.25
    for target in (eager, graphed):
        rate = target.param_groups[0]["lr"]
        load_optimizer_state(target, state)
        group = target.param_groups[0]
        assert float(group["lr"]) == 0.25 and type(group["lr"]) is type(rate)
        assert group["capturable"] is (target is graphed)
        loaded = next(iter(target.state.values()))["square_avg"]
        assert torch.equal(loaded, next(iter(graphed.state.values()))["square_avg"])
    assert graphed.param_groups[0]["lr"].item() == 0.25


def test_the_loop_trains_by_it_and_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the classifier, whose settings are made to ask for it."""

    def some(split: str) -> LabeledImages:
        d = load_shapes(split)
        return LabeledImages(d.name, d.images[:60], d.labels[:60], d.classes, d.mean, d.std)

    def fit(output: Path, graphed: bool, steps: int) -> dict[str, Tensor]:
        config = ClassifierConfig(
            output=str(output), model="wrn-10-1-pyramid", batch_size=12, epochs=2, validate_every=9, save_every=1,
            schedule="cosine",
        )  # fmt: skip
        task = ClassificationTask(config, torch.device("cpu"))
        optimizer = task.optimizer()
        task.optimizer = lambda: optimizer  # type: ignore[method-assign]
        capture = FakeCapture(task.model, optimizer)
        saved = trainer.save_checkpoint

        def stop(path: Path, checkpoint: Checkpoint) -> None:
            saved(path, checkpoint)
            if checkpoint.training["step"] == steps < 10:
                raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(ClassifierConfig, "cuda_graph", graphed)
            patch.setattr(trainer, "CudaCapture", lambda device: capture)
            patch.setattr(trainer, "save_checkpoint", stop)
            if steps < 10:
                with pytest.raises(InterruptedError):
                    trainer.Trainer(task, config).fit()
            else:
                trainer.Trainer(task, config).fit()
        assert ("replay" in capture.log) is graphed
        return load_checkpoint(output / "last.pt", None).weights

    monkeypatch.setattr(classification, "load_shapes", some)
    whole = fit(tmp_path / "eager", False, 10)
    fit(tmp_path / "graph", True, 6)
    parts = fit(tmp_path / "graph", False, 10)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_pictures_are_normalized_without_sending_anything() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = images.float().mul_(1 / 255).sub_(torch.tensor(MEAN).view(1, 3, 1, 1))
    assert torch.equal(normalize(images), expected)


def test_it_is_refused_where_it_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(train.main, ["--cuda-graph", "--device", "cpu", "--output", str(tmp_path)]) == 2
    sentence = "--cuda-graph needs one process on an NVIDIA GPU, got device cpu"
    assert sentence in capsys.readouterr().err
    with pytest.raises(UserError, match="expected --cuda-graph or --compile, got both"):
        PoseConfig(cuda_graph=True, compile=True)


def test_random_numbers_go_on_where_the_task_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second GPU in use its generator counts, not that of the current device."""
    generators = {0: torch.tensor([10]), 1: torch.tensor([11])}

    def index(device: str | torch.device = "cuda") -> int:
        return torch.device(device).index or 0

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": generators[index(device)].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device="cuda": generators.update({index(device): state})
    )
    task = SmallTask()
    task.config = PoseConfig(output=str(tmp_path))  # type: ignore[attr-defined]
    monkeypatch.setattr(SmallTask, "optimizer", lambda self: torch.optim.SGD(self.model.parameters(), lr=0.1), False)
    del task.optimizer
    task.steps_per_epoch, task.device = 1, torch.device("cuda", 1)  # type: ignore[attr-defined]
    training = trainer.Trainer(task, task.config)  # type: ignore[arg-type, attr-defined]
    state, weights = training.state_dict(), training.model.state_dict()
    generators[1] = torch.tensor([99])
    training.load_state_dict(state, weights)
    assert generators[1].item() == 11 and generators[0].item() == 10
    task.device = torch.device("cpu")  # a checkpoint of a GPU goes on on the CPU
    training.load_state_dict(state | {"random_cuda": torch.tensor([55])}, weights)
    assert {i: int(g) for i, g in generators.items()} == {0: 10, 1: 11}
