"""report.html: what a training tells on one page, with a browser's eyes where there is one."""

from __future__ import annotations

import html.parser
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pyranet_fast.evaluation.curves import pck_curve
from pyranet_fast.evaluation.report import Row, published_beside
from pyranet_fast.metrics import PCK
from pyranet_fast.training.config import PoseConfig
from pyranet_fast.training.report import Example, Findings, Report, kept_warnings
from tests.browser import browser  # noqa: F401 (a fixture)

ROWS = [
    {
        "epoch": epoch, "step": 10 * epoch, "lr": 1e-3, "loss": 2.0 / epoch, "accuracy": 0.1 * epoch,
        "validation": 20.0 * epoch if epoch != 2 else None, "images_per_second": 50.0, "data_wait": 0.5,
        "seconds": 60.0,
    }
    for epoch in (1, 2, 3)
]  # fmt: skip
RESULTS = {"metric": "PCK@0.2", "mean": 60.0}


class Page(html.parser.HTMLParser):
    """Addresses, texts by element, and whether elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def findings(count: int = 6, side: int = 320) -> Findings:
    rng = np.random.default_rng(0)
    errors = rng.exponential(0.2, (20, 14))
    return Findings(
        rows=[Row("here", "PCK@0.2", "LSP 1001-1500", 60.0), *published_beside(PCK)],
        columns=tuple(PCK.columns),
        examples=[
            Example(group, rng.integers(0, 256, (side, side, 3), dtype=np.uint8), f"<{group}> {i}")
            for group in ("worst", "best", "typical")
            for i in range(count)
        ],
        curve=pck_curve(errors, metric=PCK),
        convention="single scale",
    )


def report(folder: Path, **facts: str) -> Report:
    config = PoseConfig(output=str(folder), lr=0.25, dataset="<data>&")
    return Report(folder, config, torch.device("cpu"), facts)


def charts(text: str) -> dict[str, dict]:
    found = re.search(r'id="data">(.*?)</script>', text)
    return {chart["title"]: chart for chart in json.loads(found[1])["charts"]}


def test_the_page_is_one_file_below_three_megabytes_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    """With pictures of noise, the largest that JPEG makes, and the log of a run of many epochs."""
    page = report(tmp_path, network="a <network>")
    page.show(findings())
    rows = [{**ROWS[0], "epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 5001)]
    path = page.write(rows, RESULTS, "Finished.")
    text = path.read_text()
    assert path.stat().st_size < 3_000_000 and [file.name for file in tmp_path.iterdir()] == ["report.html"]
    seen = Page(text)
    assert len(seen.links) == 18 and all(link.startswith("data:image/jpeg;base64,") for link in seen.links)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert "default-src 'none'" in text
    for part in ("a <network>", "<data>&", "<worst> 0", "Finished.", "PRM, 8 stacks", "93.9", "--batch-size"):
        assert part in seen.text, part
    assert seen.text.index("<best> 0") < seen.text.index("<typical> 0") < seen.text.index("<worst> 0")
    assert "<strong>0.25</strong>" in text and "<strong>16</strong>" not in text  # --lr was given, --batch-size was not
    points = charts(text)["Loss"]["series"][0]["points"]
    assert len(points) <= 500 and points[-1] == [5000, 0.0002]


def test_curves_hold_the_log(tmp_path: Path) -> None:
    page = report(tmp_path)
    page.show(findings())
    drawn = charts(page.write([{k: str(v or "") for k, v in row.items()} for row in ROWS], RESULTS, "").read_text())
    training, validation = drawn["Accuracy"]["series"]
    assert training["points"] == [[1, 10], [2, 20], [3, 30]]
    assert validation == {"name": "validation, PCK@0.2", "points": [[1, 20], [3, 60]]}
    assert drawn["Loss"]["log"] and drawn["Loss"]["series"][0]["points"][1] == [2, 1]
    curve = drawn["PCK over the threshold"]["series"][0]
    assert curve["points"][0] == [0, 0] and curve["points"][-1][0] == 0.2
    assert all(math.isfinite(y) for chart in drawn.values() for line in chart["series"] for _, y in line["points"])


def test_a_training_that_ended_before_a_validation_has_a_page(tmp_path: Path) -> None:
    text = report(tmp_path).write([], {}, "Stopped at step 3 of 10.").read_text()
    assert "Stopped at step 3 of 10." in text and "No validation results yet" in text
    assert "No images yet" in text and charts(text) == {}
    Page(text)


def test_a_resumed_training_keeps_its_last_validation_until_the_next(tmp_path: Path) -> None:
    first = report(tmp_path)
    first.show(findings(2, 16))
    before = first.write(ROWS, RESULTS, "Epoch 3.").read_text()
    assert report(tmp_path).write(ROWS, RESULTS, "Epoch 3.").read_text() == before
    again = report(tmp_path).write([*ROWS, {**ROWS[1], "epoch": 4}], RESULTS, "Stopped.").read_text()
    assert len(Page(before).links) == 6 and Page(again).links == Page(before).links
    assert charts(again)["PCK over the threshold"] == charts(before)["PCK over the threshold"]
    assert "LSP 1001-1500" in Page(again).text and "No validation results yet" not in again
    started_over = report(tmp_path).write(ROWS[:1], {}, "Stopped.").read_text()
    assert Page(started_over).links == [] and "No validation results yet" in started_over
    (tmp_path / "report.html").write_text(again.replace('{"charts"', '{"charts" damaged'))
    assert "No images yet" in report(tmp_path).write(ROWS, RESULTS, "Stopped.").read_text()
    other = report(tmp_path)
    other.show(findings(1, 16))
    assert len(Page(other.write(ROWS, RESULTS, "").read_text()).links) == 3


def test_warnings_come_from_the_log_and_from_the_figures(tmp_path: Path) -> None:
    logger = logging.getLogger("pyranet_fast")
    with kept_warnings() as kept:
        logger.warning("note: <3> people left out")
        logger.warning("note: <3> people left out")
        logger.info("epoch 1")
    logger.warning("later")
    page = report(tmp_path)
    page.warnings = kept
    rows = [*ROWS, {**ROWS[2], "epoch": 4, "loss": 3.0, "validation": 11.0}]
    seen = Page(page.write(rows, RESULTS, "").read_text()).text
    assert kept.lines == ["note: <3> people left out"] and "note: <3> people left out" in seen and "later" not in seen
    assert "waits for data 50% of its time" in seen
    assert "the last validation, 11.00, is below that of epoch 3, 60.00" in seen
    assert "the training loss has not fallen" in seen


@pytest.mark.parametrize("width", [390, 1300])
def test_a_browser_draws_the_curves(browser, tmp_path: Path, width: int) -> None:  # noqa: F811
    page = report(tmp_path)
    page.show(findings(2, 64))
    browser.set_window_size(width, 900)
    browser.get(page.write(ROWS, RESULTS, "Finished.").as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    found = browser.find_elements("css selector", ".chart")
    assert [chart.find_element("css selector", "h3").text for chart in found][:2] == ["Loss", "Accuracy / %"]
    paths = found[1].find_elements("css selector", "path")
    assert len(paths) == 2 and all(path.size["width"] > 150 for path in paths)
    # Arrow keys read values; a button hides a series.
    svg = found[1].find_element("css selector", "svg")
    svg.send_keys("\ue012")  # left
    assert found[1].find_element("css selector", "output").text.startswith("epoch 3: training accuracy 30 %, valid")
    found[1].find_element("css selector", "button").click()
    assert len(found[1].find_elements("css selector", "path")) == 1
    # Nothing is wider than the window.
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
