"""Files of predictions for others, read again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.prediction_reader import read_predictions
from pyranet_fast.evaluation.prediction_writer import read_mpii_mat, write_coco_json, write_hdf5, write_mpii_mat
from pyranet_fast.pose import LSP, MPII

scipy_io = pytest.importorskip("scipy.io")


def poses(count: int, joints: int = 16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    return random.uniform(-20, 900, (count, joints, 2)), random.uniform(0, 1, (count, joints))


@pytest.mark.parametrize("skeleton", [LSP, MPII], ids=lambda s: s.name)
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_hdf5_is_read_again(tmp_path, skeleton, count):
    points, scores = poses(count, len(skeleton))
    points[:1, 2] = np.nan
    path = tmp_path / "new" / "predictions.h5"
    write_hdf5(path, points, scores, skeleton=skeleton, attrs={"dataset": "lsp"})
    if count == 0:
        with pytest.raises(UserError, match="must have shape"):
            read_predictions(path)
        return
    found = read_predictions(path)
    assert np.allclose(found.points, points, atol=1e-4, equal_nan=True) and np.allclose(found.scores, scores)
    assert found.attrs["pixels"] == "0-based" and found.attrs["dataset"] == "lsp"
    assert found.attrs["joints"] == list(skeleton.joints)
    write_hdf5(path, points, skeleton=skeleton)  # over the older file
    assert read_predictions(path).scores is None
    assert [p.name for p in path.parent.iterdir()] == ["predictions.h5"]


def test_nothing_is_left_behind_where_a_write_fails(tmp_path):
    points, scores = poses(2)
    path = tmp_path / "p.h5"
    write_hdf5(path, points, scores, skeleton=MPII)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_hdf5(path, points, scores, skeleton=MPII, attrs={"bad": object()})  # type: ignore[dict-item]
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_mpii_layout_is_read_again_in_mpii_order(tmp_path):
    points, _ = poses(4)
    points[1, [6, 7]] = np.nan
    objpos = np.array([[10.0, 20.0], [np.nan, np.nan], [30.0, 40.0], [50.0, 60.0]])
    scale = np.array([1.5, 2.5, np.nan, 3.5])
    path = tmp_path / "pred.mat"
    write_mpii_mat(path, points, [5, 2, 5, 3.0], [1, 2, 3, 1], objpos=objpos, scale=scale, images=7)
    people = read_mpii_mat(path)
    assert [(p.image, p.person) for p in people] == [(2, 2), (3, 1), (5, 1), (5, 3)]
    for found, index in zip(people, [1, 3, 0, 2], strict=True):
        assert np.allclose(found.points, points[index], equal_nan=True)
        if np.isnan(objpos[index, 0]):
            assert found.objpos is None
        else:
            assert np.allclose(found.objpos, objpos[index])
        assert found.scale == (None if np.isnan(scale[index]) else scale[index])


def test_mpii_layout_is_that_of_the_annotations(tmp_path):
    """Field by field, as MATLAB would address it."""
    points, _ = poses(2)
    points[0, 3] = np.nan
    write_mpii_mat(tmp_path / "pred.mat", points, [3, 1], [2, 1], objpos=np.full((2, 2), 7.0), images=4)
    pred = scipy_io.loadmat(tmp_path / "pred.mat")["pred"]
    assert pred.shape == (1, 4) and pred.dtype.names == ("annorect",)
    assert pred[0, 1]["annorect"].size == 0 and pred[0, 3]["annorect"].size == 0
    rectangles = pred[0, 2]["annorect"]
    assert rectangles.shape == (1, 2) and rectangles.dtype.names == ("annopoints", "objpos")
    assert rectangles[0, 0]["annopoints"].size == 0 and rectangles[0, 0]["objpos"].size == 0
    point = rectangles[0, 1]["annopoints"][0, 0]["point"]
    assert point.shape == (1, 15) and set(point.dtype.names) == {"x", "y", "id"}
    assert [int(p["id"].item()) for p in point[0]] == [0, 1, 2, *range(4, 16)]
    # Pixels are counted from 1, as in the annotations.
    assert point[0, 3]["x"].item() == points[0, 4, 0] + 1 and point[0, 3]["y"].item() == points[0, 4, 1] + 1
    assert rectangles[0, 1]["objpos"][0, 0]["x"].item() == 8


def test_mpii_layout_without_anybody(tmp_path):
    write_mpii_mat(tmp_path / "pred.mat", np.zeros((0, 16, 2)), [], [], images=3)
    assert scipy_io.loadmat(tmp_path / "pred.mat")["pred"].shape == (1, 3)
    assert read_mpii_mat(tmp_path / "pred.mat") == []
    write_mpii_mat(tmp_path / "pred.mat", np.full((1, 16, 2), np.nan), [1], [1])
    assert read_mpii_mat(tmp_path / "pred.mat") == []


def test_submission_is_named_where_plain_predictions_are_expected(tmp_path):
    write_mpii_mat(tmp_path / "pred.mat", poses(1)[0], [1], [1])
    with pytest.raises(UserError, match="read_mpii_mat reads the layout of MPII submissions"):
        read_predictions(tmp_path / "pred.mat")
    scipy_io.savemat(tmp_path / "other.mat", {"pred": np.zeros((3, 16, 2))})
    with pytest.raises(UserError, match=r"no pred.annorect"):
        read_mpii_mat(tmp_path / "other.mat")
    (tmp_path / "bad.mat").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        read_mpii_mat(tmp_path / "bad.mat")
    with pytest.raises(UserError, match="does not exist"):
        read_mpii_mat(tmp_path / "none.mat")


@pytest.mark.parametrize(
    "point", [{"x": 1, "y": 2}, {"x": 1, "y": 2, "id": 16}, {"x": 1, "y": 2, "id": -1}, {"x": [], "y": 2, "id": 3}]
)
def test_damaged_submissions_are_named(tmp_path, point):
    scipy_io.savemat(tmp_path / "p.mat", {"pred": {"annorect": {"annopoints": {"point": point}}}})
    with pytest.raises(UserError, match=r"pred\(1\).annorect\(1\) is not in the layout of MPII submissions"):
        read_mpii_mat(tmp_path / "p.mat")


def test_coco_results(tmp_path):
    points, scores = poses(3, 14)
    points[0, 1] = np.nan
    scores[0, 1] = np.nan
    points[1] = np.nan  # nobody was found
    assert write_coco_json(tmp_path / "r.json", points, scores, [17, "b.jpg", np.int64(9)]) == 2  # type: ignore[list-item]
    results = json.loads((tmp_path / "r.json").read_text())
    assert [r["image_id"] for r in results] == [17, 9] and {r["category_id"] for r in results} == {1}
    assert all(set(r) == {"image_id", "category_id", "keypoints", "score"} for r in results)
    first = np.array(results[0]["keypoints"]).reshape(14, 3)
    assert first[1].tolist() == [0, 0, 0]
    others = [0, *range(2, 14)]
    assert np.allclose(first[others, :2], points[0, others], atol=1e-3) and (first[others, 2] == 1).all()
    assert np.isclose(results[0]["score"], np.nanmean(scores[0]), atol=1e-6)
    write_coco_json(tmp_path / "r.json", points, None, ["a", "b", "c"], category_id=3)
    results = json.loads((tmp_path / "r.json").read_text())
    assert [(r["image_id"], r["score"], r["category_id"]) for r in results] == [("a", 1.0, 3), ("c", 1.0, 3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: write_hdf5(p, np.zeros((3, 16, 2)), skeleton=LSP),
            r"points must have shape \(N, 14, 2\), got \(3, 16, 2\)",
        ),
        (lambda p: write_hdf5(p, np.zeros((3, 16)), skeleton=MPII), r"points must have shape .*, got \(3, 16\)"),
        (
            lambda p: write_hdf5(p, np.zeros((3, 16, 2)), np.zeros((3, 14)), skeleton=MPII),
            r"scores must have shape \(3, 16\) .*, got \(3, 14\)",
        ),
        (
            lambda p: write_hdf5(p, np.zeros((3, 16, 2)), skeleton=MPII, attrs={"pixels": "1-based"}),
            "attrs has 'pixels'",
        ),
        (
            lambda p: write_mpii_mat(p, poses(2, 14)[0], [1, 2], [1, 1]),
            r"points must have shape \(N, 16, 2\), got \(2, 14, 2\)",
        ),
        (
            lambda p: write_mpii_mat(p, poses(2)[0], [1], [1, 1]),
            r"image_numbers must have shape \(2,\), .*, got \(1,\)",
        ),
        (lambda p: write_mpii_mat(p, poses(2)[0], [1, 0], [1, 1]), "image_numbers must hold whole numbers from 1.*0"),
        (lambda p: write_mpii_mat(p, poses(2)[0], [1, 2], [1, 1.5]), "person_numbers must hold whole numbers.*1.5"),
        (lambda p: write_mpii_mat(p, poses(2)[0], [1, np.nan], [1, 1]), "image_numbers must hold whole numbers.*nan"),
        (
            lambda p: write_mpii_mat(p, poses(2)[0], [4, 4], [2, 2]),
            "must name each person once, got a person of image 4 twice",
        ),
        (lambda p: write_mpii_mat(p, poses(2)[0], [1, 9], [1, 1], images=8), "images must be at least .* 9, got 8"),
        (
            lambda p: write_mpii_mat(p, poses(2)[0], [1, 2], [1, 1], scale=[1]),
            r"scale must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda p: write_mpii_mat(p, poses(2)[0], [1, 2], [1, 1], objpos=[1, 2]),
            r"objpos must have shape \(2, 2\), got \(2,\)",
        ),
        (
            lambda p: write_coco_json(p, poses(2)[0], None, [1]),
            "image_ids must have one id per person, got 1 for 2 people",
        ),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "file")
    assert not list(tmp_path.iterdir())
