"""Sampler, schedule, moving average, options."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pyranet_fast.data.crops import EpochBatchSampler
from pyranet_fast.errors import UserError
from pyranet_fast.training.config import ClassifierConfig, PoseConfig, RunConfig
from pyranet_fast.training.logging import LossGrowth, Meter
from pyranet_fast.training.optim import MovingAverage, check_optimizer, learning_rate
from pyranet_fast.training.pose import loader_workers
from pyranet_fast.training.step import FigureReader, Figures


def test_sampler_goes_on_where_it_was_left() -> None:
    whole = list(EpochBatchSampler(23, 4, seed=3, first=0, last=12))
    assert len(whole) == 12
    for first in (1, 5, 7, 11):
        assert list(EpochBatchSampler(23, 4, seed=3, first=first, last=12)) == whole[first:]
    epochs = [{index for batch in whole[i : i + 5] for _, index in batch} for i in (0, 5)]
    assert all(len(seen) == 20 for seen in epochs)
    assert whole[:5] != [[(0, i) for _, i in batch] for batch in whole[5:10]]
    assert list(EpochBatchSampler(23, 4, seed=4, first=0, last=12)) != whole


def test_schedules() -> None:
    def at(step: int, schedule: str, warmup: int = 0) -> float:
        return learning_rate(step, 200, base=1.0, schedule=schedule, warmup=warmup)

    assert [at(s, "step") for s in (0, 149, 150, 169, 170, 199)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert at(0, "cosine") == 1.0 and at(100, "cosine") == pytest.approx(0.5) and at(199, "cosine") < 1e-3
    assert [at(s, "step", 4) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_moving_average_follows_weights_and_statistics() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.5)
    average.update()  # the first one copies
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 8
        model[1].running_mean += 4
        model[1].num_batches_tracked += 7
    average.update()  # decay min(0.5, 2 / 11)
    torch.testing.assert_close(average.module[0].weight.detach(), start + 8 * (1 - 2 / 11))
    torch.testing.assert_close(average.module[1].running_mean, torch.full((2,), 4 * (1 - 2 / 11)))
    assert average.module[1].num_batches_tracked.item() == 7


def moved_model() -> tuple[nn.Module, Callable[[], None]]:
    """A model of several dtypes, and what moves it on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2).double())

    def move() -> None:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)

    return model, move


def test_moving_average_is_pytorchs_bit_for_bit() -> None:
    def follow(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(0.9, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(currents), 1 - keep)
        else:
            torch._foreach_copy_(list(averages), list(currents))

    model, move = moved_model()
    ours, expected = MovingAverage(model, 0.9), AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    for _ in range(120):
        move()
        ours.update()
        expected.update_parameters(model)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(ours.module.state_dict()[name], tensor), name
    assert ours.count == expected.n_averaged == 120


def test_moving_average_of_a_graph_reads_how_far_to_go_from_the_device() -> None:
    model, move = moved_model()
    share = torch.ones(())
    ours, expected = MovingAverage(model, 0.9, share), MovingAverage(model, 0.9)
    for number in range(30):
        move()
        ours.update()
        expected.update()
        assert share.item() == pytest.approx(1 - min(0.9, (1 + number) / (10 + number)))
    for name, tensor in expected.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], tensor)
    before = {name: t.clone() for name, t in ours.module.state_dict().items()}
    ours.advance()
    share.zero_()
    ours.follow()
    assert all(torch.equal(t, before[n]) for n, t in ours.module.state_dict().items() if t.is_floating_point())


def test_figures_are_read_at_once_on_the_cpu_and_a_step_late_elsewhere() -> None:
    at_once: FigureReader[int] = FigureReader(torch.device("cpu"))
    late: FigureReader[int] = FigureReader(torch.device("cpu"), late=True)
    seen: dict[str, list[tuple[int, Figures]]] = {"at once": [], "late": []}
    loss = torch.tensor(0.0)
    for number in range(4):
        loss.fill_(number / 3)  # as a graph does, whose results each replay overwrites
        arguments = (loss, torch.tensor(number / 7), number == 2, number)
        seen["at once"] += at_once.put(*arguments)
        assert len(seen["at once"]) == number + 1
        ready = late.put(*arguments)
        assert [n for n, _ in ready] == ([number - 1] if number else [])
        seen["late"] += ready
    seen["late"] += late.rest()
    assert late.rest() == at_once.rest() == []
    assert seen["late"] == seen["at once"] and len(seen["late"]) == 4
    assert seen["late"][2] == (2, Figures(float(torch.tensor(2 / 3)), float(torch.tensor(2 / 7)), True))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "--epochs must be a positive integer, got 0"),
        ({"lr": -1.0}, "--lr must be .*, got -1.0"),
        ({"lr": float("nan")}, "--lr must be .*, got nan"),
        ({"input_size": 100}, "--input-size must be a multiple of 64 with --depth 4, got 100"),
        ({"ema": 1.0}, "--ema must be .*, got 1.0"),
        ({"workers": -2}, "--workers must be an integer from -1 to 256, got -2"),
        ({"rotation_probability": 1.5}, "--rotation-probability must be .*, got 1.5"),
        ({"max_steps": 0}, "--max-steps must be a positive integer, got 0"),
        ({"early_size": 96}, "--early-size must be a multiple of 64 with --depth 4, got 96"),
        ({"color_noise": 1.0}, r"--color-noise must be a number in \[0, 1\), got 1.0"),
        ({"weight_decay": float("nan")}, "--weight-decay must be a finite number of at least 0, got nan"),
        ({"weight_decay": float("inf")}, "--weight-decay must be a finite number of at least 0, got inf"),
        ({"lr": 1e30}, "--lr must be a number above 0 and below 1,000,000, got 1e\\+30"),
        ({"seed": 2**32}, "--seed must be an integer from 0 to 4,294,967,295, got 4294967296"),
        ({"schedule": "steps"}, "--schedule must be one of step, cosine.*, got 'steps'"),
    ],
)
def test_absurd_options_are_named(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        PoseConfig(**values)


def parsed(config: type[RunConfig], *flags: str) -> RunConfig:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return config.from_arguments(parser.parse_args(flags))


@pytest.mark.parametrize("config", [PoseConfig, ClassifierConfig])
def test_the_defaults_of_flags_and_of_configs_are_the_same(config: type[RunConfig]) -> None:
    assert parsed(config) == config()  # type: ignore[call-arg]
    options = config.options()
    assert sorted(option.name for option in options) == sorted(field.name for field in dataclasses.fields(config))
    assert options[0].name == "dataset"  # the task's own options come first


def test_flags_make_a_config_and_old_names_still_do(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--max-steps", "3", "--no-cache", "--variant", "A", "--root", "here", "--color-noise", "0.1")
    assert parsed(PoseConfig, *flags) == PoseConfig(max_steps=3, cache=False, variant="A", root="here", color_noise=0.1)
    assert parsed(PoseConfig, "--colour-noise", "0.1") == PoseConfig(color_noise=0.1)
    with pytest.raises(SystemExit):
        parsed(PoseConfig, "--help")
    shown = capsys.readouterr().out
    assert "--color-noise" in shown and "colour" not in shown


def test_conflicts_are_of_what_decides_the_training_alone() -> None:
    config = PoseConfig(lr=0.5, output="here", workers=3)
    recorded = dataclasses.asdict(PoseConfig())
    assert config.conflicts(recorded) == ["--lr 0.0007 there, 0.5 here"]
    # An option that the checkpoint does not know yet, and one that it knows by an older name.
    old = {**dataclasses.asdict(config), "unheard_of": 1}
    del old["pool_windows"]
    old["colour_noise"] = old.pop("color_noise")
    assert config.conflicts(old) == []
    assert config.conflicts({**old, "colour_noise": 0.3}) == ["--color-noise 0.3 there, 0.2 here"]


def test_loader_processes_leave_the_cpu_to_training(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [loader_workers(n, cpu) for n in (-1, 0, 3)] == [0, 0, 3]
    assert [loader_workers(n, gpu) for n in (-1, 0, 3)] == [5, 0, 3]
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert loader_workers(-1, gpu) == 8


def test_a_loss_that_grows_is_told_of_once_and_noise_is_not() -> None:
    noise = torch.rand(2000, generator=torch.Generator().manual_seed(0)).tolist()
    growth = LossGrowth()
    assert not any(growth.add(0.01 * (1 + value), step) for step, value in enumerate(noise))
    growth = LossGrowth()
    assert not any(growth.add(0.5 * 0.99**step + 1e-3 * value, step) for step, value in enumerate(noise))
    said = [growth.add(1e-3 * 1.1**step, 2000 + step) for step in range(100)]
    assert sum(map(bool, said)) == 1
    told = next(filter(None, said))
    assert told.startswith("the loss grows: its mean was 0.000") and told.endswith("; training diverges")
    step = next(step for step, text in enumerate(said) if text)
    assert math.isfinite(1e-3 * 1.1**step) and step < 60


def test_a_meter_goes_on_where_another_was() -> None:
    whole, part = Meter(), Meter()
    for value in (0.1, 0.7):
        whole.add(value, value / 3, 4, 0.01), part.add(value, value / 3, 4, 0.01)
    other = Meter.resumed(part.state())
    for meter in (whole, other):
        meter.add(0.3, 0.2, 4, 0.02)
    assert {**whole.row(), **{name: 0 for name in MEASURED}} == {**other.row(), **{name: 0 for name in MEASURED}}
    assert Meter.resumed(None).steps == 0


MEASURED = ("seconds", "images_per_second", "data_wait")


def test_a_checked_optimizer_has_no_state_of_what_it_did_not_train() -> None:
    """Biases that are left out have none: an empty one would be in the checkpoints of resumed trainings alone."""
    trained, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = torch.optim.RMSprop([trained, frozen])
    trained.sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    check_optimizer(optimizer)
    assert optimizer.state_dict()["state"].keys() == before["state"].keys() == {0}
