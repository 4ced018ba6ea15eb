"""Scores against what was right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyranet_fast.evaluation.report import write_calibration
from pyranet_fast.inference.calibration import calibrate, plot_calibration
from pyranet_fast.metrics import PCK


def test_bins_of_equal_size_by_hand():
    found = calibrate([0.9, 0.1, 0.8, 0.2, 0.5, 0.4], [True, False, True, False, True, False], bins=3)
    np.testing.assert_allclose(found.scores, [0.15, 0.45, 0.85])
    np.testing.assert_allclose(found.right, [0, 0.5, 1])
    assert found.count.tolist() == [2, 2, 2] and found.ranking == 1.0
    np.testing.assert_allclose(found.chance([0, 0.15, 0.3, 0.65, 2]), [0, 0, 0.25, 0.75, 1])


def test_scores_that_are_chances_come_out_as_such():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 200_000)
    found = calibrate(scores, rng.uniform(0, 1, len(scores)) < scores, bins=20)
    np.testing.assert_allclose(found.right, found.scores, atol=0.02)
    # of two independent uniform chances: P(right scores higher) = 5/6
    assert found.ranking == pytest.approx(5 / 6, abs=0.005)
    assert calibrate(scores, rng.uniform(0, 1, len(scores)) < 0.5).ranking == pytest.approx(0.5, abs=0.01)


def test_chance_never_falls_and_few_joints_are_enough():
    found = calibrate([1, 2, 3, 4], [True, False, True, True], bins=4)
    np.testing.assert_allclose(found.right, [1, 0, 1, 1])
    np.testing.assert_allclose(found.chance([1, 2, 3, 4]), [0.5, 0.5, 1, 1])
    one = calibrate([0.3], [True])
    assert one.count.tolist() == [1] and np.isnan(one.ranking) and one.as_dict()["ranking"] is None
    assert calibrate([1, 1, 1, 1], [True, False, True, False]).ranking == 0.5


def test_bad_arguments_are_named(tmp_path):
    for scores, right, bins, words in (
        ([], [], 3, "M above 0"), ([1, 2], [True], 3, "(2,)"), ([1, np.nan], [True, False], 3, "must be finite"),
        ([1.0], [True], 0, "bins must be at least 1, got 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
            calibrate(scores, right, bins)
    with pytest.raises(ValueError, match=r"path must end in \.png, got "):
        plot_calibration(tmp_path / "a.pdf", calibrate([1.0], [True]))


def test_files_of_an_evaluation(tmp_path):
    errors = np.array([[0.1, 0.3, np.nan], [PCK.threshold, np.inf, 0.0]])
    scores = np.array([[0.9, 0.2, 0.7], [0.8, np.nan, 0.6]])
    files = write_calibration(tmp_path, scores, errors, PCK, "a $ title")
    assert [f.name for f in files] == ["calibration.json", "calibration.png"] and files[1].stat().st_size > 1000
    content = json.loads(files[0].read_text())
    assert content["scores"] == [0.2, 0.6, 0.8, 0.9] and content["metric"] == PCK.name
    assert content["right"] == [0, 1, float(not PCK.strict), 1]
    assert write_calibration(tmp_path, np.full((1, 2), np.nan), np.ones((1, 2)), PCK, "") == []
