"""`--precision auto`: what is timed, what is chosen, and that it stays."""

from __future__ import annotations

import json

import pytest
import torch

from pyranet_fast import cli, evaluate, predict, train, train_classifier
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data import COCOSource
from pyranet_fast.evaluation import evaluator
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.models import PyraNet, precision
from pyranet_fast.models.precision import Choice, choose_precision, fast_precision
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.training import trainer
from tests.data.coco_people import dogs, write


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    monkeypatch.delenv(precision.SWITCH, raising=False)


TINY = [
    "--stacks", "1", "--features", "8", "--depth", "1", "--base-width", "2", "--input-size", "32", "--batch-size", "4",
    "--epochs", "2", "--device", "cpu",
]  # fmt: skip


class Clock:
    """Time that passes only where a pass says so."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(precision.time, "perf_counter", lambda: self.now)

    def attempt(self, **seconds):
        def run(name, samples):
            self.calls.append((name, samples))
            self.now += seconds[name] * samples

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def convolution(monkeypatch, fp32, bf16):
    choice = Choice("fp32" if fp32 <= bf16 else "bf16", {"fp32": fp32, "bf16": bf16}, "a 3x3 convolution")
    monkeypatch.setattr(precision, "fast_precision", lambda device="cpu": choice)
    return choice


def test_where_a_convolution_is_clear_no_pass_is_made(clock, monkeypatch):
    choice = convolution(monkeypatch, 0.001, 0.005)
    assert choose_precision(clock.attempt(fp32=1, bf16=1), 16, "a step") is choice and clock.calls == []
    assert str(choice) == "float32, since a 3x3 convolution takes 1 ms in float32 and 5 ms in bfloat16"


@pytest.mark.parametrize(("bf16", "chosen"), [(0.002, "bf16"), (0.0097, "fp32"), (0.02, "fp32")])
def test_passes_decide_elsewhere(bf16, chosen, clock, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)
    choice = choose_precision(clock.attempt(fp32=0.0099, bf16=bf16), 64, "a step")
    assert choice.precision == chosen and choice.seconds["fp32"] == pytest.approx(0.1188)
    assert {samples for _, samples in clock.calls[4:]} == {12} and str(choice).endswith("in bfloat16")
    assert choice.what == "a step of 12" and clock.now < 2


def test_a_slow_network_is_timed_by_few_passes_of_one_sample(clock, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)
    choice = choose_precision(clock.attempt(fp32=3.0, bf16=2.0), 16, "a step")
    both = [("fp32", 1), ("bf16", 1)]
    assert clock.calls == [*both, ("fp32", 1), ("fp32", 1), *both, *both] and choice.precision == "bf16"


@pytest.mark.parametrize(("bf16", "turns"), [(0.01, 4), (0.04, 4), (0.018, 11)])
def test_few_turns_are_enough_where_one_is_faster_by_far(bf16, turns, clock, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)
    choice = choose_precision(clock.attempt(fp32=0.02, bf16=bf16), 1, "a pass")
    assert choice.precision == ("bf16" if bf16 < 0.019 else "fp32")
    assert clock.calls[4:] == [("fp32", 1), ("bf16", 1)] * turns


def test_what_the_first_pass_does_once_does_not_count(clock, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)
    usual = clock.attempt(fp32=0.2, bf16=0.1)

    def attempt(name, samples):
        clock.now += 0 if (name, samples) in clock.calls else 1.2  # packs, compiles
        usual(name, samples)

    assert choose_precision(attempt, 16, "a step").precision == "bf16"


def test_no_more_samples_than_a_batch_has(clock, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)
    choose_precision(clock.attempt(fp32=1e-4, bf16=1e-4), 3, "a pass")
    assert max(samples for _, samples in clock.calls) == 3


def test_the_real_thing():
    found = fast_precision()
    assert found.precision in ("fp32", "bf16") and min(found.seconds.values()) > 0
    faster = min(found.seconds, key=lambda name: found.seconds[name])
    assert found.precision == faster or found.precision == "fp32"


@pytest.fixture
def root(tmp_path):
    write(tmp_path, dogs(4), "val.json")
    return write(tmp_path, dogs())


def flags(root, *more):
    return ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(root / "out"), *TINY, *more]


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_training_keeps_what_was_found(faster, root, monkeypatch, capsys):
    times = {"fp32": 0.001, "bf16": 0.0005 if faster == "bf16" else 0.5}
    monkeypatch.setattr(trainer, "choose_precision", lambda *_: Choice(faster, times, "a step of 4"))
    assert cli.run(train.main, flags(root, "--max-steps", "2")) == 0
    assert f"precision auto: {precision.NAMES[faster]}, since a step of 4 takes" in capsys.readouterr().err
    assert load_checkpoint(root / "out" / "last.pt").training["settings"]["precision"] == faster
    # On a machine where the other is faster the run goes on as it was.
    monkeypatch.setattr(trainer, "choose_precision", lambda *_: pytest.fail("it is known"))
    assert cli.run(train.main, flags(root, "--max-steps", "2")) == 0
    assert "precision auto" not in capsys.readouterr().err
    other = "bf16" if faster == "fp32" else "fp32"
    assert cli.run(train.main, flags(root, "--max-steps", "2", "--precision", other)) == cli.BAD_INPUT
    assert f"--precision {faster} there, {other} here" in capsys.readouterr().err


def test_timing_changes_no_bit_of_the_training(root, tmp_path, monkeypatch):
    convolution(monkeypatch, 0.001, 0.0005)  # so that real steps are made
    monkeypatch.setattr(precision, "_choice", lambda seconds, what: Choice("fp32", seconds, what))
    assert cli.run(train.main, flags(root)) == 0
    found = load_checkpoint(root / "out" / "last.pt").weights
    assert cli.run(train.main, flags(root, "--precision", "fp32", "--output", str(tmp_path / "asked"))) == 0
    asked = load_checkpoint(tmp_path / "asked" / "last.pt").weights
    assert all(torch.equal(found[name], asked[name]) for name in found)


def test_every_command_takes_it_by_default(root, tmp_path, monkeypatch, capsys):
    convolution(monkeypatch, 0.001, 0.0005)
    assert cli.run(train.main, flags(root)) == 0
    said = capsys.readouterr().err
    assert "precision auto: " in said and "since a step of " in said
    network = ["--checkpoint", str(root / "out" / "last.pt")]
    people = ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(tmp_path / "e")]
    assert cli.run(evaluate.main, [*network, *people]) == 0
    assert "since a pass of " in capsys.readouterr().err
    photo = f"{root}/images/pack/000.jpg"
    assert cli.run(predict.main, [photo, *network, "--verbose", "--output", str(tmp_path / "p")]) == 0
    assert "since a pass of " in capsys.readouterr().err
    classes = ["--dataset", "demo", "--model", "wrn-10-1", "--max-steps", "1", "--output", str(tmp_path / "c")]
    assert cli.run(train_classifier.main, [*classes, "--batch-size", "8", "--device", "cpu"]) == 0
    assert "since a step of " in capsys.readouterr().err


def test_the_predictor_takes_it_when_asked(root, monkeypatch, tmp_path):
    convolution(monkeypatch, 0.001, 0.005)
    network = PyraNet(1, 4, features=8, depth=1, base_width=2)
    checkpoint = root / "n.pt"
    skeleton = COCOSource("dogs.json", root).skeleton.as_value()
    save_checkpoint(checkpoint, Checkpoint(network.config, network.state_dict(), skeleton, 32))
    assert Predictor(checkpoint, "cpu", precision="auto").precision == "fp32"
    assert Predictor(checkpoint, "cpu").precision == "fp32"
    with pytest.raises(ValueError, match="precision must be one of 'auto', 'fp32', 'bf16' or None, got 'fp16'"):
        Predictor(checkpoint, "cpu", precision="fp16")


def test_a_variable_says_what_auto_is(root, monkeypatch, capsys):
    monkeypatch.setattr(precision, "fast_precision", lambda device: pytest.fail("nothing is measured"))
    monkeypatch.setenv(precision.SWITCH, "bf16")
    assert cli.run(train.main, flags(root, "--max-steps", "1")) == 0
    assert "precision auto: bfloat16, since PYRANET_FAST_PRECISION is bf16\n" in capsys.readouterr().err
    assert load_checkpoint(root / "out" / "last.pt").training["settings"]["precision"] == "bf16"
    monkeypatch.setenv(precision.SWITCH, "fp16")
    assert cli.run(train.main, flags(root, "--output", str(root / "b"))) == cli.BAD_INPUT
    assert "PYRANET_FAST_PRECISION must be fp32 or bf16, got 'fp16'" in capsys.readouterr().err


def test_an_interrupted_evaluation_keeps_its_precision(root, tmp_path, monkeypatch, capsys):
    assert cli.run(train.main, flags(root, "--precision", "fp32")) == 0
    people = ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(tmp_path / "e")]
    command = ["--checkpoint", str(root / "out" / "last.pt"), *people, "--batch-size", "2"]
    maps, calls = evaluator.score_maps, []

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return maps(*arguments, **options)

    monkeypatch.setattr(evaluator, "score_maps", stop)
    monkeypatch.setenv(precision.SWITCH, "bf16")
    assert cli.run(evaluate.main, command) == cli.INTERRUPTED
    monkeypatch.setenv(precision.SWITCH, "fp32")
    assert cli.run(evaluate.main, command) == 0
    assert "2 of 4 people were done before" in capsys.readouterr().err
    settings = json.loads((tmp_path / "e" / "metrics.json").read_text())["settings"]
    assert settings["precision"] == "bf16"
