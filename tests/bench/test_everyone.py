"""The command that measures the prediction of all people in an image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bench import everyone
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.synthetic import SyntheticSource
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet
from pyranet_fast.pose import LSP, MPII


def test_each_person_is_matched_once_and_by_the_best_score():
    similarity = np.array([[0.9, 0.2], [0.95, 0.6], [0.7, 0.1], [0.4, 0.4]])
    assert everyone.matches(similarity, np.array([0.8, 0.9, 0.95, 0.99])) == [-1, 1, 0, -1]
    assert everyone.matches(np.empty((2, 0)), np.ones(2)) == [-1, -1]


def test_people_are_easy_where_nobody_covers_their_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [100, 0, 10, 10.0]])
    assert everyone._covered(boxes).tolist() == [0.5, 0.5, 0.0]


def test_joints_that_networks_and_data_sets_share():
    common = everyone.Common(MPII, LSP)
    pairs = {
        (MPII.joints[ours], LSP.joints[theirs]) for ours, theirs in zip(common.network, common.people, strict=True)
    }
    assert ("left wrist", "left wrist") in pairs and ("upper neck", "neck") in pairs and len(pairs) == 14
    with pytest.raises(UserError, match="share 0 joints"):
        everyone.Common(MPII, type(MPII)("hand", ("thumb", "palm"), (), ()))


def test_resized_images_hold_resized_people():
    people = SyntheticSource(3)
    common = everyone.Common(MPII, people.skeleton)
    plain, larger = (everyone.scenes(people, common, 3, side) for side in (None, 400))
    for one, other in zip(plain, larger, strict=True):
        times = max(other.image.shape[:2]) / max(one.image.shape[:2])
        assert max(other.image.shape[:2]) == 400
        np.testing.assert_allclose(other.joints, one.joints * times, rtol=1e-2)
        np.testing.assert_allclose(other.boxes, one.boxes * times, rtol=1e-2)
        assert other.easy.tolist() == one.easy.tolist() == [True]


def test_the_command(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    model = PyraNet(1, 16, features=16, depth=1, base_width=4)
    save_checkpoint(tmp_path / "tiny.pt", Checkpoint(model.config, model.state_dict(), "mpii", 32))
    command = ["--checkpoint", str(tmp_path / "tiny.pt"), "--dataset", "demo", "--count", "2", "--side", "96"]
    assert everyone.main([*command, "--threads", "1", "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in capsys.readouterr().out and "| true boxes | 2 |" in text and "2 pictures, 2 labeled people" in text
    rows = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [row["way"] for row in rows] == ["everyone", "one person", "true boxes"]
    assert (tmp_path / "out" / "failures.jpg").stat().st_size > 1000
    with pytest.raises(SystemExit):
        everyone.main([*command, "--count", "0"])
    assert "--count must be at least 1, got 0" in capsys.readouterr().err
