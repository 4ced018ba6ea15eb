"""The command that corrects LSP-extended's labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import labels
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.lsp import LSPExtendedSource
from pyranet_fast.models import PyraNet
from pyranet_fast.pose import LSP
from tests.data.people import lspet_joints, write_release

SIDE = 100.0


@pytest.fixture
def people():
    """Four people: joints far from each other, all labeled, and predictions that agree with them."""
    rng = np.random.default_rng(0)
    joints = np.stack([rng.permutation(14)[:, None] * [20.0, 10.0] for _ in range(4)])
    predictions = np.concatenate([joints + rng.uniform(-2, 2, joints.shape), np.full((4, 14, 1), 0.9)], -1)
    return joints, np.ones((4, 14), bool), predictions, np.full(4, SIDE)


def test_labels_that_agree_stay(people):
    found = labels.correct(*people)
    np.testing.assert_array_equal(found.joints, people[0])
    assert found.labeled.all() and found.removed == 0 and found.exchanged == {"legs": 0, "arms": 0}


def test_sides_are_exchanged_where_the_others_fit(people):
    joints, labeled, predictions, sides = people
    legs = [at for at, name in enumerate(LSP.joints) if name.endswith(labels.LIMBS["legs"])]
    assert len(legs) == 6
    other = np.array(LSP.flip_permutation)
    given = joints.copy()
    given[1, legs] = joints[1, other[legs]]  # labeled the wrong way round
    labeled[1, legs[0]] = False
    found = labels.correct(given, labeled, predictions, sides)
    np.testing.assert_array_equal(found.joints, joints)
    assert found.exchanged == {"legs": 1, "arms": 0} and found.removed == 0
    assert np.flatnonzero(~found.labeled[1]).tolist() == [other[legs[0]]]  # the label went to the other side

    labeled[1, legs[:3]] = False  # three labels are too few to tell
    assert labels.correct(given, labeled, predictions, sides).exchanged == {"legs": 0, "arms": 0}


def test_labels_far_from_a_confident_joint_are_removed(people):
    joints, labeled, predictions, sides = people
    predictions[0, 12, 0] += 0.2 * SIDE
    predictions[0, 13, 0] += 0.2 * SIDE
    predictions[0, 13, 2] = 0.4  # not confident
    predictions[2, :, 0] += 0.5 * SIDE  # a person whose labels would all go keeps them
    found = labels.correct(joints, labeled, predictions, sides)
    assert found.removed == 1 and np.argwhere(~found.labeled).tolist() == [[0, 12]]


def test_the_command(tmp_path, capsys):
    torch.manual_seed(0)
    model = PyraNet(1, 16, features=16, depth=1, base_width=4)
    save_checkpoint(tmp_path / "tiny.pt", Checkpoint(model.config, model.state_dict(), "mpii", 32))
    root, out = tmp_path / "data", tmp_path / "out"
    write_release(root, "lspet_dataset", lspet_joints(4), 4, 5)
    (root / "lsp_dataset").mkdir()
    command = ["--checkpoint", str(tmp_path / "tiny.pt"), "--root", str(root), "--output", str(out), "--threads", "1"]
    for _ in range(2):  # a second run replaces what the first one wrote
        assert labels.main(command) == 0
    assert "4 people, " in capsys.readouterr().out
    before, after = LSPExtendedSource(root), LSPExtendedSource(out)
    assert len(after) == 4 and (out / "lsp_dataset").is_dir()
    for index in range(4):  # an untrained network is sure of nothing
        np.testing.assert_allclose(after.person(index).joints, before.person(index).joints, atol=1e-4)
        np.testing.assert_array_equal(after.person(index).labeled, before.person(index).labeled)
