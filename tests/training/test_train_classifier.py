"""`python -m pyranet_fast.train_classifier` as a user meets it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import pytest
import torch

from pyranet_fast import Predictor, UserError, cli, evaluate, predict, train, train_classifier
from pyranet_fast.data.classification import LabeledImages, load_shapes, normalize_by_channel
from pyranet_fast.models.zoo import build_model, load_checkpoint
from pyranet_fast.training import classification, trainer
from pyranet_fast.training.config import ClassifierConfig
from pyranet_fast.training.optim import learning_rate


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the colored shapes."""

    def some(split: str) -> LabeledImages:
        d = load_shapes(split)
        n = len(d) // 10
        return LabeledImages(d.name, d.images[:n], d.labels[:n], d.classes, d.mean, d.std)

    monkeypatch.setattr(classification, "load_shapes", some)


def arguments(output: Path, *more: str) -> list[str]:
    return [
        "--output", str(output), "--model", "wrn-10-1-pyramid", "--batch-size", "60", "--epochs", "2",
        "--device", "cpu", *more,
    ]  # fmt: skip


def finish(output: Path, *more: str) -> dict[str, torch.Tensor]:
    assert cli.run(train_classifier.main, arguments(output, *more)) == 0
    return load_checkpoint(output / "last.pt", None).weights


def test_a_run_leaves_logs_curves_pictures_and_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = finish(tmp_path, "--ema", "0.9")
    said = capsys.readouterr()
    assert "2 epochs of 4 steps" in said.err and "epoch 2: loss" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["done", "test"]
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["step"] for row in rows] == ["4", "8"] and all(row["validation"] for row in rows)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.02, 0.0008])  # ×0.2 at 30, 60 and 80 %
    for name in ("curves.png", "pictures/epoch_001.png", "pictures/epoch_002.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None and picture.std() > 1, name
    assert list((tmp_path / "tensorboard").iterdir())

    checkpoint = load_checkpoint(tmp_path / "last.pt", "classification")
    assert checkpoint.model == {"name": "wrn-10-1-pyramid", "classes": 6} and checkpoint.input_size == 32
    shapes = classification.load_shapes("test")
    assert checkpoint.images["classes"] == list(shapes.classes)
    metrics = checkpoint.metrics
    assert metrics["metric"] == "accuracy" and metrics["mean"] + metrics["error"] == pytest.approx(100)
    model = build_model(checkpoint)
    assert not model.training and all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        scores = model(normalize_by_channel(shapes.images, checkpoint.images["mean"], checkpoint.images["std"]))
    assert 100 * float((scores.argmax(1) == shapes.labels).double().mean()) == pytest.approx(metrics["mean"], abs=2)


def test_it_learns(tmp_path: Path) -> None:
    finish(tmp_path, "--epochs", "15", "--validate-every", "15")
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["accuracy"]) > 0.33  # twice chance


class Crash(Exception):
    pass


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finish(tmp_path / "whole")
    saved = trainer.save_checkpoint
    steps: list[int] = []

    def crash_at_three(path: Path, checkpoint) -> None:
        saved(path, checkpoint)
        steps.append(checkpoint.training["step"])
        if steps == [1, 2, 3]:
            raise Crash

    monkeypatch.setattr(trainer, "save_checkpoint", crash_at_three)
    flags = arguments(tmp_path / "parts", "--save-every", "1")
    with pytest.raises(Crash):
        train_classifier.main(flags)
    assert train_classifier.main(flags) == 0
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]  # an epoch before its validation and after it
    parts = load_checkpoint(tmp_path / "parts" / "last.pt", "classification").weights
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_resnext_bf16_and_no_augmentation(tmp_path: Path) -> None:
    more = ("--model", "resnext-11-2x4d-pyramid", "--precision", "bf16", "--no-augment", "--max-steps", "2")
    assert all(t.dtype != torch.bfloat16 and t.isfinite().all() for t in finish(tmp_path, *more).values())
    settings = load_checkpoint(tmp_path / "last.pt", None).training["settings"]
    assert settings["schedule"] == "resnext"


def test_batches_of_one_image(tmp_path: Path) -> None:
    """Statistics of its pixels are enough: 8x8 on the innermost maps."""
    trained = finish(tmp_path, "--batch-size", "1", "--max-steps", "2", "--model", "wrn-10-1-pyramid")
    assert all(t.isfinite().all() for t in trained.values())
    assert {int(t) for name, t in trained.items() if name.endswith("num_batches_tracked")} == {2}


def test_published_recipes_are_the_defaults() -> None:
    wide, grouped = ClassifierConfig(), ClassifierConfig(model="resnext-29-8x64d-pyramid")
    assert (wide.epochs, wide.batch_size, wide.lr, wide.weight_decay, wide.schedule) == (200, 128, 0.1, 5e-4, "wrn")
    assert (grouped.epochs, grouped.schedule) == (300, "resnext")

    def changes(schedule: str, epochs: int, steps: int = 390) -> list[tuple[int, float]]:
        total, found, last = epochs * steps, [], 0.1
        for step in range(total):
            rate = learning_rate(step, total, base=0.1, schedule=schedule)
            if rate != last:
                found.append((step // steps if step % steps == 0 else -1, round(rate, 6)))
                last = rate
        return found

    assert changes("wrn", 200) == [(60, 0.02), (120, 0.004), (160, 0.0008)]
    assert changes("resnext", 300) == [(150, 0.01), (225, 0.001)]


def failure(capsys: pytest.CaptureFixture, main, flags: list[str]) -> str:
    try:
        status = cli.run(main, flags)
    except SystemExit as error:  # argparse's own
        status = error.code
    assert status == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_checkpoints_of_classifiers_and_of_poses_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    finish(tmp_path / "c", "--max-steps", "1")
    path = str(tmp_path / "c" / "last.pt")
    sentence = "holds an image classifier; a network for poses is needed here"
    assert sentence in failure(capsys, evaluate.main, ["--checkpoint", path, "--output", str(tmp_path / "e")])
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), torch.randint(0, 255, (64, 64, 3)).byte().numpy())
    flags = [str(image), "--checkpoint", path, "--output", str(tmp_path / "p")]
    assert sentence in failure(capsys, predict.main, flags)
    with pytest.raises(UserError, match=sentence):
        Predictor(path)
    pose = [
        "--dataset", "demo", "--stacks", "1", "--features", "24", "--depth", "2", "--input-size", "64", "--no-cache",
        "--max-steps", "1", "--output", str(tmp_path / "q"), "--resume", path, "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    assert sentence in failure(capsys, train.main, pose)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--dataset", "cifar10"], "CIFAR-10 needs --root"),
        (["--dataset", "cifar10", "--root", "/nowhere"], "/nowhere/cifar-10-batches-py does not exist"),
        (["--dataset", "imagenet"], "imagenet"),
        (["--model", "vgg-16"], "model must be wrn-DEPTH-WIDTH"),
        (["--model", "wrn-27-10"], "depth must be 6 n + 4"),
        (["--batch-size", "500"], "--batch-size must be at most the number of training images, 240, got 500"),
        (["--batch-size", "0"], "--batch-size must be a positive integer, got 0"),
        (["--epochs", "-1"], "--epochs must be a positive integer, got -1"),
        (["--max-steps", "0"], "--max-steps must be a positive integer, got 0"),
        (["--lr", "nan"], "--lr must be a number above 0 and below 1,000,000, got nan"),
        (["--weight-decay", "-1"], "--weight-decay must be a finite number of at least 0, got -1.0"),
        (["--ema", "1"], "--ema must be a number in [0, 1), got 1.0"),
        (["--momentum", "0"], "--momentum must be a number between 0 and 1, got 0.0"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_flags_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], sentence: str
) -> None:
    assert sentence in failure(capsys, train_classifier.main, [*arguments(tmp_path), *flags])


def test_other_settings_and_divergence_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    finish(tmp_path / "a", "--max-steps", "1")
    resume = ["--resume", str(tmp_path / "a" / "last.pt"), "--lr", "0.2"]
    assert "--lr 0.1 there, 0.2 here" in failure(capsys, train_classifier.main, arguments(tmp_path / "b", *resume))
    diverging = arguments(tmp_path / "c", "--lr", "1e5", "--epochs", "9")
    assert "the loss became" in failure(capsys, train_classifier.main, diverging)
