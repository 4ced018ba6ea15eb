"""Label files of real people that went wrong, by the commands a user would type; skipped where they are not at hand."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from pyranet_fast import cli, evaluate, predict, train
from pyranet_fast.data import pack


@pytest.fixture(scope="module")
def cases(data_root):
    folder = data_root.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no label files in {folder}")
    return folder


@pytest.fixture(scope="module")
def images(data_root):
    return str(data_root / "lsp_dataset" / "images")


TINY = [
    "--stacks", "1", "--features", "8", "--depth", "1", "--base-width", "2", "--input-size", "32", "--batch-size", "8",
    "--epochs", "1", "--max-steps", "2", "--device", "cpu",
]  # fmt: skip


def evaluated(cases, images, name, output, *more):
    """Exit status of an evaluation of the shipped network, and its results."""
    flags = ["--dataset", f"coco:{cases / 'lsp.json'},{cases / name}", "--root", images, "--output", str(output)]
    status = cli.run(evaluate.main, [*flags, *more])
    return status, json.loads((output / "metrics.json").read_text()) if status == 0 else {}


def test_the_whole_way(cases, images, tmp_path, capsys):
    """Train, evaluate at one scale and six, every format, pack, evaluate packed, predict."""
    dataset = f"coco:{cases / 'lsp.json'},{cases / 'dup.json'}"
    own = ["--dataset", dataset, "--root", images]
    assert cli.run(train.main, [*own, *TINY, "--output", str(tmp_path / "net")]) == 0
    said = capsys.readouterr()
    assert "mirror pairs: right ankle/left ankle" in said.err and "24 people to train on, 25 to validate on" in said.err
    network = ["--checkpoint", str(tmp_path / "net" / "last.pt")]
    assert cli.run(pack.main, [*own, "--output", str(tmp_path / "p.pack"), "--input-size", "64"]) == 0
    packed = ["--dataset", f"packed:{tmp_path / 'p.pack'}"]
    for scales in ("1", "6"):
        results = []
        for source, name in ((own, "own"), (packed, "packed")):
            output = tmp_path / f"{name}{scales}"
            flags = [*network, *source, "--scales", scales, "--write", "coco", "--output", str(output)]
            assert cli.run(evaluate.main, flags) == 0, capsys.readouterr().err
            assert "OKS-based precision and recall by pycocotools" in capsys.readouterr().out
            made = {file.name for file in output.iterdir()}
            assert made >= {"metrics.json", "table.md", "curves.png", "calibration.png", "worst.html", "predictions.h5"}
            metrics = json.loads((output / "metrics.json").read_text())
            assert metrics["count"] == 25 and 0 <= metrics["settings"]["oks"]["AP"] <= 1
            entries = json.loads((output / "coco_results.json").read_text())
            results.append([(e["image_id"], e["category_id"], e["annotation_id"]) for e in entries])
            with h5py.File(output / "predictions.h5") as file:
                assert np.isfinite(file["preds"][:]).all()
        labels = json.loads((cases / "dup.json").read_text())["annotations"]
        assert results[0] == results[1] == [(a["image_id"], a["category_id"], a["id"]) for a in labels]
    assert cli.run(evaluate.main, [*network, *own, "--write", "mpii", "--output", str(tmp_path / "m")]) == cli.BAD_INPUT
    assert "places of these people in MPII's list are not known" in capsys.readouterr().err
    photo = f"{images}/im1001.jpg"
    assert cli.run(predict.main, [photo, *network, "--output", str(tmp_path / "out")]) == 0
    joints = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"][0]["joints"]
    assert next(iter(joints)) == "right ankle" and len(joints) == 14


@pytest.mark.parametrize("name", ["lsp.json", "cat7.json", "bones.json"])
def test_right_people_with_odd_fields(name, cases, images, tmp_path, capsys):
    if name == "bones.json":  # its joints are spelled in another way than the shipped network's
        flags = ["--dataset", f"coco:{cases / name},{cases / name}", "--root", images, "--output", str(tmp_path)]
        assert cli.run(train.main, [*flags, *TINY]) == 0
        assert "1 of 2 bones left out, first [0, 1]" in capsys.readouterr().err
        return
    status, metrics = evaluated(cases, images, name, tmp_path, "--write", "coco")
    assert status == 0 and metrics["mean"] == pytest.approx(82, abs=4)
    assert metrics["settings"]["oks"]["AP"] == pytest.approx(0.84, abs=0.05)
    entries = json.loads((tmp_path / "coco_results.json").read_text())
    assert {entry["category_id"] for entry in entries} == {7 if name == "cat7.json" else 1}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("norm.json", "24 whose box is given in shares of the picture, not in pixels (first: annotation 1000"),
        ("half.json", "im1001.jpg has 95 x 169 pixels, the file says 190 x 338"),
    ],
)
def test_labels_that_cannot_be_right(name, reason, cases, images, tmp_path, capsys):
    status, _ = evaluated(cases, images, name, tmp_path)
    said = capsys.readouterr().err
    assert status == cli.BAD_INPUT and reason in said and said.count("\n") == 1
    flags = ["--dataset", f"coco:{cases / name}", "--root", images, "--output", str(tmp_path / "t"), *TINY]
    assert cli.run(train.main, flags) == cli.BAD_INPUT and "none of" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "missing"), [("first.json", 1), ("gone.json", 23)])
def test_pictures_that_are_gone(name, missing, cases, images, tmp_path, capsys):
    labels = f"coco:{cases / name},{cases / name}"
    flags = ["--dataset", labels, "--root", images, "--output", str(tmp_path), *TINY]
    assert cli.run(train.main, flags) == cli.BAD_INPUT and "does not exist" in capsys.readouterr().err
    flags[flags.index("--batch-size") + 1] = "8" if missing == 1 else "2"
    status = cli.run(train.main, [*flags, "--on-error", "skip"])
    said = capsys.readouterr().err
    picture = "1 of 24 people, in 1 picture, is" if missing == 1 else "23 of 24 people, in 23 pictures, are"
    assert f"note: coco {name}: {picture} left out: {missing} whose picture is missing" in said
    if missing == 1:
        assert status == 0 and "23 people to train on" in said
    else:
        assert status == cli.BAD_INPUT and "at most the number of people in the dataset, 1, got" in said


def test_joints_in_another_order_are_refused(cases, images, tmp_path, capsys):
    (tmp_path / "people.json").write_text((cases / "lsp.json").read_text())
    flags = ["--dataset", f"coco:{tmp_path / 'people.json'},{tmp_path / 'people.json'}", "--root", images]
    flags += ["--output", str(tmp_path / "net"), *TINY]
    assert cli.run(train.main, flags) == 0
    before = (tmp_path / "net" / "last.pt").read_bytes()
    (tmp_path / "people.json").write_text((cases / "live.json").read_text())
    assert cli.run(train.main, flags) == cli.BAD_INPUT
    assert "joint 1 of 14 was 'right ankle' then and is 'head_top' now" in capsys.readouterr().err
    assert (tmp_path / "net" / "last.pt").read_bytes() == before
