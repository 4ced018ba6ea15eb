"""Tables in the paper's columns, published rows, and pictures of curves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pyranet_fast.evaluation.curves import pck_curve
from pyranet_fast.evaluation.report import (
    COLUMNS,
    FORMATS,
    Row,
    plot_curves,
    published_beside,
    results_table,
    row_of,
)
from pyranet_fast.keypoints import LSP
from pyranet_fast.metrics import PCK, PCKH, box_metric
from pyranet_fast.pose import pck, pckh


def score_of_pckh(wrong: int = 0):
    truth = np.random.default_rng(0).uniform(0, 200, (4, 16, 2))
    predicted = truth.copy()
    predicted[:wrong, 10] += 100
    return pckh(predicted, truth, [10, 10, 10, 0], on_bad_size="leave_out")


def score_of_pck():
    truth = np.random.default_rng(0).uniform(0, 200, (3, 14, 2))
    return pck(truth, truth)


def test_columns_are_those_of_the_scores():
    assert tuple(score_of_pckh().columns) == COLUMNS == tuple(score_of_pck().columns)


def test_published_rows():
    """The figures of the publications, and that a row's mean agrees with its columns where it has them."""
    mpii, leeds = published_beside(PCKH), published_beside(PCK)
    assert [(row.name, row.data, row.mean) for row in [*mpii, *leeds]] == [
        ("PRM, 8 stacks", "MPII test", 92.0),
        ("plain hourglass, 8 stacks", "MPII test", 90.9),
        ("plain hourglass", "MPII validation", 87.6),
        ("with variance control", "MPII validation", 88.0),
        ("with variance control and PRM", "MPII validation", 88.5),
        ("PRM, 8 stacks", "LSP 1001-2000", 93.9),
    ]
    assert all(row.published and row.note and row.metric == "PCKh@0.5" for row in mpii)
    assert list(mpii[0].columns.values()) == [98.5, 96.7, 92.5, 88.7, 91.1, 88.6, 86.0]
    (lsp,) = leeds
    assert lsp.metric == "PCK@0.2"
    assert abs(np.mean(list(lsp.columns.values())) - lsp.mean) < 0.06
    assert [row.mean for row in published_beside(PCKH, "MPII test")] == [92.0, 90.9]
    assert published_beside(PCKH, "LSP 1001-2000") == [] == published_beside(box_metric(LSP))


def test_text():
    rows = [row_of(score_of_pckh(1), "ours", "MPII test", "one scale"), published_beside(PCKH)[1]]
    lines = results_table(rows).splitlines()
    assert lines[0].split() == ["Method", "Metric", "People", *COLUMNS, "Mean"]
    assert lines[2].split() == [
        "ours", "[1]", "PCKh@0.5", "MPII", "test", "100.00", "100.00", "100.00", "83.33", "100.00", "100.00", "100.00",
        "97.62",
    ]  # fmt: skip
    assert lines[3].split()[-8:] == ["-"] * 7 + ["90.9"] and "(published)" in lines[3]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[5:] == [
        "[1] one scale, 3 people, 1 left out",
        "[2] Newell et al., ECCV 2016, as quoted by Yang et al., ICCV 2017",
    ]


def test_notes_are_numbered_once():
    text = results_table(published_beside(PCKH, "MPII validation"))
    assert text.count("ablation with 2 stacks") == 1 and text.count("[1]") == 4 and "[2]" not in text


@pytest.mark.parametrize("format", FORMATS)
def test_different_people_are_never_side_by_side_without_a_word(format):
    rows = [row_of(score_of_pck(), "ours", "LSP 1001-1500"), published_beside(PCK)[0]]
    text = results_table(rows, format)
    assert "cannot be compared" in text and "LSP 1001-1500; PCK@0.2 on LSP 1001-2000" in text
    assert "cannot be compared" not in results_table(rows[1:], format)
    assert "cannot be compared" not in results_table([rows[1], rows[1]], format)
    assert "cannot be compared" in results_table(
        [row_of(score_of_pckh(), "a", "x"), row_of(score_of_pck(), "a", "x")], format
    )


def test_markdown():
    row = Row("a|b_c", "PCK@0.2", "LSP", float("nan"), {"Head": 12.345}, note="<b>")
    lines = results_table([row], "markdown").splitlines()
    assert lines[1] == "|---|---|---|" + "---:|" * 8
    assert lines[2] == r"| a\|b\_c \[1\] | PCK@0.2 | LSP | 12.35 | - | - | - | - | - | - | - |"
    assert lines[3:] == ["", r"\[1\] \<b\>"]


def test_latex():
    row = Row("50 % & more_", "PCK@0.2", "LSP", 1.0, note="C:\\x")
    lines = results_table([row], "latex").splitlines()
    assert lines[0] == r"\begin{tabular}{lllrrrrrrrr}" and lines[-3] == r"\end{tabular}"
    assert lines[4].startswith(r"{}50 \% \& more\_ [1] & PCK@0.2 & LSP & -- & ") and lines[4].endswith(r"& 1.00 \\")
    assert lines[4].count(" & ") == 10 and lines[-1] == r"\noindent [1] C:\textbackslash{}x"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: results_table([]), "rows is empty"),
        (
            lambda: results_table([published_beside(PCK)[0]], "csv"),
            "format must be one of text, markdown, latex, html, got 'csv'",
        ),
        (
            lambda: results_table([Row("x", "PCK", "LSP", 1.0, {"Nose": 1.0})]),
            "columns of row 'x' must be among Head, Shoulder.*, got 'Nose'",
        ),
    ],
)
def test_bad_tables_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def curve(shift: float = 0.0, metric: str = "pckh"):
    joints = {"pckh": 16, "pck": 14}[metric]
    return pck_curve(np.random.default_rng(0).uniform(0, 0.5, (50, joints)) + shift, metric=metric)


def test_picture_of_curves(tmp_path):
    path = tmp_path / "new" / "curves.png"
    plot_curves(path, {"_one": curve(), "$two": curve(0.1)}, title="MPII")
    both = cv2.imread(str(path))
    assert both.shape[0] > 300 and both.shape[1] > 400
    plot_curves(path, {"_one": curve()}, title="MPII")
    one = cv2.imread(str(path))
    assert one.shape == both.shape and (one != both).any()
    plot_curves(path, {"_one": curve()}, column="Wrist", title="MPII")
    assert (cv2.imread(str(path)) != one).any()
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("name", "curves", "column", "message"),
    [
        ("c.png", {}, None, "curves must not be empty"),
        ("c.pdf", {"a": curve()}, None, "a file name ending in .png"),
        ("c.png", {"a": curve(), "b": curve(metric="pck")}, None, "curves are of PCK and PCKh"),
        ("c.png", {"a": curve()}, "Nose", "column is 'Nose'; curve 'a' has Head, Shoulder"),
    ],
)
def test_bad_pictures_are_named(tmp_path, name, curves, column, message):
    with pytest.raises(ValueError, match=message):
        plot_curves(tmp_path / name, curves, column=column)
    assert not list(tmp_path.iterdir())
