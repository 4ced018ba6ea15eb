"""Going on with a training or an evaluation looks at the data: other joints are refused, other people are said."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from pyranet_fast import cli, evaluate, train, train_classifier
from pyranet_fast.checkpoint import save_checkpoint
from pyranet_fast.data import open_dataset
from pyranet_fast.evaluation import evaluator
from pyranet_fast.models.zoo import load_checkpoint
from tests.data.coco_people import DOG, dogs, write
from tests.test_evaluate_every_dataset import checkpoint_for

NAME = "coco:dogs.json,val.json"


@pytest.fixture
def root(tmp_path):
    write(tmp_path, dogs(), "val.json")
    return write(tmp_path, dogs())


def replace(root, content, name="dogs.json"):
    (root / name).write_text(json.dumps(content))


def train_flags(root, *more):
    return [
        "--dataset", NAME, "--root", str(root), "--output", str(root / "out"), "--stacks", "1", "--features", "8",
        "--depth", "1", "--base-width", "2", "--input-size", "32", "--batch-size", "4", "--epochs", "4", "--device",
        "cpu", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training that was stopped after three of its twelve steps."""
    folder = tmp_path_factory.mktemp("stopped")
    write(folder, dogs(), "val.json")
    write(folder, dogs())
    assert cli.run(train.main, train_flags(folder, "--max-steps", "3")) == 0
    checkpoint = load_checkpoint(folder / "out" / "last.pt")
    checkpoint.training["settings"]["max_steps"] = None
    save_checkpoint(folder / "out" / "last.pt", checkpoint)
    return folder


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "begun")


def test_the_same_labels_go_on_in_silence(begun, capsys):
    content = dogs()
    content["annotations"].reverse()  # the order is no label
    replace(begun, content)
    assert cli.run(train.main, train_flags(begun)) == 0
    said = capsys.readouterr().err
    assert "resumed from" in said and "changed" not in said
    assert load_checkpoint(begun / "out" / "last.pt").training["step"] == 12


def test_new_people_are_counted(begun, capsys):
    content = dogs(14)
    content["annotations"] = content["annotations"][2:]
    content["annotations"][0]["keypoints"][0] += 1
    write(begun, content)
    assert cli.run(train.main, train_flags(begun)) == 0
    said = capsys.readouterr().err
    assert (
        f"the training people have changed since {begun / 'out' / 'last.pt'} was saved: 3 of 12 are new or have other "
        "labels, 3 of those before are gone"
    ) in said
    assert cli.run(train.main, train_flags(begun)) == 0 and "changed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("category", "sentence"),
    [
        ({"keypoints": ["tail", "left_ear", "right_ear", "nose"]}, "joint 1 of 4 was 'nose' then and is 'tail' now"),
        ({"keypoints": ["nose", "left_ear", "right_ear"], "skeleton": []}, "4 then and 3 now"),
        ({"flip_pairs": []}, "other mirror pairs than .* left_ear/right_ear is one of them only then"),
        ({"flip_pairs": [[1, 2], [0, 3]]}, "nose/tail is one of them only now"),
    ],
)
def test_other_joints_are_refused(begun, category, sentence, capsys):
    joints = category.get("keypoints", DOG["keypoints"])
    content = dogs(category={**DOG, **category})
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][: 3 * len(joints)]
    for name in ("dogs.json", "val.json"):
        replace(begun, content, name)
    before = (begun / "out" / "last.pt").read_bytes()
    assert cli.run(train.main, train_flags(begun)) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "last.pt was trained on other " in said and re.search(sentence, said), said
    assert (begun / "out" / "last.pt").read_bytes() == before


def test_a_checkpoint_of_0_1_0_goes_on(begun, capsys):
    checkpoint = load_checkpoint(begun / "out" / "last.pt")
    del checkpoint.training["labels"]
    save_checkpoint(begun / "out" / "last.pt", checkpoint)
    replace(begun, {**dogs(), "annotations": dogs()["annotations"][:8]})
    assert cli.run(train.main, train_flags(begun)) == 0
    assert "changed" not in capsys.readouterr().err


def test_other_classes_are_refused(tmp_path, capsys):
    flags = [
        "--dataset", "demo", "--model", "wrn-10-1-pyramid", "--batch-size", "250", "--max-steps", "1", "--device",
        "cpu", "--output", str(tmp_path),
    ]  # fmt: skip
    assert cli.run(train_classifier.main, flags) == 0
    checkpoint = load_checkpoint(tmp_path / "last.pt", None)
    checkpoint.images["classes"] = ["x", *checkpoint.images["classes"][1:]]
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    capsys.readouterr()
    assert cli.run(train_classifier.main, flags) == cli.BAD_INPUT
    assert "last.pt was trained on other classes than demo has now: x, " in capsys.readouterr().err


def interrupted(root, monkeypatch):
    """Flags of an evaluation that was stopped after four of twelve people."""
    flags = ["--checkpoint", str(checkpoint_for(NAME, root, root)), "--dataset", NAME, "--root", str(root)]
    flags += ["--output", str(root / "out"), "--batch-size", "4"]
    score_maps, calls = evaluator.score_maps, []

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_maps(*arguments, **options)

    monkeypatch.setattr(evaluator, "score_maps", stop)
    assert cli.run(evaluate.main, flags) == cli.INTERRUPTED
    assert (root / "out" / "evaluation.part").exists()
    return flags


def test_an_evaluation_begins_again_where_labels_changed(root, monkeypatch, capsys):
    flags = interrupted(root, monkeypatch)
    content = dogs()
    order = np.random.default_rng(1).permutation(12)
    content["annotations"] = [content["annotations"][i] for i in order]
    replace(root, content, "val.json")
    assert cli.run(evaluate.main, [*flags, "--write", "coco"]) == 0
    said = capsys.readouterr().err
    assert "evaluation.part is not resumed: it had other labels" in said
    got = json.loads((root / "out" / "metrics.json").read_text())
    results = (root / "out" / "coco_results.json").read_text()
    assert cli.run(evaluate.main, [*flags, "--resume", "none", "--write", "coco"]) == 0
    assert json.loads((root / "out" / "metrics.json").read_text())["mean"] == got["mean"]
    assert (root / "out" / "coco_results.json").read_text() == results
    people = open_dataset(NAME, root, "test")
    assert [people.record(i).annotation_id for i in range(12)] == [100 + i for i in order]


def test_an_evaluation_goes_on_with_the_same_labels(root, monkeypatch, capsys):
    flags = interrupted(root, monkeypatch)
    torch.manual_seed(1)
    assert cli.run(evaluate.main, flags) == 0
    assert "4 of 12 people were done before" in capsys.readouterr().err
    flags[flags.index("--batch-size") + 1] = "3"
    assert cli.run(evaluate.main, [*flags, "--no-flip"]) == 0
