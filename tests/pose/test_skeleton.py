"""Joint orders and mirror pairs mean what the data sets mean."""

from __future__ import annotations

import pytest

from pyranet_fast.pose import LSP, MPII, SKELETONS, Skeleton


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
