"""PCK and PCKh: the published row, the comparisons at the threshold, what counts and what does not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pyranet_fast.pose import LSP, MPII, pck, pckh

PCKH_ROW = {
    "Head": 97.41,
    "Shoulder": 96.16,
    "Elbow": 91.10,
    "Wrist": 86.88,
    "Hip": 90.05,
    "Knee": 86.00,
    "Ankle": 83.89,
}


@pytest.fixture(scope="module")
def golden(data_root):
    """The authors' six-scale predictions on MPII's validation people, and the ground truth."""
    h5py = pytest.importorskip("h5py")
    loadmat = pytest.importorskip("scipy.io").loadmat
    truth_file = data_root / "mpii" / "detections_our_format.mat"
    predictions_file = data_root / "mpii" / "pred_multiscale_250.h5"
    if not (truth_file.is_file() and predictions_file.is_file()):
        pytest.skip("the golden predictions are not there")
    truth = loadmat(truth_file)
    with h5py.File(predictions_file) as file:
        predictions = file["preds"][..., :2]
    boxes = truth["headboxes_src"].transpose(2, 0, 1)
    head_size = 0.6 * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
    return predictions, truth["pos_gt_src"].transpose(2, 0, 1), head_size, truth["jnt_missing"].T == 0


def test_pckh_gives_the_published_row(golden):
    score = pckh(*golden)
    assert {name: round(value, 2) for name, value in score.columns.items()} == PCKH_ROW
    assert round(score.mean, 2) == 90.27
    assert score.count == 2958 and score.metric == "PCKh@0.5"
    assert round(pckh(*golden, threshold=0.1).mean, 2) == 35.94


def mpii_people(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 200, (count, 16, 2))


def lsp_people(count: int = 3) -> np.ndarray:
    people = np.random.default_rng(1).uniform(0, 200, (count, 14, 2))
    people[:, 2] = (100, 100)  # right hip
    people[:, 9] = (130, 60)  # left shoulder: a torso of exactly 50
    return people


def test_pckh_is_strict_and_pck_is_not():
    truth = mpii_people()
    shifted = np.round(truth)
    truth = shifted + np.array([5.0, 0.0])  # exactly half of a head of 10
    assert pckh(shifted, truth, np.full(3, 10.0)).mean == 0
    assert pckh(shifted, truth, np.full(3, 10.001)).mean == 100

    truth = np.round(lsp_people())
    assert pck(truth + np.array([0.0, 10.0]), truth).mean == 100  # exactly a fifth of 50
    assert pck(truth + np.array([0.0, 10.001]), truth).mean == 0


def test_pck_measures_the_torso_from_left_shoulder_to_right_hip():
    truth = lsp_people()
    truth[:, 8], truth[:, 3] = (0, 0), (0, 1)  # the other diagonal is tiny
    assert pck(truth + np.array([7.0, 7.0]), truth).mean == 100


def columns_hit_by(metric, people, joint):
    """Return the columns that fall where one joint is wrong in every person."""
    wrong = people.copy()
    wrong[:, joint] += 1000
    score = metric(wrong, people)
    return {name for name, value in score.columns.items() if value < 100}, score


NAMES = {
    "ankle": "Ankle",
    "knee": "Knee",
    "hip": "Hip",
    "wrist": "Wrist",
    "elbow": "Elbow",
    "shoulder": "Shoulder",
}


@pytest.mark.parametrize("joint", range(14))
def test_pck_columns(joint):
    hit, score = columns_hit_by(pck, lsp_people(), joint)
    assert hit == {NAMES.get(LSP.joints[joint].split()[-1], "Head")}
    assert math.isclose(score.mean, 100 * 13 / 14)
    assert math.isclose(min(score.columns.values()), 50)


@pytest.mark.parametrize("joint", range(16))
def test_pckh_columns(joint):
    hit, score = columns_hit_by(lambda p, t: pckh(p, t, np.full(3, 10.0)), mpii_people(), joint)
    name = MPII.joints[joint]
    expected = {"head top": {"Head"}, "pelvis": set(), "thorax": set(), "upper neck": set()}
    assert hit == expected.get(name, {NAMES.get(name.split()[-1])})
    # Pelvis and thorax are in no column and not in the mean; the upper neck is in the mean alone.
    assert math.isclose(score.mean, 100 if name in ("pelvis", "thorax") else 100 * 13 / 14)


def test_missing_joints_do_not_count_and_joints_weigh_the_same():
    truth = mpii_people(4)
    wrong = truth.copy()
    wrong[0, 0] += 1000
    wrong[2, 5] += 1000
    visible = np.ones((4, 16), dtype=bool)
    visible[1:, 0] = False  # the right ankle is labeled once, and wrong; the left is wrong once in four
    score = pckh(wrong, truth, np.full(4, 10.0), visible)
    assert math.isclose(score.columns["Ankle"], (0 + 75) / 2)
    assert math.isclose(score.mean, (12 * 100 + 0 + 75) / 14)


def test_nobody_labeled_is_unknown_not_zero():
    truth = mpii_people(2)
    visible = np.ones((2, 16), dtype=bool)
    visible[:, [0, 5]] = False
    score = pckh(truth, truth, np.full(2, 10.0), visible)
    assert math.isnan(score.columns["Ankle"]) and score.mean == 100
    assert score.as_dict()["columns"]["Ankle"] is None
    assert " - " in score.table()


def test_people_without_a_torso_are_left_out():
    truth = lsp_people(3)
    wrong = truth.copy()
    wrong[1] += 1000
    visible = np.ones((3, 14), dtype=bool)
    visible[1, 9] = False
    score = pck(wrong, truth, visible)
    assert score.count == 2 and score.mean == 100


def test_nan_is_a_wrong_answer():
    truth = lsp_people()
    assert pck(np.full_like(truth, np.nan), truth).mean == 0


def test_table_and_dictionary():
    score = pck(lsp_people(), lsp_people())
    head, values = score.table().splitlines()
    assert head.split() == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Mean"]
    assert values.split() == ["PCK@0.2", *["100.00"] * 8]
    assert len(head) == len(values)
    content = json.loads(json.dumps(score.as_dict(), allow_nan=False))
    assert set(content) == {"metric", "mean", "columns", "conventions", "count", "settings"}
    assert content["settings"]["threshold"] == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"predictions": np.zeros((3, 14, 2))},
            r"predictions must have shape \(N, 16, 2\), got \(3, 14, 2\)",
        ),
        ({"predictions": np.zeros((2, 16, 2))}, "must have as many people, got 2 and 3"),
        ({"head_size": np.ones(2)}, r"head_size must have shape \(3,\), .*, got \(2,\)"),
        ({"head_size": np.array([1.0, 0.0, 1.0])}, r"head_size\[1\] is 0"),
        ({"head_size": np.array([1.0, 1.0, np.nan])}, r"head_size\[2\] is nan"),
        ({"visible": np.ones((3, 14))}, r"visible must have shape .*, got \(3, 14\)"),
        ({"threshold": 0}, "threshold must be positive, got 0"),
    ],
)
def test_bad_input_is_named(change, message):
    truth = mpii_people()
    arguments = {"predictions": truth, "ground_truth": truth, "head_size": np.ones(3)} | change
    with pytest.raises(ValueError, match=message):
        pckh(**arguments)


def test_no_people_is_an_error():
    with pytest.raises(ValueError, match="no people"):
        pck(np.zeros((0, 14, 2)), np.zeros((0, 14, 2)))
