"""COCO's average precision of our predictions, by pycocotools itself."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import pytest

from pyranet_fast.data import COCOSource, PackedSource, Subset, open_dataset
from pyranet_fast.data.packed import write_packed
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import score_predictions
from pyranet_fast.evaluation.oks import KEYS, oks_precision, oks_unavailable
from pyranet_fast.evaluation.report import published_points, write_predictions
from tests.data.coco_people import DOG, dogs, write

COCO_JOINTS = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip


def people_of_coco(root, category: int = 1, count: int = 20):
    """People with COCO's joints, two in each picture of 200 x 160 pixels."""
    rng = np.random.default_rng(3)
    annotations = []
    for number in range(count):
        box = np.array([5 + 95 * (number % 2), 10, 90, 130.0])
        keypoints = np.column_stack([box[:2] + rng.uniform(0.05, 0.95, (17, 2)) * box[2:], rng.integers(0, 3, 17)])
        keypoints[0, 2] = 2
        annotations.append(
            {
                "id": 900 + number, "image_id": 40 + number // 2, "category_id": category, "bbox": box.tolist(),
                "area": 0.5 * box[2] * box[3], "keypoints": keypoints.ravel().tolist(), "iscrowd": 0,
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            }
        )  # fmt: skip
    images = [{"id": 40 + n, "file_name": f"{n:03d}.jpg"} for n in range(count // 2)]
    named = {"id": category, "name": "person", "keypoints": COCO_JOINTS, "skeleton": []}
    write(root, {"images": images, "annotations": annotations, "categories": [named]})
    return COCOSource("dogs.json", root)


def predicted(people, noise: float, seed: int = 0):
    """The labels, moved by noise."""
    rng = np.random.default_rng(seed)
    joints = np.stack([people.person(index).joints for index in range(len(people))])
    moved = joints + rng.normal(0, noise, joints.shape)
    return np.concatenate([moved, rng.uniform(0.2, 1, (*joints.shape[:2], 1))], axis=2).astype(np.float32)


def precision_by_file(labels, results) -> list[float]:
    """What a user of pycocotools does with a file of labels and one of results."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("category", [1, 7])
def test_the_figures_are_those_of_the_written_file(category, tmp_path):
    people = people_of_coco(tmp_path, category)
    ours, theirs, pck = [], [], []
    for noise in (0.0, 1.0, 2.5, 5.0, 9.0, 20.0):
        predictions = predicted(people, noise)
        found = oks_precision(people, published_points(people, predictions), predictions[..., 2])
        write_predictions(tmp_path, people, predictions, ["coco"])
        by_file = precision_by_file(tmp_path / "dogs.json", tmp_path / "coco_results.json")
        expected = [np.nan if value < 0 else value for value in by_file]
        np.testing.assert_allclose([found[key] for key in KEYS], expected, atol=1e-6)
        ours.append(found["AP"])
        theirs.append(by_file[0])
        pck.append(score_predictions(people, predictions).mean)
    # Better by our score is better by COCO's, and a category other than 1 is not lost.
    assert ours[0] == pytest.approx(1) and pck[0] == 100 and ours[-1] < 0.2
    for values in (ours, theirs, pck):
        assert values == sorted(values, reverse=True) and values[1] > values[-1]


def test_packed_people_have_the_same_precision(tmp_path):
    people = people_of_coco(tmp_path)
    write_packed(tmp_path / "people.pack", {"val": people}, input_size=64)
    packed = PackedSource(tmp_path / "people.pack", "val")
    assert [packed.record(i) for i in range(20)] == [people.record(i) for i in range(20)]
    assert packed.metric.oks_sigmas == people.metric.oks_sigmas and len(people.metric.oks_sigmas) == 17
    points, scores = predicted(people, 4.0)[..., :2].astype(float), np.ones((20, 17))
    assert oks_precision(packed, points, scores) == pytest.approx(
        oks_precision(people, points, scores), abs=1e-3, nan_ok=True
    )
    some = Subset(people, [3, 4, 5])
    assert oks_precision(some, points[3:6], scores[3:6])["AP"] > 0


def test_people_without_a_prediction_count_as_missed(tmp_path):
    people = people_of_coco(tmp_path)
    points = predicted(people, 0.0)[..., :2].astype(float)
    points[10:] = np.nan
    assert oks_precision(people, points, np.ones((20, 17)))["AR"] == pytest.approx(0.5)
    assert oks_precision(people, np.full_like(points, np.nan), np.ones((20, 17))) == dict.fromkeys(KEYS, 0.0)


def test_where_it_cannot_be_given(tmp_path, monkeypatch):
    dog = COCOSource("dogs.json", write(tmp_path / "dogs", dogs()))
    assert "the constants of its similarity are not known for these joints" in oks_unavailable(dog)
    with pytest.raises(UserError, match=r"coco dogs\.json: no average precision: the constants"):
        oks_precision(dog, np.zeros((12, 4, 2)), np.ones((12, 4)))
    own = COCOSource("dogs.json", write(tmp_path / "own", dogs(category={**DOG, "sigmas": [0.03, 0.1, 0.1, 0.2]})))
    assert own.metric.oks_sigmas == (0.03, 0.1, 0.1, 0.2) and oks_unavailable(own) is None
    points = np.stack([own.person(index).joints for index in range(12)]).astype(float)
    assert oks_precision(own, points, np.ones((12, 4)))["AP"] == pytest.approx(1)
    assert "not from a COCO file" in oks_unavailable(open_dataset("demo", None, "val", count=2))
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert oks_unavailable(own) == "it needs pycocotools: pip install pyranet-fast[coco]"


def test_ids_that_are_texts(tmp_path):
    people = people_of_coco(tmp_path)
    content = json.loads((tmp_path / "dogs.json").read_text())
    for image in content["images"]:
        image["id"] = f"picture {image['id']}"
    for person in content["annotations"]:
        person["image_id"], person["category_id"] = f"picture {person['image_id']}", "human"
    content["categories"][0]["id"] = "human"
    (tmp_path / "text.json").write_text(json.dumps(content))
    named = COCOSource("text.json", tmp_path)
    predictions = predicted(people, 3.0)
    points, scores = published_points(named, predictions), predictions[..., 2]
    assert oks_precision(named, points, scores) == pytest.approx(oks_precision(people, points, scores), nan_ok=True)
    write_predictions(tmp_path, named, predictions, ["coco"])
    first = json.loads((tmp_path / "coco_results.json").read_text())[0]
    assert (first["image_id"], first["category_id"], first["annotation_id"]) == ("picture 40", "human", 900)
