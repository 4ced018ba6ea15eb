"""MPII in every form its annotations come in, and every way in which a folder can be wrong."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from pyranet_fast.data import CropDataset, MPIISource, Subset, open_dataset
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.evaluation.evaluator import score_predictions
from tests.data.mpii_people import (
    heads_of,
    raw_people,
    rect_of,
    split_of,
    struct_array,
    write_detections,
    write_hdf5,
    write_images,
    write_json,
    write_matlab,
)


@pytest.fixture
def folder(tmp_path):
    """root/mpii with six images and no annotations."""
    return write_images(tmp_path, raw_people())


def write_form(folder, form, people):
    if form == "json":
        write_json(folder, people)
    elif form == "gz":
        (folder / "mpii_annotations.json.gz").write_bytes(gzip.compress(json.dumps(people).encode()))
    elif form == "hdf5":
        write_hdf5(folder, people, "train")
        write_hdf5(folder, people, "val")
    else:
        write_matlab(folder, people)
        names = [p["img_paths"].encode() for p in split_of(people, "val")]
        write_hdf5(folder, people, "val", imgname=np.array(names))
        return "mat"
    return "json" if form == "gz" else form


@pytest.mark.parametrize("form", ["json", "gz", "hdf5", "mat"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_form_gives_the_same_people(folder, form, split):
    people = raw_people()
    chosen = write_form(folder, form, people)
    source = MPIISource(folder.parent, split, "mat" if form == "mat" else None)
    expected = split_of(people, split)
    assert len(source) == len(expected) == 3
    assert source.metric.key == "pckh" and source.form == chosen and source.name.startswith(f"mpii {split} ({chosen}")
    heads = 0.6 * np.linalg.norm(np.diff(heads_of(expected), axis=1)[:, 0], axis=1)
    for index, raw in enumerate(expected):
        joints = np.array(raw["joint_self"])
        person = source.person(index)
        assert source.image_name(index) == raw["img_paths"]
        assert person.labeled.tolist() == (joints[:, 0] > 0).tolist()  # occluded ones too
        np.testing.assert_allclose(person.joints[person.labeled], joints[person.labeled, :2] - 1, atol=1e-5)
        # The center moves by raw scales; the scale grows afterwards; each once.
        x, y, scale = *raw["objpos"], raw["scale_provided"]
        np.testing.assert_allclose(person.center, [x - 1, y + 15 * scale - 1], rtol=1e-6)
        assert person.scale == pytest.approx(1.25 * scale)
        if raw["joint_self"][9][0]:
            assert source.reference_length(index) == pytest.approx(heads[index], rel=1e-6)
    assert CropDataset(source, 64, augmentation=None)[0]["image"].shape == (3, 64, 64)
    assert source.image(0).shape == (100, 100, 3)


def test_the_first_form_found_is_used(folder):
    people = raw_people()
    write_matlab(folder, people)
    write_hdf5(folder, people, "val")
    assert MPIISource(folder.parent, "val").form == "hdf5"
    assert MPIISource(folder.parent, "train").form == "mat"  # there is no train.h5
    assert {MPIISource(folder.parent, "train").image_name(i)[8] for i in range(3)} == {"0", "2", "4"}
    write_json(folder, people)
    assert {MPIISource(folder.parent, split).form for split in ("train", "val")} == {"json"}


def test_matlab_splits_by_name_where_nothing_else_does(folder):
    from pyranet_fast.data.annotations import is_held_out

    people = [{**p, "img_paths": f"{k:09d}.jpg"} for k in range(40) for p in raw_people(1)]
    write_matlab(folder, people)
    held_out = [p["img_paths"] for p in people if is_held_out(p["img_paths"])]
    assert len(held_out) == 5 and held_out[0] == "000000000.jpg"  # the same for ever
    train = MPIISource(folder.parent, "train")
    assert len(train) == 40 - len(held_out)
    val = MPIISource(folder.parent, "val")
    assert [val.image_name(i) for i in range(len(val))] == held_out


def test_matlab_counts_whom_it_leaves_out(folder):
    people = raw_people()
    write_matlab(folder, people)
    source = MPIISource(folder.parent, "train", "mat")
    assert dict(source.left_out) == {"not in single_person": 1, "without labeled joints": 1}
    assert any("1 people not in single_person were left out" in note for note in source.notes)
    rect = rect_of(people[1], np.zeros((2, 2)))
    one = {"image": {"name": "000000002.jpg"}, "annorect": struct_array([{**rect, "objpos": np.empty((0, 0))}])}
    no_head = {"image": {"name": "000000002.jpg"}, "annorect": struct_array([rect])}
    nobody = struct_array([{"scale": 1.0, "objpos": {"x": 1, "y": 1}}])
    bare = {"image": {"name": "000000002.jpg"}, "annorect": nobody}
    write_matlab(folder, people, single=False, extra=(one, no_head, bare))
    source = MPIISource(folder.parent, "train", "mat")
    assert dict(source.left_out) == {"without objpos or scale": 1, "without labeled joints": 2}
    assert np.isnan(source.reference_length(len(source) - 1))
    assert any("1 people have no head size and are not scored" in note for note in source.notes)


def test_head_sizes(folder):
    people = raw_people()
    write_json(folder, people)
    val = MPIISource(folder.parent, "val")
    # Person 3, the second one for validation, has no head top: nothing to estimate from.
    assert val.estimated == 2 and "head sizes estimated" in val.name and np.isnan(val.reference_length(1))
    boxes = 3 * heads_of(split_of(people, "val"))
    boxes[2, 1] = boxes[2, 0]
    write_detections(folder, people, boxes)
    val = MPIISource(folder.parent, "val")
    assert val.estimated == 0 and val.name == "mpii val (json)"
    expected = 0.6 * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
    assert [val.reference_length(i) for i in range(2)] == pytest.approx(expected[:2])
    assert np.isnan(val.reference_length(2))  # a box of no size
    assert val.notes == ("mpii val (json): 1 people have no head size and are not scored",)
    # Another order is noticed: those sizes are not taken.
    others = [people[i] for i in (0, 3, 2, 1, 4, 5)]
    write_detections(folder, others)
    assert MPIISource(folder.parent, "val").estimated == 2
    # HDF5 files know the heads of the same people.
    for split in ("train", "val"):
        write_hdf5(folder, people, split)
        source = MPIISource(folder.parent, split, "json")
        assert source.estimated == 0
        assert source.reference_length(0) == pytest.approx(MPIISource(folder.parent, split, "hdf5").reference_length(0))


def test_zero_head_sizes_are_left_out_of_the_score_and_counted(folder):
    people = raw_people()
    write_hdf5(folder, people, "val", normalize=np.array([20.0, 0.0, np.nan]))
    val = MPIISource(folder.parent, "val")
    assert any("2 people have no head size" in note for note in val.notes)
    predictions = np.stack([val.person(i).joints for i in range(3)])
    score = score_predictions(val, predictions)
    assert score.mean == 100 and score.count == 1 and score.settings["left_out"] == {"no head size": 2}
    write_hdf5(folder, people, "val", normalize=np.zeros(3))
    assert MPIISource(folder.parent, "val").estimated == 2


def test_names_of_images_as_codes(folder):
    people = raw_people()
    names = [[float(ord(c)) for c in p["img_paths"]] + [0.0] * 3 for p in split_of(people, "val")]
    write_hdf5(folder, people, "val", imgname=np.array(names))
    assert MPIISource(folder.parent, "val").image_name(1) == "000000003.jpg"


def test_a_joint_cut_to_zero_is_labeled_as_in_the_raw_form(folder):
    people = raw_people()
    people[1]["joint_self"][4] = [0.3, 12.6, 1.0]
    write_json(folder, people)
    write_hdf5(folder, people, "val")
    for form in ("json", "hdf5"):
        assert MPIISource(folder.parent, "val", form).person(0).labeled[4]


def test_missing_images(folder):
    write_json(folder, raw_people())
    (folder / "images" / "000000002.jpg").unlink()
    source = MPIISource(folder.parent, "train")
    assert len(source) == 3 and source.available() == [0, 2]
    with pytest.raises(UserError, match=r"000000002\.jpg does not exist"):
        source.image(1)
    there = Subset(source, source.available())
    assert len(there) == 2 and there.image_name(1) == "000000004.jpg" and there.image(1).shape == (100, 100, 3)
    assert there.person(1).scale == source.person(2).scale and "2 of 3" in there.name
    assert there.reference_length(1) == source.reference_length(2)
    with pytest.raises(IndexError, match=r"index 3 is outside 0\.\.2"):
        Subset(source, [3])
    for number in (0, 4):
        (folder / "images" / f"00000000{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"images holds none of the images of mpii train.*000000000\.jpg"):
        MPIISource(folder.parent, "train")


def test_missing_folders_and_files(tmp_path, folder):
    with pytest.raises(UserError, match=r"root folder .*nowhere does not exist"):
        MPIISource(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="give the folder above"):
        MPIISource(folder, "train")
    with pytest.raises(UserError, match=r"no annotations of split 'train'; expected mpii_annotations.*, train\.h5 or"):
        MPIISource(tmp_path, "train")
    with pytest.raises(UserError, match=r"valid\.h5 does not exist"):
        MPIISource(tmp_path, "val", "hdf5")
    with pytest.raises(UserError, match="labels are not public: use the split 'val'"):
        MPIISource(tmp_path, "test")
    with pytest.raises(UserError, match=r"unknown split 'all' of MPII"):
        MPIISource(tmp_path, "all")
    with pytest.raises(UserError, match=r"unknown form 'xml' of MPII"):
        MPIISource(tmp_path, "val", "xml")
    write_json(folder, [{**p, "isValidation": 0} for p in raw_people()])
    with pytest.raises(UserError, match="no people in this split"):
        MPIISource(tmp_path, "val")
    (folder / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="images does not exist"):
        MPIISource(tmp_path, "train")


def test_open_dataset(folder):
    people = raw_people()
    write_json(folder, people)
    with pytest.warns(DataWarning, match="are estimated as 0.75 of upper neck to head top"):
        assert open_dataset("mpii", folder.parent, "train").name == "mpii train (json, head sizes estimated)"
    write_detections(folder, people)
    assert open_dataset("mpii", folder.parent, "test").name == "mpii val (json)"
    assert open_dataset("mpii+lsp", folder.parent, "val").name == "mpii val (json)"
    with pytest.raises(UserError, match="'mpii' needs a root: the folder that contains mpii/"):
        open_dataset("mpii", None, "train")
    write_hdf5(folder, [{**p, "joint_self": np.zeros((16, 3)).tolist()} for p in people], "val", normalize=None)
    (folder / "valid.h5").rename(folder / "test.h5")
    with pytest.raises(UserError, match="labels of MPII's test people are not public"):
        open_dataset("mpii", folder.parent, "test")


def test_real_forms_agree_and_the_published_row_comes_out(data_root):
    folder = data_root / "mpii"
    needed = ("mpii_annotations.json.gz", "valid.h5", "detections_our_format.mat", "pred_multiscale_250.h5")
    if not all((folder / name).is_file() for name in needed):
        pytest.skip("no MPII annotations")
    import h5py

    raw, adjusted = (MPIISource(data_root, "val", form) for form in ("json", "hdf5"))
    assert len(raw) == len(adjusted) == 2958 and raw.estimated == adjusted.estimated == 0
    for index in range(2958):
        one, other = raw.person(index), adjusted.person(index)
        assert raw.image_name(index) == adjusted.image_name(index)
        assert np.array_equal(one.labeled, other.labeled)
        assert np.abs(one.joints - other.joints)[one.labeled].max() <= 1.0  # the file has whole pixels
        assert np.abs(one.center - other.center).max() < 0.01 and abs(one.scale - other.scale) < 0.001
        assert raw.reference_length(index) == pytest.approx(adjusted.reference_length(index), rel=1e-6)
    with h5py.File(folder / "pred_multiscale_250.h5") as file:
        predictions = file["preds"][..., :2] - 1
    score = score_predictions(raw, predictions)
    assert score.mean == pytest.approx(90.27, abs=0.05) and score.settings["left_out"] == {}
    assert Subset(raw, raw.available()).image(0).ndim == 3


def test_real_estimate_head_sizes(data_root):
    if not (data_root / "mpii" / "detections_our_format.mat").is_file():
        pytest.skip("no MPII head boxes")
    from pyranet_fast.data.mpii_annotations import HEAD_FACTOR, estimate_head_sizes

    val = MPIISource(data_root, "val")
    persons = [val.person(i) for i in range(len(val))]
    joints, labeled = np.stack([p.joints for p in persons]), np.stack([p.labeled for p in persons])
    spans = estimate_head_sizes(joints.astype(np.float64), labeled) / HEAD_FACTOR
    known = np.isfinite(spans)
    sizes = np.array([val.reference_length(i) for i in range(len(val))])
    assert known.sum() == 2932
    assert (sizes * spans)[known].sum() / np.square(spans[known]).sum() == pytest.approx(HEAD_FACTOR, abs=2e-4)
    assert np.all(np.abs(np.percentile(HEAD_FACTOR * spans[known] / sizes[known], [1, 99]) - 1) < 0.01)


def test_real_training_people(data_root):
    if not (data_root / "mpii" / "mpii_annotations.json.gz").is_file():
        pytest.skip("no MPII annotations")
    train = MPIISource(data_root, "train")
    assert len(train) == 22246 and train.estimated == 22098
    there = Subset(train, train.available())
    assert len(there) >= 12
    for sample in (CropDataset(there, 64, augmentation=None)[i] for i in range(len(there))):
        assert sample["weight"].sum() >= 10
