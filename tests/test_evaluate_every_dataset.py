"""`evaluate` with default flags on every name that `--dataset` takes, on small data in the published layouts."""

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
from pyranet_fast.data import DATASETS, open_dataset, pack, registry
from pyranet_fast.data.dataset import joint_origins
from pyranet_fast.keypoints import LSP, MPII
from pyranet_fast.metrics import Metric
from pyranet_fast.models import PyraNet
from tests.data import coco_people, mpii_people

LSP_PEOPLE = 1004  # LSP's split is by number: testing starts after the first thousand
COCO = "coco:dogs.json"
NAMES = [*DATASETS, COCO]
METRIC = {"demo": "PCKh@0.5", "lsp": "PCK@0.2", "lsp+lspet": "PCK@0.2", COCO: "PCK-box@0.05"}
TEST_PEOPLE = {"demo": 6, "lsp": 4, "lsp+lspet": 4, "mpii": 3, "mpii+lsp": 3, COCO: 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LSP, LSP-extended, MPII and a COCO file below one root."""
    folder = tmp_path_factory.mktemp("root")
    rng = np.random.default_rng(0)
    encoded = cv2.imencode(".jpg", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    for name, count, digits in (("lsp_dataset", LSP_PEOPLE, 4), ("lspet_dataset", 3, 5)):
        images = folder / name / "images"
        images.mkdir(parents=True)
        for number in range(1, count + 1):
            (images / f"im{number:0{digits}d}.jpg").write_bytes(encoded)
        joints = rng.uniform(8, 56, (3, 14, count))
        joints[2] = name == "lspet_dataset"
        savemat(folder / name / "joints.mat", {"joints": joints if digits == 4 else joints.transpose(1, 0, 2)})
    people = mpii_people.raw_people()
    mpii_people.write_json(mpii_people.write_images(folder, people), people)
    mpii_people.write_detections(folder / "mpii", people)
    coco_people.write(folder, coco_people.dogs())
    return folder


@pytest.fixture(autouse=True)
def few_synthetic_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_DEMO_COUNT", {"train": 8, "val": 6, "test": 6})


@pytest.fixture(scope="module")
def packed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files packed so far, by the name of their data set."""
    return {"": tmp_path_factory.mktemp("packed")}


def checkpoint_for(name: str, root: Path, folder: Path) -> Path:
    """A small network without training, with the joints of a data set."""
    torch.manual_seed(0)
    skeleton = open_dataset(name, root, "test").skeleton
    config = {"stacks": 1, "joints": len(skeleton), "features": 8, "depth": 1, "base_width": 2}
    path = folder / "network" / "last.pt"
    save_checkpoint(path, Checkpoint(config, PyraNet(**config).state_dict(), skeleton.as_value(), 32))
    return path


def evaluated(name: str, root: Path, folder: Path, *more: str) -> dict:
    """The output folder of the command with default flags, its files checked against each other."""
    checkpoint = checkpoint_for(name, root, folder)
    output = folder / "output"
    arguments = ["--checkpoint", str(checkpoint), "--dataset", name, "--root", str(root), "--output", str(output)]
    assert cli.run(evaluate.main, [*arguments, *more]) == 0
    people = open_dataset(name, root, "test")
    assert isinstance(people.metric, Metric)
    result = json.loads((output / "metrics.json").read_text())
    assert result["metric"] == people.metric.at() and list(result["columns"]) == list(people.metric.columns)
    assert result["count"] + sum(result["settings"]["left_out"].values()) == len(people)
    made = {path.name for path in output.iterdir()}
    assert made >= {"table.txt", "table.md", "table.tex", "curves.json", "curves.png", "calibration.json", "worst.html"}
    assert json.loads((output / "curves.json").read_text())["metric"] == people.metric.name
    assert json.loads((output / "calibration.json").read_text())["threshold"] == people.metric.threshold
    assert people.metric.units in (output / "worst.html").read_text()
    assert "evaluation.part" not in made
    with h5py.File(output / "predictions.h5") as file:
        assert file["preds"].shape == (len(people), len(people.skeleton), 3)
    return result


@pytest.mark.parametrize("scales", ["1", "6"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name(name, scales, root, tmp_path, capsys):
    result = evaluated(name, root, tmp_path, *([] if scales == "1" else ["--scales", scales]))
    assert result["metric"] == METRIC.get(name, "PCKh@0.5") and result["count"] == TEST_PEOPLE[name]
    table = (tmp_path / "output" / "table.txt").read_text()
    assert ("(published)" in table) == (name not in ("demo", COCO)), "figures of other people beside these"
    assert table.splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("scales", ["1", "6"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_packed(name, scales, root, packed, tmp_path):
    """The same people out of one file: the same metric, people and published rows."""
    if name not in packed:
        packed[name] = packed[""] / f"{NAMES.index(name)}.pack"
        arguments = ["--dataset", name, "--root", str(root), "--output", str(packed[name]), "--splits", "test"]
        assert cli.run(pack.main, arguments) == 0
    result = evaluated(f"packed:{packed[name]}", root, tmp_path, *([] if scales == "1" else ["--scales", scales]))
    assert result["metric"] == METRIC.get(name, "PCKh@0.5") and result["count"] == TEST_PEOPLE[name]
    table = (tmp_path / "output" / "table.txt").read_text()
    assert ("(published)" in table) == (name not in ("demo", COCO))


@pytest.mark.parametrize("formats", ["coco", "mpii"])
@pytest.mark.parametrize("name", NAMES)
def test_every_format(name, formats, root, tmp_path, capsys):
    """Every --write gives its file, or one sentence where the people have no place in MPII's list."""
    people = open_dataset(name, root, "test")
    if "mpii" in formats and getattr(people, "numbers", None) is None:
        arguments = ["--checkpoint", str(checkpoint_for(name, root, tmp_path)), "--dataset", name]
        arguments += ["--root", str(root), "--output", str(tmp_path / "output"), "--write", formats]
        assert cli.run(evaluate.main, arguments) == cli.BAD_INPUT
        assert "places of these people in MPII's list are not known" in capsys.readouterr().err
        return
    evaluated(name, root, tmp_path, "--write", formats)
    output = tmp_path / "output"
    if "coco" in formats:
        written = json.loads((output / "coco_results.json").read_text())
        assert len(written) == len(people) and len(written[0]["keypoints"]) == 3 * len(people.skeleton)
    assert (output / "mpii_pred.mat").is_file() == ("mpii" in formats)


def test_joints_of_the_other_skeleton(root, tmp_path, capsys):
    """A network of MPII's joints is scored on LSP by those that LSP has: as one that has no others."""
    torch.manual_seed(0)
    config = {"stacks": 1, "joints": 16, "features": 8, "depth": 1, "base_width": 2}
    weights = PyraNet(**config).state_dict()
    rows = [joints[0] for joints in joint_origins(MPII, LSP)]
    fewer = {name: value[rows] if ".score." in name else value for name, value in weights.items()}
    found = {}
    for name, content, count in (("mpii", weights, 16), ("lsp", fewer, 14)):
        path = tmp_path / name / "last.pt"
        save_checkpoint(path, Checkpoint({**config, "joints": count}, content, name, 32))
        arguments = ["--checkpoint", str(path), "--dataset", "lsp", "--root", str(root), "--precision", "fp32"]
        assert cli.run(evaluate.main, [*arguments, "--output", str(tmp_path / name)]) == 0
        with h5py.File(tmp_path / name / "predictions.h5") as file:
            found[name] = np.array(file["preds"])
    np.testing.assert_allclose(found["mpii"], found["lsp"], rtol=1e-4, atol=1e-4)
    assert evaluated("mpii", root, tmp_path)["count"] == 3
    arguments = ["--checkpoint", str(tmp_path / "lsp" / "last.pt"), "--dataset", COCO, "--root", str(root)]
    with pytest.raises(SystemExit):
        cli.run(evaluate.main, arguments)
    assert "the checkpoint predicts the 14 of lsp" in capsys.readouterr().err
