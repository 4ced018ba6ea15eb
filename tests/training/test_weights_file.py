"""Weights to pass on, and the list of those that are shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyranet_fast import Predictor, cli, evaluate, export_weights, models, predict
from pyranet_fast.checkpoint import Checkpoint, describe, read_weights, save_checkpoint, save_weights
from pyranet_fast.data.image_io import write_image
from pyranet_fast.errors import UserError
from pyranet_fast.keypoints import Skeleton
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import find_checkpoint, load_checkpoint


def trained(stacks: int = 1, **more) -> Checkpoint:
    torch.manual_seed(stacks)
    model = PyraNet(stacks, 14, features=24, depth=1, base_width=6)
    content = {"model": model.config, "weights": model.state_dict(), "skeleton": "lsp", "input_size": 64}
    return Checkpoint(**content, **more)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr("pyranet_fast.models.zoo.FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_there_and_back(tmp_path):
    before = trained(metrics={"mean": 70.5, "metric": "PCK", "rows": [1, 2], "bad": float("nan")})
    next(t for name, t in before.weights.items() if name.endswith("running_var")).fill_(1e-9)  # 0 in half precision
    for half, tolerance in ((True, 1e-3), (False, 0.0)):
        path = tmp_path / f"{half}.safetensors"
        save_weights(path, before, description="of nobody", half=half)
        after = read_weights(path)
        assert after.metrics == {"mean": 70.5, "metric": "PCK"} and not after.training
        assert (after.model, after.skeleton, after.input_size, after.kind) == (before.model, "lsp", 64, "pose")
        assert after.weights.keys() == before.weights.keys()
        for name, tensor in before.weights.items():
            assert after.weights[name].dtype == tensor.dtype
            exact = tensor.dim() < 2 or not half
            torch.testing.assert_close(
                after.weights[name], tensor, rtol=0 if exact else tolerance, atol=0 if exact else 1e-5
            )
        about = describe(path)
        assert about["description"] == "of nobody"
        assert about["parameters"] == sum(p.numel() for p in PyraNet(**before.model).parameters())
    assert (tmp_path / "True.safetensors").stat().st_size < 0.7 * (tmp_path / "False.safetensors").stat().st_size


def test_what_cannot_be_written_or_read(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors, got '\.pt'"):
        save_weights(tmp_path / "a.pt", trained())
    large = trained()
    name = next(n for n, t in large.weights.items() if t.dim() > 1)
    large.weights[name] = large.weights[name] + 1e6
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="too large for half precision"):
        save_weights(path, large)
    assert list(tmp_path.iterdir()) == []
    save_weights(path, large, half=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="were not written by pyranet_fast"):
        load_checkpoint(path)
    for about, words in (("[", "cannot be read"), ({"version": 9}, "format version 9"), ({"version": 1}, "'model'")):
        save_file({"x": torch.zeros(1)}, path, {"pyranet_fast": about if about == "[" else json.dumps(about)})
        with pytest.raises(UserError, match=words):
            load_checkpoint(path)


def test_shipped_networks_are_listed_and_used_by_name(folder, tmp_path, capsys):
    assert models.available() == []
    with pytest.raises(UserError, match="no weights are shipped"):
        find_checkpoint(None)
    save_checkpoint(tmp_path / "last.pt", trained(1))
    small = folder / "small.safetensors"
    assert cli.run(export_weights.main, [str(tmp_path / "last.pt"), str(small), "--description", "one stack"]) == 0
    assert "parameters" in capsys.readouterr().out
    save_weights(folder / "large.safetensors", trained(2), description="two stacks")
    large, other = models.available()
    assert (large.name, other.name, other.description) == ("large", "small", "one stack")
    assert large.parameters > other.parameters and other.input_size == 64 and other.kind == "pose"
    assert models.available(folder) == [large, other]
    picture = np.full((80, 60, 3), 90, np.uint8)
    for asked, stacks in ((None, 2), ("small", 1), (small, 1), ("large", 2)):
        predictor = Predictor(asked, "cpu")
        assert predictor.model.config["stacks"] == stacks
        assert np.isfinite(predictor(picture).joints).all()
    with pytest.raises(UserError, match="medium does not exist; shipped are large, small"):
        Predictor("medium")
    with pytest.raises(UserError, match="an image classifier is needed here"):
        load_checkpoint(small, "classification")


def test_the_cheapest_shipped_network_takes_the_first_looks(folder, tmp_path):
    for name, stacks in (("large", 3), ("small", 1), ("middle", 2)):
        save_weights(folder / f"{name}.safetensors", trained(stacks))
    stranger = Skeleton("other", tuple(f"joint {i}" for i in range(14)), (), ())
    other = replace(trained(1), skeleton=stranger.as_value())
    save_weights(folder / "other.safetensors", replace(other, input_size=32))
    large = Predictor(device="cpu", flip=False)
    assert (large.name, large.searcher.name, large.searcher.flip) == ("large", "small", False)
    small = Predictor("small", "cpu")
    assert small.searcher is small
    assert (alone := Predictor("large", "cpu", searcher=None)).searcher is alone
    save_weights(tmp_path / "own.safetensors", trained(3))
    assert (own := Predictor(tmp_path / "own.safetensors", "cpu")).searcher is own
    assert (loaded := Predictor(trained(3), "cpu")).searcher is loaded
    large.searcher = None
    assert large.searcher is large


def test_evaluate_takes_what_is_shipped(folder, tmp_path, capsys):
    flags = ["--output", str(tmp_path / "out"), "--dataset", "demo", "--device", "cpu"]
    assert cli.run(evaluate.main, flags) == 2
    assert "no weights are shipped" in capsys.readouterr().err
    landmarks = Skeleton("face", tuple(f"landmark {i}" for i in range(14)), (), ())
    save_weights(folder / "net.safetensors", replace(trained(), skeleton=landmarks.as_dict()))
    with pytest.raises(SystemExit):  # the synthetic people have none of them
        evaluate.main(flags)
    assert "the checkpoint predicts the 14 of face" in capsys.readouterr().err


def test_weights_know_what_their_scores_mean(tmp_path, capsys):
    save_checkpoint(tmp_path / "last.pt", trained())
    sheet = tmp_path / "calibration.json"
    picture = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", picture)
    for right, words in (
        (0.9, "about 90% of joints"),
        (0.2, "about 20% of joints of such scores are right: do not trust"),
    ):
        sheet.write_text(json.dumps({"scores": [0.0, 1.0], "right": [right, right], "count": [5, 5], "ranking": None}))
        path = tmp_path / f"{right}.safetensors"
        flags = [str(tmp_path / "last.pt"), str(path), "--calibration", str(sheet)]
        assert cli.run(export_weights.main, flags) == 0
        pose = Predictor(path, "cpu")(picture)
        assert pose.chances.shape == (14,) and np.allclose(pose.chances, right)
        assert pose.trustworthy == (right > 0.5) and pose.as_dict()["trustworthy"] == (right > 0.5)
        assert pose.as_dict()["joints"]["neck"]["chance"] == right
        assert (
            cli.run(predict.main, [str(tmp_path / "photo.png"), "--checkpoint", str(path), "--output", str(tmp_path)])
            == 0
        )
        assert words in capsys.readouterr().out
    pose = Predictor(tmp_path / "last.pt", "cpu")(picture)
    assert pose.chances is None and pose.trustworthy is None and "trustworthy" not in pose.as_dict()
    for content, words in (
        ("{", "cannot be read"),
        ("[]", "no lists"),
        ('{"scores": [1], "right": [2], "count": [1]}', "0 and 1"),
    ):
        sheet.write_text(content)
        assert (
            cli.run(
                export_weights.main,
                [str(tmp_path / "last.pt"), str(tmp_path / "x.safetensors"), "--calibration", str(sheet)],
            )
            == 2
        )
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
