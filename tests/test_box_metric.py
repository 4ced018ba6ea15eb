"""PCK in units of the box: the comparison, the columns, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.metrics import box_metric, pck_box
from pyranet_fast.pose import LSP, Skeleton

DOG = Skeleton("dog", ("nose", "left_ear", "right_ear", "tail"), ((1, 2),), ((0, 1),))


def dogs(count: int = 5) -> np.ndarray:
    return np.round(np.random.default_rng(0).uniform(0, 99, (count, 4, 2)))


OFFSET = np.array([3, 4])  # of length 5


def test_columns():
    assert box_metric(DOG).columns == {"nose": (0,), "ear": (1, 2), "tail": (3,)}
    assert list(box_metric(LSP).columns) == ["ankle", "knee", "hip", "wrist", "elbow", "shoulder", "neck", "head top"]
    odd = Skeleton("odd", ("ear", "left ear", "right ear"), ((1, 2),), ())
    assert box_metric(odd).columns == {"ear": (0,), "left ear/right ear": (1, 2)}
    last = Skeleton("last", ("left ear", "right ear", "ear"), ((0, 1),), ())
    assert box_metric(last).columns == {"left ear/right ear": (0, 1), "ear": (2,)}


def test_columns_of_other_names():
    fly = Skeleton("fly", ("wingL", "wingR", "L1", "lsho", "rsho"), ((0, 1), (3, 4)), ())
    assert box_metric(fly).columns == {"wing": (0, 1), "L1": (2,), "sho": (3, 4)}
    given = Skeleton("given", ("fin a", "tail", "fin b"), ((0, 2),), ())
    assert box_metric(given).columns == {"fin a/fin b": (0, 2), "tail": (1,)}
    bare = Skeleton("bare", ("left", "right"), ((0, 1),), ())
    assert box_metric(bare).columns == {"left/right": (0, 1)}


def test_a_twentieth_of_the_box_is_right():
    truth, size = dogs(), np.full(5, 100.0)
    assert pck_box(truth + OFFSET, truth, size, None, DOG).mean == 100
    score = pck_box(truth + np.array([3, 4.01]), truth, size, None, DOG)
    assert score.mean == 0 and score.metric == "PCK-box@0.05" and score.count == 5
    assert pck_box(truth + np.array([3, 4.01]), truth, size, None, DOG, threshold=0.1).mean == 100


def test_joints_weigh_the_same_and_pairs_are_averaged():
    truth = dogs()
    predicted, seen = truth.copy(), np.ones((5, 4), bool)
    predicted[:, 1] += 50
    seen[1:, 3] = False
    predicted[1:, 3] = np.nan
    score = pck_box(predicted, truth, np.full(5, 100.0), seen, DOG)
    assert score.columns == {"nose": 100, "ear": 50, "tail": 100} and score.mean == 75
    seen[:, 3] = False
    score = pck_box(predicted, truth, np.full(5, 100.0), seen, DOG)
    assert np.isnan(score.columns["tail"]) and score.as_dict()["columns"]["tail"] is None


def test_people_without_a_box_are_left_out_and_counted():
    truth = dogs()
    score = pck_box(truth + OFFSET, truth, np.array([100, 100, np.nan, 0, 100]), None, DOG)
    assert score.mean == 100 and score.count == 3 and score.settings["left_out"] == {"no box": 2}


def test_bad_input():
    truth = dogs()
    with pytest.raises(ValueError, match=r"box_size must have shape .*, got \(4,\)"):
        pck_box(truth, truth, np.ones(4), None, DOG)
    with pytest.raises(ValueError, match=r"must have shape \(N, 4, 2\)"):
        pck_box(truth[:, :3], truth, np.ones(5), None, DOG)
    with pytest.raises(ValueError, match="no people"):
        pck_box(truth[:0], truth[:0], np.ones(0), None, DOG)
