"""`python -m pyranet_fast.evaluate` as a user meets it: a checkpoint on a data set, and files of predictions."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from pyranet_fast import cli, evaluate
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.evaluation import evaluator as evaluation
from pyranet_fast.models import PyraNet

PEOPLE = 1007  # LSP's split is by number: testing starts after the first thousand
RESULTS = [
    "calibration.json",
    "calibration.png",
    "curves.json",
    "curves.png",
    "metrics.json",
    "predictions.h5",
    "table.md",
    "table.tex",
    "table.txt",
]
RESULTS += ["worst", "worst.html"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    images = folder / "lsp_dataset" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    joints = rng.uniform(8, 56, (3, 14, PEOPLE))
    joints[2] = 0
    encoded = cv2.imencode(".jpg", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    for number in range(1, PEOPLE + 1):
        (images / f"im{number:04d}.jpg").write_bytes(encoded)
    savemat(folder / "lsp_dataset" / "joints.mat", {"joints": joints})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = {"stacks": 1, "joints": 14, "features": 8, "depth": 1, "base_width": 2}
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, Checkpoint(config, PyraNet(**config).state_dict(), "lsp", 32))
    return path


def flags(checkpoint: Path, root: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--checkpoint", str(checkpoint), "--dataset", "lsp", "--root", str(root), "--output", str(output)),
        *("--device", "cpu", *more),
    ]


@pytest.mark.parametrize("scales", ["1", "6"])
def test_a_checkpoint_is_scored(checkpoint, root, tmp_path, capsys, scales, monkeypatch):
    forms, score_maps = set(), evaluation.score_maps

    def seen(model, *arguments, **options):
        forms.add((type(model).__name__, torch.backends.cudnn.benchmark))
        return score_maps(model, *arguments, **options)

    monkeypatch.setattr(evaluation, "score_maps", seen)
    assert cli.run(evaluate.main, flags(checkpoint, root, tmp_path, "--scales", scales, "--write", "coco")) == 0
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert set(result) == {"metric", "mean", "columns", "conventions", "count", "settings"}
    assert forms == {("InferencePyraNet", True)} and not torch.backends.cudnn.benchmark
    assert result["metric"] == "PCK@0.2" and result["count"] == 7 and len(result["settings"]["scales"]) == int(scales)
    with h5py.File(tmp_path / "predictions.h5") as file:
        assert file["preds"].shape == (7, 14, 3) and np.isfinite(file["preds"][:]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*RESULTS, "coco_results.json"])
    said = capsys.readouterr().out
    assert "PRM, 8 stacks (published)" in said and "mean over 14 joints" in said and "% of the time" in said

    # Its own file of predictions gives the same figures.
    again, truth = tmp_path / "again", root / "lsp_dataset" / "joints.mat"
    of_files = ["--predictions", str(tmp_path / "predictions.h5"), "--ground-truth", str(truth)]
    assert cli.run(evaluate.main, [*of_files, "--people", "1001-1007", "--output", str(again)]) == 0
    other = json.loads((again / "metrics.json").read_text())
    assert other["columns"] == result["columns"] and other["conventions"] == result["conventions"]
    assert "LSP 1001-1007" in (again / "table.md").read_text()
    assert json.loads((again / "curves.json").read_text()) == json.loads((tmp_path / "curves.json").read_text())


def test_an_interrupted_evaluation_is_gone_on_with(checkpoint, root, tmp_path, capsys, monkeypatch):
    calls = []

    def stop(*arguments, **options):
        calls.append(len(arguments[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_maps(*arguments, **options)

    score_maps = evaluation.score_maps
    monkeypatch.setattr(evaluation, "score_maps", stop)
    command = flags(checkpoint, root, tmp_path, "--batch-size", "3")
    assert cli.run(evaluate.main, command) == cli.INTERRUPTED
    assert "3 of 7 people are done; rerun the same command to resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.part"]
    assert cli.run(evaluate.main, command) == 0
    assert "3 of 7 people were done before" in capsys.readouterr().err
    assert calls == [3, 3, 3, 1] and not (tmp_path / "evaluation.part").exists()


def test_missing_images_are_said(checkpoint, root, tmp_path, capsys):
    name = root / "lsp_dataset" / "images" / "im1003.jpg"
    content = name.read_bytes()
    name.write_bytes(content[:40])
    try:
        assert cli.run(evaluate.main, flags(checkpoint, root, tmp_path)) == cli.BAD_INPUT
        assert "im1003.jpg" in capsys.readouterr().err
        assert cli.run(evaluate.main, flags(checkpoint, root, tmp_path, "--on-error", "skip")) == 0
    finally:
        name.write_bytes(content)
    said = "1 of 7 people, in 1 picture, is left out: 1 whose picture is truncated (im1003.jpg)"
    assert said in capsys.readouterr().err
    settings = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert settings["unreadable_reasons"] == {"whose picture is truncated": 1} and settings["unreadable_pictures"] == 1
    assert json.loads((tmp_path / "metrics.json").read_text())["count"] == 6


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--predictions", "a.h5"], "--predictions and --ground-truth go together"),
        (["--predictions", "a.h5", "--ground-truth", "b.mat", "--root", "."], "--root does not go with --predictions"),
        (["--checkpoint", "a.pt", "--people", "1-2"], "--people does not go with --checkpoint"),
        (["--checkpoint", "a.pt", "--write", "csv"], "--write must be coco or mpii, got 'csv'"),
        (["--checkpoint", "a.pt", "--worst", "-1"], "--worst must be an integer of at least 0 (0 for no page), got -1"),
        (["--checkpoint", "a.pt", "--scales", "5"], "invalid choice: 5"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(arguments)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_golden_row(data_root, tmp_path, capsys):
    folder = data_root / "mpii"
    arguments = ["--predictions", str(folder / "pred_multiscale_250.h5"), "--output", str(tmp_path)]
    assert cli.run(evaluate.main, [*arguments, "--ground-truth", str(folder / "detections_our_format.mat")]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.split()[-8:] == "97.41 96.16 91.10 86.88 90.05 86.00 83.89 90.27".split()
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert round(result["mean"], 2) == 90.27 and result["count"] == 2958
    readings = {name: round(value, 2) for name, value in result["conventions"].items()}
    assert 90.65 in readings.values() and 91.36 in readings.values() and 35.94 in readings.values()
