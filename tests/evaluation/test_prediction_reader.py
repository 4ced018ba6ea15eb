"""Predictions and ground truth from files: layouts, pixels, ranges of people, and their score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.prediction_reader import parse_people, read_ground_truth, read_predictions, score_files
from pyranet_fast.metrics import PCK, PCKH
from pyranet_fast.pose import LSP

h5py = pytest.importorskip("h5py")
savemat = pytest.importorskip("scipy.io").savemat


def poses(count: int, joints: int, last: int = 3) -> np.ndarray:
    return np.random.default_rng(count).uniform(20, 180, (count, joints, last))


def write_h5(path, array, name="preds", **attrs):
    with h5py.File(path, "w") as file:
        file[name] = array
        file.attrs.update(attrs)
    return path


def write_mat73(path, **arrays):
    """A .mat of version 7.3: HDF5 behind 512 bytes, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array).T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


def write_lsp(path, count=20, extended=False):
    points = poses(count, 14)
    points[..., 2] = 1 if extended else 0
    points[:, 2, :2], points[:, 9, :2] = (100, 100), (130, 60)  # a torso of 50
    savemat(path, {"joints": points.transpose(1, 2, 0) if extended else points.transpose(2, 1, 0)})
    return path, points


def write_mpii(path, count=5, head=100.0):
    points = poses(count, 16, 2)
    boxes = np.zeros((2, 2, count))
    boxes[1] = head / 0.6 / math.sqrt(2)
    missing = np.zeros((16, count), np.uint8)
    savemat(path, {"pos_gt_src": points.transpose(1, 2, 0), "jnt_missing": missing, "headboxes_src": boxes})
    return path, points


@pytest.mark.parametrize(
    ("axes", "layout"),
    [((0, 1, 2), "N x 16 x 3"), ((0, 2, 1), "N x 3 x 16"), ((2, 1, 0), "3 x 16 x N"), ((1, 2, 0), "16 x 3 x N")],
)
@pytest.mark.parametrize("kind", ["h5", "mat", "mat73"])
def test_every_layout_is_recognized(tmp_path, axes, layout, kind):
    values = poses(7, 16)
    array = values.transpose(axes)
    path = tmp_path / ("p.h5" if kind == "h5" else "p.mat")
    if kind == "h5":
        write_h5(path, array)
    elif kind == "mat":
        savemat(path, {"preds": array})
    else:
        write_mat73(path, pred=array)
    found = read_predictions(path)
    assert found.points.shape == (7, 16, 2) and found.points.dtype == np.float64
    assert np.allclose(found.points, values[..., :2] - 1) and np.allclose(found.scores, values[..., 2])
    assert found.attrs["layout"] == layout and found.attrs["pixels"] == "1-based"


def test_points_without_scores_and_of_14_joints(tmp_path):
    values = poses(6, 14, 2)
    savemat(tmp_path / "p.mat", {"pred": values.transpose(2, 1, 0)})
    found = read_predictions(tmp_path / "p.mat")
    assert found.scores is None and np.allclose(found.points, values - 1)


def test_pixels_follow_from_the_attributes_or_the_argument(tmp_path):
    values = poses(3, 14)
    older = write_h5(tmp_path / "older.h5", values, joints=list(LSP.joints))
    assert np.allclose(read_predictions(older).points, values[..., :2])
    assert read_predictions(older).attrs["joints"] == list(LSP.joints)
    said = write_h5(tmp_path / "said.h5", poses(5, 14), pixels="0-based")
    assert np.allclose(read_predictions(said).points, poses(5, 14)[..., :2])
    assert np.allclose(read_predictions(said, pixels="1-based").points, poses(5, 14)[..., :2] - 1)
    savemat(tmp_path / "said.mat", {"preds": poses(5, 14), "pixels": "0-based"})
    assert np.allclose(read_predictions(tmp_path / "said.mat").points, poses(5, 14)[..., :2])
    wrong = write_h5(tmp_path / "wrong.h5", poses(5, 14), pixels="2-based")
    with pytest.raises(UserError, match="must be 0-based or 1-based, got '2-based'"):
        read_predictions(wrong)
    with pytest.raises(ValueError, match="pixels must be 'auto', '0-based' or '1-based', got 'zero'"):
        read_predictions(said, pixels="zero")


def test_ambiguous_sizes_are_refused_unless_the_number_of_people_is_known(tmp_path):
    path = write_h5(tmp_path / "p.h5", np.zeros((3, 16, 2)))
    with pytest.raises(UserError, match=r"shape \(3, 16, 2\), which can be read as N x 16 or 14 x 2\|3 and as 2\|3"):
        read_predictions(path)
    assert read_predictions(path, joints=16, people=2).points.shape == (2, 16, 2)
    assert read_predictions(path, joints=16, people=3).scores is None
    ours = write_h5(tmp_path / "ours.h5", np.zeros((3, 16, 2)), joints=["a"] * 16)
    assert read_predictions(ours).points.shape == (3, 16, 2)


def test_what_is_not_finite_is_no_prediction(tmp_path):
    values = poses(5, 16)
    values[0, 3, 0], values[1, 2, 1] = np.nan, np.inf
    points = read_predictions(write_h5(tmp_path / "p.h5", values)).points
    assert np.isnan(points[0, 3]).all() and np.isnan(points[1, 2]).all() and np.isnan(points).sum() == 4


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("none.h5", None, "predictions .*none.h5 does not exist"),
        ("p.npz", lambda p: p.write_bytes(b"x"), r"must be a .h5 or .mat file"),
        ("p.h5", lambda p: p.write_bytes(b"not HDF5"), "cannot be read; it is damaged or not of its suffix"),
        ("p.mat", lambda p: p.write_bytes(b"x" * 1000), "cannot be read; it is truncated, damaged"),
        ("p.mat", lambda p: p.write_bytes(b""), "cannot be read; it is truncated, damaged"),
        ("p.h5", lambda p: write_h5(p, np.zeros(3), "other"), "no array 'preds' or 'pred'; it holds other"),
        (
            "p.h5",
            lambda p: write_h5(p, np.zeros((4, 17, 3))),
            r"must have shape N x 16 or 14 x 2\|3, .*, got \(4, 17, 3\)",
        ),
        ("p.h5", lambda p: write_h5(p, np.zeros((16, 3))), r"must have shape .*, got \(16, 3\)"),
        ("p.h5", lambda p: write_h5(p, np.zeros((0, 16, 3))), r"must have shape .*, got \(0, 16, 3\)"),
        ("p.h5", lambda p: write_h5(p, np.full((4, 16, 3), b"x")), "preds must be an array of numbers, got type"),
        ("p.mat", lambda p: savemat(p, {"pred": {"a": 1}}), "pred is a structure.*read_mpii_mat"),
    ],
)
def test_bad_predictions_are_named(tmp_path, name, write, message):
    path = tmp_path / name
    if write is not None:
        write(path)
    with pytest.raises(UserError, match=message):
        read_predictions(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is no file"):
        read_ground_truth(tmp_path)


def test_ground_truth_of_lsp_and_its_ranges(tmp_path):
    path, points = write_lsp(tmp_path / "joints.mat")
    truth = read_ground_truth(path)
    assert truth.metric is PCK and len(truth) == 20 and np.isfinite(truth.length).all() and truth.labeled.all()
    assert np.allclose(truth.points, points[..., :2] - 1)
    part = read_ground_truth(path, "11-")
    assert (part.first, part.last, part.available) == (11, 20, 20)
    assert np.allclose(part.points, truth.points[10:])
    with pytest.raises(UserError, match=r"people '11-21' is not within .*joints.mat, which holds people 1 to 20"):
        read_ground_truth(path, "11-21")


def test_ground_truth_of_lsp_extended_has_labels(tmp_path):
    path, points = write_lsp(tmp_path / "joints.mat", extended=True)
    points[4, 5, 2] = 0
    points[6, 1, 0] = np.nan
    savemat(path, {"joints": points.transpose(1, 2, 0)})
    truth = read_ground_truth(path)
    assert not truth.labeled[4, 5] and not truth.labeled[6, 1] and truth.labeled.sum() == 20 * 14 - 2


def test_ground_truth_of_mpii(tmp_path):
    path, points = write_mpii(tmp_path / "mpii.mat")
    truth = read_ground_truth(path, "2-3")
    assert truth.metric is PCKH and np.allclose(truth.length, 100) and np.allclose(truth.points, points[1:3] - 1)


@pytest.mark.parametrize("text", ["", "1", "a-b", "-5", "1-2-3", "1001:2000"])
def test_what_is_not_a_range(text):
    with pytest.raises(UserError, match="a range such as '1001-2000' or '1001-'"):
        parse_people(text, 2000, "file")


@pytest.mark.parametrize("text", ["0-5", "6-5", "5-21", "21-", "21-22"])
def test_ranges_outside_the_file(text):
    with pytest.raises(UserError, match="is not within file, which holds people 1 to 20"):
        parse_people(text, 20, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": 1}, r"neither 'pos_gt_src' \(MPII\) nor 'joints' \(LSP\); it holds other"),
        ({"joints": np.zeros((4, 14, 5))}, r"joints must have shape \(3, 14, N\) .*, got \(4, 14, 5\)"),
        ({"joints": np.zeros((3, 14, 0))}, r"joints must have shape"),
        ({"joints": "text"}, "joints must be an array of numbers, got type"),
        ({"pos_gt_src": np.zeros((16, 2, 4))}, "no 'jnt_missing'; PCKh needs it"),
        (
            {
                "pos_gt_src": np.zeros((16, 2, 4)),
                "jnt_missing": np.zeros((16, 3)),
                "headboxes_src": np.zeros((2, 2, 4)),
            },
            r"jnt_missing must have shape \(16, N\) .*, got \(16, 3\)",
        ),
    ],
)
def test_bad_ground_truth_is_named(tmp_path, content, message):
    savemat(tmp_path / "t.mat", content)
    with pytest.raises(UserError, match=message):
        read_ground_truth(tmp_path / "t.mat")


def test_files_are_scored_at_the_same_origin(tmp_path):
    truth, points = write_lsp(tmp_path / "joints.mat")
    off = points[..., :2] + np.array([9.5, 0])  # 0.19 torsos to the right; one pixel more is too much
    others = write_h5(tmp_path / "others.h5", off)
    assert score_files(others, truth).mean == 100
    ours = write_h5(tmp_path / "ours.h5", off - 1, joints=list(LSP.joints))
    assert score_files(ours, truth).mean == 100
    assert score_files(others, truth, pixels="0-based").mean == 0
    settings = score_files(ours, truth).settings
    assert (
        settings["pixels"] == "0-based"
        and settings["people"] == "1-20 of 20"
        and settings["ground_truth"] == str(truth)
    )


def test_a_range_is_taken_from_predictions_of_everybody(tmp_path):
    truth, points = write_lsp(tmp_path / "joints.mat")
    points[:10, :, :2] += 1000
    everybody = write_h5(tmp_path / "all.h5", points)
    assert score_files(everybody, truth).mean == 50
    assert score_files(everybody, truth, "11-20").mean == 100
    part = write_h5(tmp_path / "part.h5", points[10:])
    score = score_files(part, truth, "11-")
    assert score.mean == 100 and score.count == 10 and score.settings["people"] == "11-20 of 20"
    with pytest.raises(UserError, match=r"part.h5 has 10 people; .*joints.mat has 20, all of them: the numbers"):
        score_files(part, truth)
    with pytest.raises(UserError, match=r"has 20, of which 1-5 are asked for: the numbers must agree"):
        score_files(part, truth, "1-5")


def test_joints_must_be_those_of_the_ground_truth(tmp_path):
    truth, _ = write_lsp(tmp_path / "joints.mat")
    other = write_h5(tmp_path / "p.h5", poses(20, 16))
    with pytest.raises(UserError, match=r"must have shape N x 14 x 2\|3, .*, got \(20, 16, 3\)"):
        score_files(other, truth)


def test_few_people_are_settled_by_their_number(tmp_path):
    truth, points = write_mpii(tmp_path / "t.mat", count=3)
    savemat(tmp_path / "p.mat", {"pred": points})
    assert score_files(tmp_path / "p.mat", truth).mean == 100


def test_a_person_without_a_head_box_is_left_out(tmp_path):
    path, points = write_mpii(tmp_path / "t.mat")
    boxes = np.zeros((2, 2, 5))
    boxes[1, :, 1:] = 50
    missing = np.zeros((16, 5), np.uint8)
    missing[:, 4] = 1
    savemat(path, {"pos_gt_src": points.transpose(1, 2, 0), "jnt_missing": missing, "headboxes_src": boxes})
    score = score_files(write_h5(tmp_path / "p.h5", points), path)
    assert score.count == 3 and score.settings["left_out"] == {"no head size": 1, "no labeled joint": 1}


def test_golden_files(data_root):
    folder = data_root / "mpii"
    files = folder / "pred_multiscale_250.h5", folder / "detections_our_format.mat"
    if not all(file.is_file() for file in files):
        pytest.skip("the golden predictions are not there")
    score = score_files(*files)
    values = [*score.columns.values(), score.mean, *list(score.conventions.values())[:3]]
    expected = [97.41, 96.16, 91.10, 86.88, 90.05, 86.00, 83.89, 90.27, 90.27, 90.65, 91.36]
    assert [round(value, 2) for value in values] == expected
    assert score.settings["left_out"] == {} and score.settings["people"] == "1-2958 of 2958"


def test_real_lsp_says_what_is_there(data_root, tmp_path):
    path = data_root / "lsp_dataset" / "joints.mat"
    if not path.is_file():
        pytest.skip("LSP is not there")
    available = read_ground_truth(path).available
    if available < 2000:
        with pytest.raises(UserError, match=f"people '1001-2000' is not within .* which holds people 1 to {available}"):
            read_ground_truth(path, "1001-2000")
    truth = read_ground_truth(path, "1001-1500")
    predictions = write_h5(tmp_path / "p.h5", truth.points + np.array([1.0, 1.0]))
    score = score_files(predictions, path, "1001-1500")
    assert score.metric == "PCK@0.2" and score.mean == 100 and score.count == 500
