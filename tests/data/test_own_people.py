"""From people of one's own to a trained network and its predictions."""

from __future__ import annotations

import json

import cv2
import pytest

from pyranet_fast import cli, predict, train
from pyranet_fast.checkpoint import save_checkpoint
from pyranet_fast.data import COCOSource
from pyranet_fast.errors import UserError
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.pose import resolve_skeleton
from tests.data.coco_people import DOG, changed, dogs, write


@pytest.fixture
def root(tmp_path):
    return write(tmp_path, dogs())


def test_train_and_predict_with_own_joints(root, tmp_path, capsys):
    write(root, dogs(4), "val.json")
    changed(root, "annotations.0.iscrowd", 1)
    output = tmp_path / "out"
    flags = [
        "--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(output), "--stacks", "1",
        "--features", "24", "--depth", "2", "--input-size", "64", "--batch-size", "4", "--epochs", "1", "--workers",
        "0", "--max-steps", "2", "--device", "cpu",
    ]  # fmt: skip
    assert cli.run(train.main, flags) == 0
    said = capsys.readouterr()
    assert "mirror pairs: left_ear/right_ear; on their own: nose, tail\n" in said.err
    assert (
        said.err.count("note: ") == 1
        and "1 of 12 people, in 1 picture, is left out: 1 of crowds (annotation 100)" in said.err
    )
    assert "validation PCK-box@0.05" in said.out
    checkpoint = load_checkpoint(output / "last.pt")
    assert checkpoint.training["step"] == 2
    assert resolve_skeleton(checkpoint.skeleton) == COCOSource("dogs.json", root).skeleton

    photo = str(root / "images" / "pack" / "003.jpg")
    predictor = Predictor(output / "last.pt", "cpu")
    pose = predictor(photo)
    assert pose.joints.shape == (4, 2) and list(pose.as_dict()["joints"]) == DOG["keypoints"]
    assert pose.as_dict()["skeleton"] == "coco:dog" and resolve_skeleton(pose.skeleton) == predictor.skeleton
    assert cli.run(predict.main, [photo, "--checkpoint", str(output / "last.pt"), "--output", str(tmp_path / "p")]) == 0
    result = json.loads((tmp_path / "p" / "predictions.json").read_text())["predictions"][0]
    assert list(result["joints"]) == DOG["keypoints"] and cv2.imread(str(tmp_path / "p" / "003_pose.png")) is not None

    # Fine-tuning asks for the same joints.
    write(tmp_path / "cats", dogs(4, {**DOG, "keypoints": ["nose", "left_ear", "right_ear", "paw"]}))
    other = [*flags, "--weights", str(output / "last.pt")]
    other[1], other[3], other[5] = "coco:dogs.json,dogs.json", str(tmp_path / "cats"), str(tmp_path / "out2")
    assert cli.run(train.main, other) == 2
    assert (
        "must predict the joints of the dataset, 'coco:dog' (LSP's and MPII's go together), got 'coco:dog'"
        in capsys.readouterr().err
    )

    checkpoint.skeleton = {"name": "dog", "joints": ["nose"]}
    save_checkpoint(tmp_path / "bad.pt", checkpoint)
    with pytest.raises(
        UserError, match=r"bad\.pt cannot be used: a skeleton must have the fields name, .*, got name, joints"
    ):
        Predictor(tmp_path / "bad.pt", "cpu")
