"""Datasets made of others: a part, several joined, another skeleton, decoded images."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.data import (
    DATASETS,
    CachedSource,
    ConcatSource,
    CropDataset,
    LSPExtendedSource,
    MappedSource,
    PeopleSource,
    Subset,
    open_dataset,
)
from pyranet_fast.data.dataset import LSP_TO_MPII, PersonRecord, joint_origins
from pyranet_fast.data.left_out import with_images
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import score_predictions
from pyranet_fast.metrics import PCKH
from pyranet_fast.pose import LSP, MPII, Skeleton
from tests.data.mpii_people import raw_people, write_images, write_json
from tests.data.people import MemorySource, lspet_joints, person, smooth_image, write_release


class NotedSource(MemorySource):
    """Four people, of whom the second has no image; everything that a dataset can tell of a person is its own."""

    name = "noted"
    notes = ("lengths are estimates",)
    reach, detail = 3.0, 300.0

    def __init__(self):
        images = [smooth_image(90, 120, seed) for seed in range(4)]
        images[1] = None
        super().__init__(images, [person(seed=seed) for seed in range(4)])

    def record(self, index):
        return PersonRecord(100 + index)

    def available(self):
        return [0, 2, 3]

    def to_original(self, index, points):
        return np.asarray(points, dtype=np.float64) * 2 + index

    def frame(self, index, image):
        return np.array([-index, 0, 500, 400], dtype=np.float64)


DERIVED = {
    "subset": (lambda source: Subset(source, [3, 1, 0]), [3, 1, 0]),
    "concat": (lambda source: ConcatSource([Subset(source, [2]), source]), [2, 0, 1, 2, 3]),
    "mapped": (lambda source: MappedSource(source, MPII, LSP_TO_MPII, PCKH), [0, 1, 2, 3]),
    "cached": (lambda source: CachedSource(source, crop=False), [0, 1, 2, 3]),
    "nested": (lambda source: Subset(CachedSource(ConcatSource([source]), crop=False), [1, 2]), [1, 2]),
}


@pytest.mark.parametrize("kind", DERIVED)
def test_what_is_not_changed_comes_from_the_dataset_of_the_person(kind):
    source = NotedSource()
    make, origins = DERIVED[kind]
    derived: PeopleSource = make(source)
    assert len(derived) == len(origins)
    assert derived.available() == [index for index, origin in enumerate(origins) if origin != 1]
    assert set(derived.notes) == set(source.notes)
    assert (derived.reach, derived.detail) == (3.0, 300.0)
    for index, origin in enumerate(origins):
        assert derived.image_name(index) == f"{origin}.jpg" and derived.record(index).image_id == 100 + origin
        if origin == 1:
            with pytest.raises(UserError, match=r"image 1\.jpg cannot be read"):
                derived.image(index)
            continue
        image = derived.image(index)
        np.testing.assert_array_equal(image, source.image(origin))
        np.testing.assert_array_equal(derived.person(index).center, source.person(origin).center)
        np.testing.assert_array_equal(derived.to_original(index, [[3, 4]]), [[6 + origin, 8 + origin]])
        np.testing.assert_array_equal(derived.frame(index, image), [-origin, 0, 500, 400])
        if kind == "mapped":
            assert np.isnan(derived.reference_length(index))
        else:
            assert derived.reference_length(index) == source.reference_length(origin)
            np.testing.assert_array_equal(derived.person(index).joints, source.person(origin).joints)


def test_people_with_images():
    source = NotedSource()
    there = with_images(Subset(source, [3, 1, 0]))
    assert [there.image_name(index) for index in range(len(there))] == ["3.jpg", "0.jpg"]
    assert with_images(there) is there
    with pytest.raises(UserError, match=r"noted \(1 of 4\): no image of the 1 people exists"):
        with_images(Subset(source, [1]))


def test_indices_outside():
    source = NotedSource()
    with pytest.raises(IndexError, match=r"index 4 is outside 0\.\.3 of noted"):
        Subset(source, [0, 4])
    with pytest.raises(IndexError, match=r"index 8 is outside 0\.\.7 of noted x2"):
        ConcatSource([source, source]).image(8)
    with pytest.raises(ValueError, match="sources must not be empty"):
        ConcatSource([])
    with pytest.raises(ValueError, match=r"noted has skeleton lsp, PCK; noted has mpii, PCKh; they must agree"):
        ConcatSource([source, MappedSource(source, MPII, LSP_TO_MPII, PCKH)])


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
    with pytest.raises(ValueError, match="rule must map 'pelvis' from at least one joint"):
        MappedSource(source, MPII, {"pelvis": ()}, PCKH)


def test_mapped_people_are_not_scored():
    source = mapped()
    assert np.isnan(source.reference_length(0))
    with pytest.raises(UserError, match="memory: none of 1 people can be scored: 1 have no head size"):
        score_predictions(source, source.person(0).joints[None])
    np.testing.assert_array_equal(source.to_original(0, [[3, 4]]), [[3, 4]])


def test_mpii_and_lsp_are_one_set(tmp_path, monkeypatch):
    write_json(write_images(tmp_path, raw_people()), raw_people())
    write_release(tmp_path, "lspet_dataset", lspet_joints(4), 4, 5)
    with pytest.raises(UserError, match="holds no folder lsp_dataset/"):
        open_dataset("mpii+lsp", tmp_path, "train")
    # The four of LSP-extended stand in for LSP's thousand training images.
    monkeypatch.setattr("pyranet_fast.data.registry.LSPSource", lambda root, images: LSPExtendedSource(root))
    train = open_dataset("mpii+lsp", tmp_path, "train")
    assert isinstance(train, ConcatSource) and len(train) == 3 + 4 + 4
    assert train.skeleton is MPII and train.metric.key == "pckh" and train.notes
    assert train.person(0).labeled.all() and train.image_name(3) == "im00001.jpg"
    assert np.flatnonzero(~train.person(3).labeled).tolist() == [3, 6]  # the left hip, and so the pelvis
    assert "mpii+lsp" in DATASETS

    mixed = open_dataset("mpii*3+lspet*2", tmp_path, "train")
    assert len(mixed) == 3 * 3 + 2 * 4 and mixed.name.endswith("x3+lspet x2") and mixed.skeleton is MPII
    assert mixed.image_name(3) == mixed.image_name(0) and mixed.image_name(9) == mixed.image_name(13) == "im00001.jpg"
    assert mixed.notes == open_dataset("mpii", tmp_path, "train").notes, "each note once"
    assert open_dataset("mpii*3+lspet*2", tmp_path, "val").name == open_dataset("mpii", tmp_path, "val").name
    assert open_dataset("lspet", tmp_path, "train").skeleton is LSP
    cached = CachedSource(mixed)
    assert len(cached) == 17 and cached.nbytes == CachedSource(open_dataset("mpii+lspet", tmp_path, "train")).nbytes
    assert cached.image(9) is cached.image(13) and cached.image(9) is not cached.image(10)
    for name in ("mpii*0", "mpii+mpii", "mpii*", "lsp*2+coco", "*2"):
        with pytest.raises(UserError, match=r"unknown dataset .* mixtures such as mpii"):
            open_dataset(name, tmp_path, "train")


def test_joints_of_the_two_skeletons():
    back = joint_origins(MPII, LSP)
    assert [MPII.joints[i] for (i,) in back] == [{"neck": "upper neck"}.get(name, name) for name in LSP.joints]
    there = joint_origins(LSP, MPII)
    assert [LSP.joints[i] for i in there[MPII.index("pelvis")]] == ["right hip", "left hip"]
    assert joint_origins(LSP, LSP) == [[i] for i in range(14)]
    assert joint_origins(LSP, Skeleton("dog", ("nose",), (), ())) is None


def test_real(data_root):
    for folder in ("lsp_dataset", "lspet_dataset", "mpii"):
        if not (data_root / folder).is_dir():
            pytest.skip(f"no {folder}")
    train = open_dataset("mpii+lsp", data_root, "train")
    assert len(train) == 22246 + 11000 and train.image_name(22246) == "im0001.jpg"
    sample = CropDataset(train, 64, augmentation=None)[22246]
    assert sample["weight"].tolist() == [1.0] * 16
