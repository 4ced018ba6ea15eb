"""The page of the worst predictions."""

from __future__ import annotations

import html.parser
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyranet_fast.data import Subset, open_dataset
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.worst_page import people_errors, worst_page

COUNT = 5


class Broken(Subset):
    """One image cannot be read, another's name is markup."""

    def image(self, index):
        if index == 1:
            raise UserError("image <1>.jpg cannot be read: it is cut short")
        return super().image(index)

    def image_name(self, index):
        return "<script>.jpg" if index == 2 else super().image_name(index)


@pytest.fixture(scope="module")
def people():
    return Broken(open_dataset("demo", None, "test", count=COUNT), range(COUNT))


@pytest.fixture
def predictions(people):
    """Person i is wrong by i x 5 pixels in every joint, and by 20 more in joint i."""
    points = np.stack([people.person(i).joints for i in range(COUNT)]).astype(np.float64)
    for i in range(COUNT):
        points[i, :, 0] += 5.0 * i
        points[i, i, 0] += 20.0
    return points


class Page(html.parser.HTMLParser):
    """What a page links to, its text, and whether its elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.items: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert "script" not in self.open
        if "li" in self.open:
            self.items[-1] += data + "|"


def test_errors_are_in_units_of_the_metric(people, predictions):
    errors = people_errors(people, predictions)
    length = people.reference_length(3)
    assert np.allclose(errors[3, [0, 3]], [15 / length, 35 / length], atol=1e-5)
    predictions[2, 4] = np.nan
    assert np.isinf(people_errors(people, predictions)[2, 4])
    scored = np.concatenate([predictions, np.ones((COUNT, len(people.skeleton), 1))], axis=2)
    assert np.array_equal(people_errors(people, scored), people_errors(people, predictions))


def test_people_who_cannot_be_read_have_no_errors(people, predictions):
    class Unlabeled(Subset):
        def person(self, index):
            if index == 0:
                raise UserError("gone")
            person = super().person(index)
            return replace(person, labeled=np.arange(len(person.labeled)) > 0)

        def reference_length(self, index):
            return float("nan") if index == 4 else super().reference_length(index)

    errors = people_errors(Unlabeled(people.source, range(COUNT)), predictions)
    assert np.isnan(errors[[0, 4]]).all() and np.isnan(errors[1:4, 0]).all() and np.isfinite(errors[1:4, 1:]).all()


def test_page(people, predictions, tmp_path):
    errors = people_errors(people, predictions)
    predictions[0, 7], errors[0, 7] = np.nan, np.inf
    errors[3] = np.nan  # not scored
    shown = worst_page(tmp_path / "page", people, predictions, errors)
    assert shown[0].index == 0 and shown[0].joint == people.skeleton.joints[7]
    assert [entry.index for entry in shown[1:]] == sorted([1, 2, 4], key=lambda i: -errors[i].mean())
    for entry in shown[1:]:
        assert np.isclose(entry.error, errors[entry.index].mean())
        assert entry.joint == people.skeleton.joints[entry.index]
        assert np.isclose(entry.joint_error, errors[entry.index].max())

    folder = tmp_path / "page"
    assert {p.name for p in folder.iterdir()} == {"worst", "worst.html"}
    page = Page((folder / "worst.html").read_text())
    pictures = [entry.picture for entry in shown if entry.picture]
    assert page.links == [p for picture in pictures for p in (picture, picture)] and len(pictures) == 3
    for picture in pictures:
        assert not Path(picture).is_absolute()
        assert cv2.imread(str(folder / picture)).shape == (448, 448, 3)
    assert (
        "some joints have no prediction" in page.items[0] and f"{people.skeleton.joints[7]}, no pred" in page.items[0]
    )
    for entry, item in zip(shown[1:], page.items[1:], strict=True):
        unit = people.metric.units
        assert f"mean error {entry.error:.2f} {unit}" in item
        assert f"worst joint: {entry.joint}, {entry.joint_error:.2f} {unit}" in item
        assert f"{entry.image}, person {entry.index} (from 0)" in item
    broken = next(item for entry, item in zip(shown, page.items, strict=True) if entry.index == 1)
    assert "no picture: image <1>.jpg cannot be read: it is cut short" in broken
    text = (folder / "worst.html").read_text()
    assert "<script" not in text and "http" not in text and "4 of 4 people" in text


def test_the_prediction_and_the_truth_are_where_they_belong(people, predictions, tmp_path):
    index = 4
    shown = worst_page(tmp_path, people, predictions, people_errors(people, predictions))
    picture = cv2.imread(str(tmp_path / next(e.picture for e in shown if e.index == index)))[..., ::-1].astype(int)
    person = people.person(index)
    side = person.scale * 200
    place = (person.joints[index] - person.center + side / 2) * 448 / side
    # The worst joint's true place has a ring of 7 pixels around it.
    for angle in np.arange(0, 2 * np.pi, np.pi / 4):
        x, y = np.rint(place + 7 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        near = picture[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].reshape(-1, 3)
        if len(near):
            assert (np.abs(near - (255, 60, 200)).sum(axis=1)).min() < 150


def test_older_pictures_go_and_other_files_stay(people, predictions, tmp_path):
    errors = people_errors(people, predictions)
    worst_page(tmp_path, people, predictions, errors)
    (tmp_path / "worst" / "mine.jpg").write_bytes(b"x")
    assert len(worst_page(tmp_path, people, predictions, errors, count=1)) == 1
    assert {p.name for p in (tmp_path / "worst").iterdir()} == {"001.jpg", "mine.jpg"}
    assert worst_page(tmp_path, people, predictions, np.full_like(errors, np.nan)) == []
    assert "No people were scored" in (tmp_path / "worst.html").read_text()


def test_large_images_and_far_predictions(people, tmp_path):
    class Large(Subset):
        def image(self, index):
            return cv2.resize(super().image(index), None, fx=8, fy=8)

        def person(self, index):
            person = super().person(index)
            return replace(person, joints=person.joints * 8, center=person.center * 8, scale=person.scale * 8)

    large = Large(people.source, [0])
    points = np.full((1, len(people.skeleton), 2), 1e9)
    points[0, 0] = np.nan
    assert worst_page(tmp_path, large, points, people_errors(large, points))[0].picture
    truth = large.person(0).joints[None].astype(np.float64)
    worst_page(tmp_path, large, truth, people_errors(large, truth))
    reduced = cv2.imread(str(tmp_path / "worst/001.jpg")).astype(int)
    small = Subset(people.source, [0])
    truth = small.person(0).joints[None].astype(np.float64)
    worst_page(tmp_path, small, truth, people_errors(small, truth))
    # The same picture, but for the resampling.
    assert np.abs(reduced - cv2.imread(str(tmp_path / "worst/001.jpg")).astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((COUNT, 3, 2))}, r"predictions must have shape .*, got \(5, 3, 2\)"),
        ({"predictions": np.zeros((COUNT + 1, 16, 2))}, r"predictions must have shape \(5, .*, got \(6, 16, 2\)"),
        ({"errors": np.zeros(COUNT)}, r"errors must have shape .*, got \(5,\)"),
        ({"count": 0}, "count must be a positive integer, got 0"),
    ],
)
def test_bad_arguments_are_named(people, predictions, tmp_path, change, message):
    arguments = {"predictions": predictions, "errors": people_errors(people, predictions), "count": 3} | change
    with pytest.raises(ValueError, match=message):
        worst_page(tmp_path / "new", people, **arguments)
    assert not list(tmp_path.iterdir())
