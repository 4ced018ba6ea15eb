"""Sets of one skeleton joined with sets of another."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.data import ConcatSource, CropDataset, LSPExtendedSource, MappedSource, open_dataset
from pyranet_fast.data import registry as registry_module
from pyranet_fast.data.dataset import LSP_TO_MPII
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import score_predictions
from pyranet_fast.metrics import PCKH
from pyranet_fast.pose import LSP, MPII
from tests.data.mpii_people import raw_people, write_images, write_json
from tests.data.people import MemorySource, lspet_joints, person, smooth_image, write_release


def mapped(labeled=None) -> MappedSource:
    source = MemorySource([smooth_image(90, 120)], [person(labeled=labeled)])
    return MappedSource(source, MPII, LSP_TO_MPII, PCKH)


def test_joints_keep_their_names():
    new, old = mapped().person(0), person()
    for index, joint in enumerate(MPII.joints):
        origin = {"upper neck": "neck"}.get(joint, joint)
        if origin in LSP.joints:
            np.testing.assert_array_equal(new.joints[index], old.joints[LSP.index(origin)])
    assert new.labeled.all()
    np.testing.assert_allclose(new.joints[6], (old.joints[2] + old.joints[3]) / 2)  # pelvis
    np.testing.assert_allclose(new.joints[7], (old.joints[8] + old.joints[9]) / 2)  # thorax
    assert (new.scale, new.center.tolist()) == (old.scale, old.center.tolist())


@pytest.mark.parametrize(("missing", "lost"), [(2, {2, 6}), (9, {13, 7}), (12, {8}), (13, {9}), (0, {0})])
def test_a_mean_needs_all_its_joints(missing, lost):
    labeled = np.arange(14) != missing
    assert set(np.flatnonzero(~mapped(labeled).person(0).labeled)) == lost


def test_joints_without_a_rule_are_masked():
    source = MemorySource([smooth_image(90, 120)], [person()])
    head = MappedSource(source, MPII, {"head top": ("head top",)}, PCKH)
    assert np.flatnonzero(head.person(0).labeled).tolist() == [9]
    assert CropDataset(head, 64, augmentation=None)[0]["weight"].sum() == 1


def test_wrong_rules():
    source = MemorySource([], [])
    with pytest.raises(ValueError, match="no joint 'nose'"):
        MappedSource(source, MPII, {"pelvis": ("nose",)}, PCKH)
    with pytest.raises(ValueError, match="no joint 'tail'"):
        MappedSource(source, MPII, {"tail": ("neck",)}, PCKH)
    with pytest.raises(ValueError, match="'pelvis' from no joint"):
        MappedSource(source, MPII, {"pelvis": ()}, PCKH)


def test_mapped_people_are_not_scored():
    source = mapped()
    assert np.isnan(source.reference_length(0))
    with pytest.raises(UserError, match="memory: not one of 1 people can be scored: 1 have no head size"):
        score_predictions(source, source.person(0).joints[None])
    np.testing.assert_array_equal(source.to_original(0, [[3, 4]]), [[3, 4]])


def test_mpii_and_lsp_are_one_set(tmp_path, monkeypatch):
    write_json(write_images(tmp_path, raw_people()), raw_people())
    write_release(tmp_path, "lspet_dataset", lspet_joints(4), 4, 5)
    with pytest.raises(UserError, match="holds no folder lsp_dataset/"):
        open_dataset("mpii+lsp", tmp_path, "train")
    # LSP's thousand training images stand in for by the four of LSP-extended.
    monkeypatch.setattr("pyranet_fast.data.lsp.LSPSource", lambda root, images: LSPExtendedSource(root))
    train = open_dataset("mpii+lsp", tmp_path, "train")
    assert isinstance(train, ConcatSource) and len(train) == 3 + 4 + 4
    assert train.skeleton is MPII and train.metric.key == "pckh" and train.notes
    assert train.person(0).labeled.all() and train.image_name(3) == "im00001.jpg"
    assert np.flatnonzero(~train.person(3).labeled).tolist() == [3, 6]  # the left hip, and so the pelvis
    assert "mpii+lsp" in registry_module.DATASETS


def test_real(data_root):
    for folder in ("lsp_dataset", "lspet_dataset", "mpii"):
        if not (data_root / folder).is_dir():
            pytest.skip(f"no {folder}")
    train = open_dataset("mpii+lsp", data_root, "train")
    assert len(train) == 22246 + 11000 and train.image_name(22246) == "im0001.jpg"
    sample = CropDataset(train, 64, augmentation=None)[22246]
    assert sample["weight"].tolist() == [1.0] * 16
