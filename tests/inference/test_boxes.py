"""Boxes of other detectors, by the names of pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.inference.boxes import read_boxes

IMAGE = np.zeros((10, 20, 3), np.uint8)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_coco_detections(tmp_path):
    content = [
        {"image_id": 17, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 17, "category_id": 1, "bbox": [5, 6, 7, 8], "score": 0.2},
        {"image_id": 17, "category_id": 3, "bbox": [9, 9, 9, 9], "score": 0.9},
        {"image_id": "other.jpg", "bbox": [0, 0, 1, 1]},
    ]
    boxes = read_boxes(written(tmp_path / "d.json", content))
    assert boxes("deep/000000000017.jpg", IMAGE) == boxes("17.png", IMAGE) == [(1, 2, 3, 4)]
    assert boxes("x/other.jpg", IMAGE) == [(0, 0, 1, 1)] and boxes("none.jpg", IMAGE) == []
    low = read_boxes(str(tmp_path / "d.json"), least_score=0.1)
    assert len(low("17.jpg", IMAGE)) == 2
    dataset = {"images": [{"id": 5, "file_name": "a.jpg"}], "annotations": [{"image_id": 5, "bbox": [1, 1, 2, 2]}]}
    assert read_boxes(written(tmp_path / "t.json", dataset))("in/a.jpg", IMAGE) == [(1, 1, 2, 2)]


def test_csv_with_and_without_names(tmp_path):
    rows = 'a.jpg,1,2,3,4\n"b, c.jpg",1.5,2,3,4,0.5\n\na.jpg,5,6,7,8,0.1\n'
    for head in ("", "file,x,y,w,h,score\n"):
        boxes = read_boxes(written(tmp_path / "b.csv", head + rows))
        assert boxes("deep/a.jpg", IMAGE) == [(1, 2, 3, 4)] and boxes("b, c.jpg", IMAGE) == [(1.5, 2, 3, 4)]


def test_a_function(tmp_path, monkeypatch):
    (tmp_path / "my_detector.py").write_text(
        "def find(image):\n    return [(0, 0, image.shape[1], image.shape[0], 0.9), [1, 1, 2, 2, 0.1]]\n"
        "def wrong(image):\n    return [(1, 2, 3)]\nnothing = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert read_boxes("my_detector:find")("a.jpg", IMAGE) == [(0, 0, 20, 10)]
    with pytest.raises(UserError, match=r"image a.jpg: box 1 of my_detector:wrong is \[1, 2, 3\]; expected numbers"):
        read_boxes("my_detector:wrong")("a.jpg", IMAGE)
    for name, words in (("my_detector:gone", "cannot be imported"), ("my_detector:nothing", "which is a int")):
        with pytest.raises(UserError, match=words):
            read_boxes(name)
    with pytest.raises(UserError, match="cannot be imported"):
        read_boxes("no_such_module:find")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "no list of detections"),
        ("a.json", [3], "no list of detections"),
        ("a.json", [{"image_id": 1}], "detection 1 has no image_id or no bbox"),
        ("a.json", [{"image_id": 1, "bbox": [1, 2, 0, 4]}], "box 1 is .* w and h above 0"),
        ("a.json", [{"image_id": 1, "bbox": [1, 2, "x", 4]}], "expected numbers"),
        ("a.csv", "a.jpg,1,2,3\n", "box 1 is"),
        ("a.csv", "a.jpg,1,2,nan,4\n", "box 1 is"),
        ("a.txt", "", "expected COCO detections"),
    ],
)
def test_what_is_no_list_of_boxes(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words):
        read_boxes(written(tmp_path / name, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_boxes(str(tmp_path / "a.json"))
