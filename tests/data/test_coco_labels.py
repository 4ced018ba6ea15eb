"""Labels of COCO files that cannot be right: who is left out, what is said, and what is read all the same."""

from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest

from pyranet_fast import cli, train
from pyranet_fast.data import COCOSource, open_dataset
from pyranet_fast.data.image_io import image_size
from pyranet_fast.errors import UserError
from tests.data.coco_people import DOG, changed, dogs, write


def opened(root, content):
    return COCOSource("dogs.json", write(root, content))


def shares_of_the_picture(person):
    x, y, width, height = person["bbox"]
    person["bbox"] = [x / 100, y / 80, width / 100, height / 80]


def joints_in_shares(person):
    points = np.array(person["keypoints"], dtype=float).reshape(4, 3)
    person["keypoints"] = (points / [100, 80, 1]).ravel().tolist()


def corners(person):
    person.update(bbox=[30, 25, 90, 75], keypoints=[40, 30, 2, 80, 70, 2, 50, 50, 1, 60, 40, 1])


def nan_joint(person):
    person["keypoints"][0] = float("nan")


WRONG = [
    (shares_of_the_picture, "whose box is given in shares of the picture, not in pixels"),
    (joints_in_shares, "whose joints are given in shares of the picture, not in pixels"),
    (corners, "whose box is given as x1, y1, x2, y2, not as x, y, width, height"),
    (lambda person: person.update(bbox=[100, 10, 60, 60]), "whose box lies outside the picture"),
    (lambda person: person.update(bbox=[-70, 10, 60, 60]), "whose box lies outside the picture"),
    (lambda person: person.update(bbox=[0, 0, 1e7, 1e7]), "whose box lies outside the picture"),
    (lambda person: person.update(bbox=[10, 15, 0, 50]), "whose box has no size"),
    (lambda person: person.update(bbox=[10, 15, 60, -3]), "whose box has no size"),
    (lambda person: person.update(bbox=[10, 15, float("nan"), 50]), "whose box has no size"),
    (lambda person: person.update(bbox=[80, 65, 8, 8]), "without a labeled joint in the crop around their box"),
    (nan_joint, "with a labeled joint that is not a number"),
    (lambda person: person.update(keypoints=[float("inf"), 3, 2] * 4), "with a labeled joint that is not a number"),
    (lambda person: person.update(iscrowd="1"), "of crowds"),
    (lambda person: person.update(iscrowd=True), "of crowds"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_one_person_is_left_out_and_counted(change, reason, tmp_path):
    content = dogs()
    change(content["annotations"][3])
    source = opened(tmp_path, content)
    assert source.left_out == {reason: 1} and len(source) == 11
    assert [source.record(i).annotation_id for i in range(11)] == [100, 101, 102, *range(104, 112)]
    assert f"1 of 12 people, in 1 picture, is left out: 1 {reason} (annotation 103" in source.notes[0]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_nobody_left_is_an_error_that_says_why(change, reason, tmp_path):
    content = dogs()
    for person in content["annotations"]:
        change(person)
    with pytest.raises(UserError, match=rf"dogs\.json: none of 12 annotations can be used: .*{reason} \(first: annot"):
        opened(tmp_path, content)


def test_boxes_of_corners_are_told_by_most_of_them(tmp_path):
    content = dogs()
    for person in content["annotations"]:
        corners(person)
    # This one reaches out of the picture neither way, and its neighbors tell what it is.
    content["annotations"][0].update(bbox=[2, 2, 62, 62], keypoints=[20, 20, 2, 60, 60, 2, 30, 30, 1, 40, 40, 1])
    with pytest.raises(UserError, match="12 whose box is given as x1, y1, x2, y2"):
        opened(tmp_path, content)
    # Boxes that reach a little beyond the picture, as of people who are cut off, are right.
    content = dogs()
    for person in content["annotations"]:
        person["bbox"] = [10, 15, 95, 70]
    assert len(opened(tmp_path / "cut", content)) == 12


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_what_is_not_labeled_may_be_nothing(tmp_path, nothing):
    content = dogs()
    content["annotations"][3]["keypoints"][3:6] = [nothing, nothing, 0]
    content["annotations"][4]["keypoints"][3:6] = [nothing, nothing, nothing]
    for text in ("0", "false", ""):
        content["annotations"][5]["iscrowd"] = text
        source = opened(tmp_path, content)
        assert len(source) == 12 and not source.left_out
    for index in (3, 4):
        assert source.person(index).labeled.tolist() == [True, False, True, True]
        assert np.isfinite(source.person(index).joints).all()


def test_pictures_of_another_size(tmp_path):
    content = dogs()
    content["images"][2].update(width=200, height=160)
    source = opened(tmp_path, content)
    assert source.left_out == {"whose picture has another size than the file says": 1}
    assert "(pack/002.jpg has 100 x 80 pixels, the file says 200 x 160)" in source.notes[0]
    for image in content["images"]:
        image.update(width=200, height=160)
    with pytest.raises(UserError, match="12 whose picture has another size than the file says"):
        opened(tmp_path, content)
    for image in content["images"]:
        image.update(width=None, height="?")
    assert len(opened(tmp_path, content)) == 12


def exif(orientation: int, order: str) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_that_exif_turns(orientation, order, tmp_path):
    content = dogs(4)
    write(tmp_path, content)
    path = tmp_path / "images" / "pack" / "001.jpg"
    data, tag = path.read_bytes(), exif(orientation, order)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + data[2:])
    turned = orientation >= 5
    assert image_size(path) == ((80, 100) if turned else (100, 80))
    source = COCOSource("dogs.json", tmp_path)
    assert len(source) == (3 if turned else 4)
    # The size as it is seen is the right one.
    if turned:
        content["images"][1].update(width=80, height=100)
        (tmp_path / "dogs.json").unlink()
        changed(write_json(tmp_path, content), "images.1.width", 80)
        assert COCOSource("dogs.json", tmp_path).image(1).shape == (100, 80, 3)


def write_json(root, content):
    (root / "dogs.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_the_size_in_a_header_is_that_of_the_picture(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((31, 77, 3), np.uint8))
    assert image_size(path) == ((77, 31) if suffix in (".jpg", ".png") else None)
    data = path.read_bytes()
    for end in range(min(len(data), 200)):  # a header that is cut off tells nothing, and breaks nothing
        path.write_bytes(data[:end])
        assert image_size(path) in (None, (77, 31))
    assert image_size(tmp_path / "none.jpg") is None


def test_formats_without_a_known_header_are_compared_when_they_are_read(tmp_path):
    content = dogs(4)
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(".jpg", ".bmp")
    content["images"][2].update(width=200, height=160)
    source = opened(tmp_path, content)
    assert len(source) == 4 and source.image(1).shape == (80, 100, 3)
    with pytest.raises(UserError, match=r"pack/002\.bmp has 100 x 80 pixels, dogs\.json says 200 x 160"):
        source.image(2)


def test_paths_from_windows(tmp_path):
    content = dogs()
    write(tmp_path, content)
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("/", "\\")
    source = COCOSource("dogs.json", write_json(tmp_path, content))
    assert len(source.available()) == 12 and source.image_name(3) == "pack/003.jpg" and source.image(3).ndim == 3


@pytest.mark.parametrize("bones", [[[0, 1]], [[1, 9]], [[2, 1]], [[1, 1]], [3], 3, "all", [[1.5, 2]], [[True, 2]], {}])
def test_bones_never_refuse_a_file(bones, tmp_path):
    content = dogs(category={**DOG, "skeleton": [[1, 2], [1, 3], *bones] if isinstance(bones, list) else bones})
    source = opened(tmp_path, content)
    assert len(source) == 12 and set(source.skeleton.bones) <= {(0, 1), (0, 2)}
    note = r"skeleton: 1 of 3 bones left out, first" if isinstance(bones, list) else "bones left out, first"
    assert sum(note in text for text in source.notes) == 1
    assert len(source.skeleton.bones) == (2 if isinstance(bones, list) else 0)


def test_identity_is_carried(tmp_path):
    content = dogs()
    # The same picture under two ids, a category of its own for it, and the size of a segment.
    content["categories"].append({**DOG, "id": 9, "name": "wolf"})
    content["images"].append({**content["images"][3], "id": 77})
    content["annotations"].append(
        {**content["annotations"][3], "id": 500, "image_id": 77, "category_id": 9, "area": 91.5}
    )
    content["annotations"].append({**content["annotations"][4], "id": "tail end", "image_id": 4})
    source = opened(tmp_path, content)
    assert source.categories == {7: "dog", 9: "wolf"} and len(source) == 14
    first, second, third = (source.record(index) for index in (3, 12, 13))
    assert (first.image_id, first.category_id, first.annotation_id, first.area) == (3, 7, 103, None)
    assert (second.image_id, second.category_id, second.annotation_id, second.area) == (77, 9, 500, 91.5)
    assert (third.image_id, third.annotation_id) == (4, "tail end") and second.box == (10, 15, 60, 50.5)
    digests = {source.digest(index) for index in range(14)}
    assert len(digests) == 12  # the same labels on the same picture are the same
    changed(tmp_path, "annotations.2.keypoints", [33.25, 30, 2] * 4)
    assert len(digests & {COCOSource("dogs.json", tmp_path).digest(index) for index in range(14)}) == 11


def test_several_categories_train_together(tmp_path, capsys):
    content = dogs()
    content["categories"].append({**DOG, "id": 9, "name": "wolf"})
    for person in content["annotations"][::2]:
        person["category_id"] = 9
    write(tmp_path, content)
    write(tmp_path, content, "val.json")
    flags = [
        "--dataset", "coco:dogs.json,val.json", "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--stacks",
        "1", "--features", "8", "--depth", "1", "--base-width", "2", "--input-size", "32", "--batch-size", "4",
        "--epochs", "1", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    assert cli.run(train.main, flags) == 0
    assert "validation PCK-box@0.05" in capsys.readouterr().out
    assert {open_dataset("coco:dogs.json,val.json", tmp_path, "val").record(i).category_id for i in range(12)} == {7, 9}
    content["categories"][1]["keypoints"] = ["nose", "tail", "left_ear", "right_ear"]
    with pytest.raises(UserError, match="categories coco:dog and coco:wolf have different joints"):
        opened(tmp_path, content)


def test_a_long_png_may_tell_its_orientation_after_the_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    assert (tmp_path / "a.png").stat().st_size > 1 << 16 and image_size(tmp_path / "a.png") is None
