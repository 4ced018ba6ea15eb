"""Joint orders and mirror pairs mean what the data sets mean."""

from __future__ import annotations

import json

import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.keypoints import flip_pairs_from_names, split_side
from pyranet_fast.pose import LSP, MPII, SKELETONS, Skeleton, resolve_skeleton


@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_mirroring_swaps_left_and_right_and_nothing_else(skeleton):
    for joint, mirrored in zip(skeleton.joints, skeleton.flip_permutation, strict=True):
        swapped = {"right": "left", "left": "right"}
        words = [swapped.get(word, word) for word in joint.split()]
        assert skeleton.joints[mirrored] == " ".join(words)


@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_bones_connect_every_joint_and_are_symmetric(skeleton):
    reached = {0}
    for _ in skeleton.bones:
        reached |= {j for bone in skeleton.bones if reached & set(bone) for j in bone}
    assert reached == set(range(len(skeleton)))
    order = skeleton.flip_permutation
    bones = {frozenset(bone) for bone in skeleton.bones}
    assert {frozenset(order[j] for j in bone) for bone in skeleton.bones} == bones


def test_orders_are_the_published_ones():
    assert len(MPII) == 16 and len(LSP) == 14
    assert [MPII.joints[i] for i in (0, 6, 9, 10, 15)] == [
        "right ankle",
        "pelvis",
        "head top",
        "right wrist",
        "left wrist",
    ]
    assert [LSP.joints[i] for i in (0, 6, 11, 12, 13)] == [
        "right ankle",
        "right wrist",
        "left wrist",
        "neck",
        "head top",
    ]
    assert SKELETONS["mpii"] is MPII and SKELETONS["lsp"] is LSP


def test_index_finds_a_joint_or_lists_them():
    assert LSP.index("neck") == 12
    with pytest.raises(ValueError, match="no joint 'nose'; it has right ankle"):
        LSP.index("nose")


def test_wrong_pairs_are_refused():
    with pytest.raises(ValueError, match=r"name joint 7; indices must lie in 0\.\.1"):
        Skeleton("two", ("a", "b"), (), ((0, 7),))
    with pytest.raises(ValueError, match="two flip_pairs"):
        Skeleton("three", ("a", "b", "c"), ((0, 1), (1, 2)), ())


DOG = Skeleton("dog", ("nose", "left ear", "right ear"), ((1, 2),), ((0, 1), (0, 2)))


@pytest.mark.parametrize("skeleton", [MPII, LSP, DOG], ids=lambda s: s.name)
def test_skeletons_go_through_plain_values_and_back(skeleton):
    value = json.loads(json.dumps(skeleton.as_dict()))
    assert resolve_skeleton(value) == skeleton and resolve_skeleton(skeleton) is skeleton
    assert resolve_skeleton(skeleton.as_value()) == skeleton


def test_built_in_skeletons_are_kept_by_name_and_others_whole():
    assert MPII.as_value() == "mpii" and resolve_skeleton("mpii") is MPII
    assert DOG.as_value() == DOG.as_dict()
    other = Skeleton("mpii", DOG.joints, (), ())  # the same name does not make it the same
    assert resolve_skeleton(other.as_value()) == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": None}, "joints is None; a list of names"),
        ({"joints": []}, "a list of names"),
        ({"joints": ["a", 3]}, "a list of names"),
        ({"joints": ["a", "a", "b"]}, "two joints are called 'a'"),
        ({"name": 3}, "name is 3; a text"),
        ({"bones": [[0, 1, 2]]}, "bones is .* a list of pairs of joint indices"),
        ({"bones": [[0, 1.0]]}, "a list of pairs of joint indices"),
        ({"bones": 3}, "a list of pairs of joint indices"),
        ({"flip_pairs": [[1, 5]]}, "name joint 5"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "two flip_pairs"),
        ({"color": "red"}, "has the fields name, joints, flip_pairs, bones, color"),
    ],
)
def test_dictionaries_that_are_no_skeleton(change, message):
    with pytest.raises(UserError, match=message):
        resolve_skeleton({**DOG.as_dict(), **change})


@pytest.mark.parametrize("value", ["hand", None, 3, ["mpii"]])
def test_other_values_are_no_skeleton(value):
    with pytest.raises(UserError, match="is not known; mpii, lsp or a dictionary"):
        resolve_skeleton(value)


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("left_ear", "left", "ear"),
        ("Left Ear", "left", "ear"),
        ("rightEar", "right", "ear"),
        ("RightEar", "right", "ear"),
        ("ear-left", "left", "ear"),
        ("EAR_R", "right", "ear"),
        ("l_big_toe", "left", "big toe"),
        ("LElbow", "left", "elbow"),
        ("elbow.R", "right", "elbow"),
        ("lefteye", "left", "eye"),
        ("left", "left", ""),
        ("right ankle", "right", "ankle"),
        ("nose", "center", "nose"),
        ("lip", "center", "lip"),
        ("upper neck", "center", "upper neck"),
        ("R", "center", "r"),
        ("膝", "center", "膝"),
        ("  ", "center", ""),
    ],
)
def test_sides_in_names(name, side, rest):
    assert split_side(name) == (side, rest)


def test_flip_pairs_from_names():
    assert flip_pairs_from_names(["nose", "left_ear", "right_ear", "tail"]) == ([(1, 2)], [])
    assert flip_pairs_from_names(["rsho", "lip", "lsho"]) == ([(0, 2)], [])
    assert flip_pairs_from_names(["a", "b"]) == ([], [])
    assert flip_pairs_from_names(["left_ear", "nose"]) == ([], ["left_ear"])
    assert flip_pairs_from_names(["left_ear", "ear left", "right_ear"]) == ([(0, 2)], ["ear left"])
    assert flip_pairs_from_names(MPII.joints)[0] == sorted(MPII.flip_pairs)


def test_any_skeleton_can_be_drawn():
    import numpy as np

    from pyranet_fast.visualization import draw_pose

    image = np.full((100, 100, 3), 128, np.uint8)
    joints = [[50, 20], [80, 80], [20, 80]]
    drawn = draw_pose(image, joints, None, DOG, long_side=None).astype(int)
    assert drawn[80, 80, 2] > drawn[80, 80, 0] + 50 and drawn[80, 20, 0] > drawn[80, 20, 2] + 50
    odd = Skeleton("odd", (" ", "膝"), (), ())
    assert draw_pose(image, joints[:2], None, odd).std() > 0
