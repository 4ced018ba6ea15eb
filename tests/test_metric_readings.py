"""The readings of PCK and PCKh: the golden figures, the curve, and what is left out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pyranet_fast.evaluation.curves import Curve, auc, pck_curve
from pyranet_fast.metrics import PCK, PCKH, readings, relative_errors
from pyranet_fast.pose import pck, pckh

GOLDEN = {
    "PCKh@0.5, mean over 14 joints, every joint weighs the same": 90.27,
    "PCKh@0.5, 14 joints pooled, every labeled joint of every person weighs the same": 90.65,
    "PCKh@0.5, all 16 joints pooled": 91.36,
    "PCKh@0.1, mean over 14 joints": 35.94,
}


@pytest.fixture(scope="module")
def golden(data_root):
    """Errors in head sizes and the flags of the authors' six-scale predictions."""
    from pyranet_fast.evaluation.prediction_reader import read_ground_truth, read_predictions

    files = data_root / "mpii" / "pred_multiscale_250.h5", data_root / "mpii" / "detections_our_format.mat"
    if not all(file.is_file() for file in files):
        pytest.skip("the golden predictions are not there")
    predictions, truth = read_predictions(files[0]), read_ground_truth(files[1])
    return predictions.points, truth


def test_golden_readings(golden):
    points, truth = golden
    score = pckh(points, truth.points, truth.length, truth.labeled)
    assert {name: round(score.conventions[name], 2) for name in GOLDEN} == GOLDEN
    text = score.readings()
    assert all(f"{value:.2f}  {name}" in text for name, value in GOLDEN.items())
    assert "2958 people scored" in text and "left out" not in text


def test_golden_curve(golden):
    points, truth = golden
    errors = relative_errors(points, truth.points, truth.length)
    curve = pck_curve(errors, truth.labeled, [0.1, 0.5])
    assert curve.mean.round(2).tolist() == [35.94, 90.27]
    assert curve.columns["Ankle"][1].round(2) == 83.89 and curve.count == 2958
    for threshold, mean in zip([0.05, 0.3], pck_curve(errors, truth.labeled, [0.05, 0.3]).mean, strict=True):
        alone = pckh(points, truth.points, truth.length, truth.labeled, threshold=threshold)
        assert math.isclose(alone.mean, mean)
    score = pckh(points, truth.points, truth.length, truth.labeled)
    name = "area under the PCKh curve, thresholds 0 to 0.5, mean over 14 joints"
    assert math.isclose(score.conventions[name], auc(pck_curve(errors, truth.labeled)))


def people(joints: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 200, (count, joints, 2))


def lsp_people(count: int = 4) -> np.ndarray:
    truth = people(14, count)
    truth[:, 2], truth[:, 9] = (100, 100), (130, 60)  # a torso of 50
    return truth


def test_readings_differ_as_they_say():
    truth = people(16)
    wrong = truth.copy()
    wrong[:, 6] += 1000  # the pelvis, which is in no mean
    wrong[0, 0] += 1000
    visible = np.ones((4, 16), bool)
    visible[1:, 0] = False  # the right ankle is labeled once, and wrong
    values = list(pckh(wrong, truth, np.full(4, 10.0), visible).conventions.values())
    assert np.allclose(values[0], 100 * 13 / 14)
    assert np.allclose(values[1], 100 * (14 * 4 - 4) / (14 * 4 - 3))
    assert np.allclose(values[2], 100 * (16 * 4 - 3 - 1 - 4) / (16 * 4 - 3))
    assert np.allclose(values[3], 100 * (6 + 0.5) / 7)


def test_lsp_has_no_reading_that_says_the_same_twice():
    score = pck(lsp_people(), lsp_people())
    assert list(score.conventions) == [
        "PCK@0.2, mean over 14 joints, every joint weighs the same",
        "PCK@0.2, 14 joints pooled, every labeled joint of every person weighs the same",
        "PCK@0.1, mean over 14 joints",
        "area under the PCK curve, thresholds 0 to 0.2, mean over 14 joints",
    ]
    assert np.allclose(list(score.conventions.values()), 100)
    # At threshold 0 nothing is below it, so that even perfect PCKh lacks the first half step.
    perfect = pckh(people(16), people(16), np.full(4, 10.0)).conventions
    assert math.isclose(perfect["area under the PCKh curve, thresholds 0 to 0.5, mean over 14 joints"], 99.0)


def test_people_who_cannot_be_scored_are_counted_and_change_nothing():
    truth, sizes = people(16, 6), np.array([10, 0, -1, np.nan, 10, np.inf])
    wrong = truth + np.array([3.0, 0.0])
    wrong[[1, 2, 3, 4, 5]] += 1000
    visible = np.ones((6, 16), bool)
    visible[4] = False
    score = pckh(wrong, truth, sizes, visible, on_bad_size="leave_out")
    assert score.mean == 100 and score.count == 1
    assert score.settings["left_out"] == {"no labeled joint": 1, "no head size": 4}
    assert "1 person scored, 1 left out (no labeled joint), 4 left out (no head size)" in score.readings()
    with pytest.raises(ValueError, match=r"head_size\[1\] is 0; every head size must be positive"):
        pckh(wrong, truth, sizes, visible)

    truth = lsp_people()
    truth[1, 9] = truth[1, 2]  # no length
    truth[2, 9] = np.nan  # without flags, NaN is not labeled
    score = pck(truth, truth)
    assert score.count == 2 and score.settings["left_out"] == {"no torso": 2} and score.mean == 100


def test_nobody_left_is_unknown():
    truth = people(16)
    score = pckh(truth, truth, np.zeros(4), on_bad_size="leave_out")
    assert score.count == 0 and math.isnan(score.mean)
    content = json.loads(json.dumps(score.as_dict(), allow_nan=False))
    assert content["mean"] is None and set(content["conventions"].values()) == {None}
    assert content["settings"]["left_out"] == {"no head size": 4}


def test_joints_outside_the_image_are_counted_and_scored():
    truth = np.full((2, 16, 2), 10.0)
    truth[0, 0] = (-0.6, 5)
    truth[1, 3] = (5, 99.6)
    truth[1, 4] = (199.4, 99.4)  # on the last pixel
    wrong = truth.copy()
    wrong[0, 0] += 100
    sizes = np.array([[200, 100], [200, 100]])
    visible = np.ones((2, 16), bool)
    score = pckh(wrong, truth, np.ones(2), visible, image_size=sizes)
    assert score.settings["joints_outside_image"] == 2
    assert score.mean == pckh(wrong, truth, np.ones(2), visible).mean == 100 * 13.5 / 14
    assert "2 labeled joints lie outside" in score.readings()
    assert "joints_outside_image" not in pckh(wrong, truth, np.ones(2)).settings


def test_errors_without_an_answer_are_infinite_and_without_a_truth_nan():
    truth, predicted = np.zeros((4, 16, 2)), np.zeros((4, 16, 2))
    predicted[0, 0], predicted[0, 1], predicted[0, 2] = np.nan, np.inf, (3, 4)
    truth[1, 0] = np.nan
    errors = relative_errors(predicted, truth, [10, 10, 0, np.nan])
    assert errors[0, :4].tolist() == [np.inf, np.inf, 0.5, 0]
    assert np.isnan(errors[1, 0]) and errors[1, 1] == 0 and np.isnan(errors[2:]).all()
    curve = pck_curve(errors, thresholds=[0.4, 0.5, 0.6, 1e9])
    assert np.allclose(curve.columns["Hip"], [75, 75, 100, 100])
    assert curve.columns["Knee"][-1] == 75 and curve.count == 2


def test_curve_follows_the_comparison_of_its_metric():
    errors = np.full((3, 14), 0.1)
    assert pck_curve(errors, thresholds=[0.1], metric="pck").mean.tolist() == [100]
    errors = np.full((3, 16), 0.1)
    assert pck_curve(errors, thresholds=[0.1, 0.11], metric=PCKH).mean.tolist() == [0, 100]
    assert len(pck_curve(errors).thresholds) == 51
    assert len(pck_curve(np.zeros((3, 14)), metric=PCK).thresholds) == 21


def test_area():
    curve = Curve("PCK", np.array([0.0, 0.1, 0.2]), np.array([0.0, 50.0, 100.0]), {"Head": np.full(3, np.nan)}, 1)
    assert math.isclose(auc(curve), 50) and math.isclose(auc(curve, 0.1), 25) and math.isclose(auc(curve, 0.15), 37.5)
    assert math.isnan(auc(curve, column="Head"))
    assert json.loads(json.dumps(curve.as_dict(), allow_nan=False))["columns"]["Head"] == [None] * 3
    # The area of a step function is that of the errors themselves, but for the grid.
    errors = np.random.default_rng(0).uniform(0, 0.3, (500, 14))
    assert abs(auc(pck_curve(errors, metric="pck")) - 100 * np.clip(1 - errors / 0.2, 0, 1).mean()) < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pck_curve(np.zeros((3, 14))), r"errors must have shape \(N, 16\) .*, got \(3, 14\)"),
        (lambda: pck_curve(np.zeros((0, 16))), r"errors must have shape .*, got \(0, 16\)"),
        (
            lambda: pck_curve(np.zeros((3, 16)), np.ones((3, 14))),
            r"seen must have the shape of errors.*, got \(3, 14\)",
        ),
        (lambda: pck_curve(np.full((3, 16), np.nan), np.ones((3, 16))), r"errors\[0, 0\] is NaN where seen"),
        (lambda: pck_curve(np.zeros((3, 16)), thresholds=[0.2, 0.1]), "thresholds must be at least 0 and ascend"),
        (lambda: pck_curve(np.zeros((3, 16)), thresholds=[-1, 0.1]), "thresholds must be at least 0 and ascend"),
        (lambda: pck_curve(np.zeros((3, 16)), thresholds=[np.nan]), "finite numbers"),
        (lambda: pck_curve(np.zeros((3, 16)), metric="oks"), "metric is 'oks'; expected one of pckh, pck"),
        (lambda: auc(pck_curve(np.zeros((3, 16))), 0.6), r"highest must be above 0 and at most 0.5 .*, got 0.6"),
        (
            lambda: auc(pck_curve(np.zeros((3, 16))), column="Nose"),
            "column must be one of Head, Shoulder.*, got 'Nose'",
        ),
        (lambda: auc(pck_curve(np.zeros((3, 16)), thresholds=[0.5])), "at least two"),
        (lambda: relative_errors(np.zeros((3, 16, 3)), np.zeros((3, 16, 3)), np.ones(3)), r"both must be \(N, K, 2\)"),
        (
            lambda: relative_errors(np.zeros((3, 16, 2)), np.zeros((3, 16, 2)), np.ones(2)),
            r"length must have shape .*, got \(2,\)",
        ),
        (lambda: pckh(people(16), people(16), np.ones(4), on_bad_size="skip"), "on_bad_size must be .*, got 'skip'"),
        (
            lambda: pckh(people(16), people(16), np.ones(4), image_size=np.ones(4)),
            r"image_size must have shape .*, got \(4,\)",
        ),
        (
            lambda: pckh(people(16), np.full((4, 16, 2), np.nan), np.ones(4), np.ones((4, 16))),
            r"ground_truth\[0, 0\] is not finite, but visible",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_readings_of_nobody_labeled():
    values = readings(np.zeros((2, 16)), np.zeros((2, 16), bool), 0.5, PCKH)
    assert all(math.isnan(value) for value in values.values())


def test_the_former_name_of_the_metric_warns():
    errors = np.zeros((3, 14))
    with pytest.warns(DeprecationWarning, match="argument 'convention' of pck_curve is now 'metric'"):
        curve = pck_curve(errors, convention="pck")  # type: ignore[call-arg]
    assert curve.metric == "PCK" and curve.unit == "torso" and curve.mean.tolist() == [100.0] * 21
