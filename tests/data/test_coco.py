"""People in COCO's keypoint format, from the file to a trained network."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pytest

from pyranet_fast.data import COCOSource, open_dataset
from pyranet_fast.data.annotations import is_held_out
from pyranet_fast.data.dataset import PersonRecord
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.evaluation.evaluator import score_predictions
from tests.data.coco_people import DOG, changed, dogs, write


@pytest.fixture
def root(tmp_path):
    return write(tmp_path, dogs())


def test_labels(root):
    source = COCOSource("dogs.json", root)
    assert len(source) == 12 and source.metric.key == "pck-box" and source.name == "coco dogs.json"
    assert source.skeleton.name == "coco:dog" and source.skeleton.joints == tuple(DOG["keypoints"])
    assert source.skeleton.flip_pairs == ((1, 2),) and source.skeleton.bones == ((0, 1), (0, 2))
    raw = np.array(dogs()["annotations"][1]["keypoints"]).reshape(4, 3)
    person = source.person(1)
    assert person.labeled.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(person.joints[:3], raw[:3, :2])  # pixels from 0 already
    np.testing.assert_allclose(person.center, [10 + 30 - 0.5, 15 + 25.25 - 0.5])
    assert person.scale == pytest.approx(1.25 * 60 / 200) and source.reference_length(1) == 60
    assert source.image(1).shape == (80, 100, 3) and source.image_name(1) == "pack/001.jpg"
    assert source.notes == () and not source.left_out and source.categories == {7: "dog"}
    annotation = dogs()["annotations"][1]
    box = tuple(map(float, annotation["bbox"]))
    assert source.record(1) == PersonRecord(1, 7, 101, box=box)


def test_a_tenth_is_held_out_by_name(tmp_path):
    content = dogs(60)
    write(tmp_path, content)
    train_set, val, test = (open_dataset("coco:dogs.json", tmp_path, split) for split in ("train", "val", "test"))
    names = [[s.image_name(i) for i in range(len(s))] for s in (train_set, val, test)]
    assert names[1] == names[2] == [n for n in sorted(names[0] + names[1]) if is_held_out(n)]
    assert len(names[0]) + len(names[1]) == 60 and 1 <= len(names[1]) <= 12
    # More images change nothing for those that are there.
    more = write(tmp_path / "more", dogs(80))
    assert set(names[1]) <= {i for i in map(str, _names(open_dataset("coco:dogs.json", more, "val")))}
    with pytest.raises(UserError, match=r"none of its 1 images with people falls into part 'val'.*coco:TRAIN"):
        open_dataset("coco:dogs.json", write(tmp_path / "one", dogs(1)), "val")


def _names(source):
    return [source.image_name(i) for i in range(len(source))]


def test_two_files(root):
    write(root, dogs(3), "val.json")
    assert len(open_dataset("coco:dogs.json,val.json", root, "train")) == 12
    assert len(open_dataset("coco:dogs.json, val.json", root, "test")) == 3
    assert len(open_dataset(f"coco:{root / 'dogs.json'},{root / 'val.json'}", root / "images", "val")) == 3
    write(root, dogs(3, {**DOG, "keypoints": ["nose", "left_ear", "right_ear", "paw"]}), "val.json")
    with pytest.raises(UserError, match=r"val\.json has other joints than .*dogs\.json"):
        open_dataset("coco:dogs.json,val.json", root, "val")
    for name in ("coco:", "coco:a,b,c", "coco:,"):
        with pytest.raises(UserError, match=r"must be coco:TRAIN\.json\[,VAL\.json\], got "):
            open_dataset(name, root / "elsewhere", "val")
    write(root, dogs(12), "a,b.json")
    assert len(open_dataset("coco:a,b.json", root, "train")) == 10


@pytest.mark.parametrize("images", [".", "images"])
def test_images_are_found_in_the_root(tmp_path, images):
    write(tmp_path, dogs(), images=images)
    assert len(COCOSource("dogs.json", tmp_path).available()) == 12


def test_images_are_found_beside_the_file(tmp_path):
    write(tmp_path / "labels", dogs(), images=".")
    (tmp_path / "root").mkdir()
    source = COCOSource(tmp_path / "labels" / "dogs.json", tmp_path / "root")
    (tmp_path / "labels" / "pack" / "004.jpg").unlink()
    assert source.available() == [0, 1, 2, 3, *range(5, 12)]
    with pytest.raises(UserError, match=r"004\.jpg does not exist"):
        source.image(4)
    (tmp_path / "labels" / "pack" / "000.jpg").unlink()
    assert COCOSource(tmp_path / "labels" / "dogs.json", tmp_path / "root").available() == [1, 2, 3, *range(5, 12)]
    # The folder that holds most decides, not the first.
    (tmp_path / "root" / "pack").mkdir()
    shutil.copy(tmp_path / "labels" / "pack" / "001.jpg", tmp_path / "root" / "pack" / "001.jpg")
    assert len(COCOSource(tmp_path / "labels" / "dogs.json", tmp_path / "root").available()) == 10
    shutil.rmtree(tmp_path / "labels" / "pack")
    (tmp_path / "root" / "pack" / "001.jpg").unlink()
    with pytest.raises(UserError, match=r"none of its 12 images is in any of .*root, .*images, .*labels; the first"):
        COCOSource(tmp_path / "labels" / "dogs.json", tmp_path / "root")


def test_what_is_left_out_is_counted_and_said(root):
    content = dogs()
    people = content["annotations"]
    people[0]["iscrowd"] = 1
    people[2]["keypoints"] = []
    del people[3]["keypoints"]
    people[4]["keypoints"] = [0] * 12
    people[5]["category_id"] = 3
    people[6]["keypoints"][:2] = [130, 40]
    content["categories"].append({"id": 3, "name": "cat"})
    write(root, content)
    source = COCOSource("dogs.json", root)
    assert len(source) == 7 and source.left_out == {
        "of crowds": 1,
        "without keypoints": 2,
        "without labeled keypoints": 1,
        "of categories without keypoints": 1,
    }
    assert source.notes[0] == (
        f"{root / 'dogs.json'}: 5 of 12 people, in 5 pictures, are left out: "
        "2 without keypoints (first: annotation 102); 1 of crowds (annotation 100); "
        "1 without labeled keypoints (annotation 104); "
        "1 of categories without keypoints (annotation 105)"
    )
    assert any("1 labeled joints lie outside their image" in note for note in source.notes)
    assert source.person(2).labeled[0]  # outside, and labeled like all others
    with pytest.warns(DataWarning, match=r"dogs\.json: 4 of 10 people, in 4 pictures, are left out: .* 1 of crowds"):
        open_dataset("coco:dogs.json", root, "train")
    for person in people:
        person["iscrowd"] = 1
    write(root, content)
    with pytest.raises(UserError, match="none of 12 annotations can be used: 12 of crowds"):
        COCOSource("dogs.json", root)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([["left_ear", "right_ear"]], ((1, 2),)),
        ([[2, 1], [1, 2]], ((1, 2),)),
        ([["nose", 3]], ((0, 3),)),
        ([], ()),
    ],
)
def test_given_flip_pairs(root, pairs, expected):
    changed(root, "categories.0.flip_pairs", pairs)
    source = COCOSource("dogs.json", root)
    assert source.skeleton.flip_pairs == expected and source.notes == ()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (None, "flip_pairs must be a list of pairs .*, got None"),
        ([[1]], r"must be a list of pairs .*, got \[1\] in it"),
        ([["ear", 1]], "must hold pairs of joint names, or of joint indices 0 to 3, got 'ear'"),
        ([[1, 4]], "must hold pairs .*, got 4"),
        ([[1, True]], "must hold pairs .*, got True"),
        ([[1, "left_ear"]], "two different joints"),
        ([[0, 1], [1, 2]], "a joint appears in two flip_pairs"),
    ],
)
def test_wrong_flip_pairs(root, pairs, message):
    changed(root, "categories.0.flip_pairs", pairs)
    with pytest.raises(UserError, match=rf"dogs\.json: category 'dog': .*{message}"):
        COCOSource("dogs.json", root)


def test_names_decide_what_is_mirrored(root):
    changed(root, "categories.0.keypoints", ["nose", "left_ear", "right_eye", "tail"])
    source = COCOSource("dogs.json", root)
    assert source.skeleton.flip_pairs == () and len(source.notes) == 1
    assert "no partner on the other side for 'left_ear', 'right_eye', so" in source.notes[0]
    assert "a field flip_pairs: all pairs" in source.notes[0]
    changed(root, "categories.0.keypoints", ["horn_left", "ear_L", "ear_R", "tail"])
    source = COCOSource("dogs.json", root)
    assert source.skeleton.flip_pairs == ((1, 2),) and "for 'horn_left', so" in source.notes[0]
    changed(root, "categories.0.keypoints", ["a", "b", "c", "d"])
    with pytest.warns(DataWarning, match="no left and right found in the joint names"):
        assert open_dataset("coco:dogs.json", root, "train").skeleton.flip_pairs == ()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("images", KeyError, "images must be a list of objects, got nothing"),
        ("images", [], "images must not be empty"),
        ("annotations", 3, "annotations must be a list of objects, got a int"),
        ("annotations", [3], "annotations must be a list of objects, got a list with other things in it"),
        ("categories.0.keypoints", KeyError, "no category has keypoints"),
        ("categories.0.keypoints", "nose", "keypoints must be a list of joint names, got 'nose'"),
        ("categories.0.keypoints", ["a", "a", "b", "c"], "two joints are called 'a'"),
        ("categories.0.name", 3, "name must be a string, got 3"),
        ("categories.0.id", None, "the id of a category must be a number, got None"),
        ("images.3.file_name", 3, "image 3: file_name must be a path, got 3"),
        ("images.3.id", None, "the id of image number 3 must be a number or a string, got None"),
        ("images.3.id", 2, "image ids must be unique, got 2 twice"),
        ("annotations.2.image_id", 99, "annotation 102: image_id must be the id of one of the images, got 99"),
        ("annotations.2.image_id", [], r"annotation 102: image_id must be .*, got \[\]"),
        ("annotations.2.category_id", [], r"category_id must be the id of one of the categories, got \[\]"),
        ("annotations.2.category_id", 8, "category_id must be .*, got 8"),
        ("annotations.2.bbox", KeyError, "annotation 102: field 'bbox' is missing"),
        ("annotations.2.bbox", [1, 2, 3], r"field 'bbox' must be numbers of shape \(4,\), got \[1, 2, 3\]"),
        ("annotations.2.bbox", [1, 2, 3, "4"], "field 'bbox' must be numbers of shape"),
        ("annotations.2.iscrowd", "many", "annotation 102: iscrowd must be 0 or 1, got 'many'"),
        ("annotations.2.iscrowd", [], r"annotation 102: iscrowd must be 0 or 1, got \[\]"),
        ("categories.0.sigmas", [0.1, 0.1, 0.1], r"field 'sigmas' must be .*\(4,\)"),
        ("categories.0.sigmas", [0.1, 0.1, 0.1, 0], "must be above 0"),
        ("annotations.2.keypoints", [1, 2, 3], r"field 'keypoints' must be .*\(12,\)"),
    ],
)
def test_wrong_fields(root, path, value, message):
    changed(root, path, value)
    with pytest.raises(UserError, match=rf"dogs\.json.*{message}"):
        COCOSource("dogs.json", root)


def test_files_that_are_none(root):
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        COCOSource("none.json", root)
    with pytest.raises(UserError, match="images is no file"):
        COCOSource("images", root)
    path = root / "dogs.json"
    whole = path.read_bytes()
    for content, message in [(whole[:99], "not JSON or is truncated"), (b"[]", "must hold a COCO object, got list")]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            COCOSource("dogs.json", root)
        with pytest.raises(UserError, match=message):
            write(root, dogs(3), "val.json")
            open_dataset("coco:dogs.json,val.json", root, "val")
    packed = gzip.compress(whole)
    (root / "dogs.json.gz").write_bytes(packed)
    assert len(COCOSource("dogs.json.gz", root)) == 12
    (root / "dogs.json.gz").write_bytes(packed[:-20])
    with pytest.raises(UserError, match="truncated or not a gzip file"):
        COCOSource("dogs.json.gz", root)
    with pytest.raises(UserError, match="part must be all, train or val, got 'test'"):
        COCOSource("dogs.json", root, "test")


def test_the_score_is_in_units_of_the_box(root):
    source = COCOSource("dogs.json", root)
    truth = np.stack([source.person(i).joints for i in range(12)])
    score = score_predictions(source, truth + np.array([3, 0], np.float32))  # a twentieth of 60
    assert score.mean == 100 and score.metric == "PCK-box@0.05" and list(score.columns) == ["nose", "ear", "tail"]
    assert score_predictions(source, truth + np.array([3.1, 0], np.float32)).mean == 0


@pytest.mark.parametrize("kind", ["parents", "absolute", "link"])
def test_images_outside_of_the_root_are_refused_unless_allowed(tmp_path, kind):
    root = write(tmp_path / "root", dogs())
    outside = tmp_path / "secret.jpg"
    (root / "images" / "pack" / "000.jpg").rename(outside)
    if kind == "link":
        (root / "images" / "pack" / "000.jpg").symlink_to(outside)
    else:
        changed(root, "images.0.file_name", "../../secret.jpg" if kind == "parents" else str(outside))
    with pytest.raises(UserError, match=r"dogs\.json: image .* lies outside .*secret\.jpg; .*--allow-outside"):
        COCOSource("dogs.json", root)
    assert COCOSource("dogs.json", root, allow_outside=True).image(0).shape == (80, 100, 3)
