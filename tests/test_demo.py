"""The page of `python -m pyranet_fast.demo`: the work behind it, what it serves, and a browser's way through it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pyranet_fast import cli, demo, ops
from pyranet_fast.data import open_dataset
from pyranet_fast.data.image_io import read_image, write_image
from pyranet_fast.demo import BOX, EVERYBODY, ONE, Limits, Studio
from pyranet_fast.errors import UserError
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.inference.video import read_frames
from tests.browser import browser  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(search=False, flip=False)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic person."""
    path = tmp_path_factory.mktemp("photo") / "person.png"
    write_image(path, open_dataset("demo", None, "test", count=1).image(0))
    return path


@pytest.fixture(scope="module")
def clip(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of that person, who moves to the right."""
    image = cv2.cvtColor(read_image(photo), cv2.COLOR_RGB2BGR)
    path = tmp_path_factory.mktemp("clip") / "person.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, image.shape[1::-1])
    for frame in range(8):
        writer.write(np.roll(image, 2 * frame, axis=1))
    writer.release()
    return path


def test_a_photo_gives_overlay_heat_maps_joints_and_files(
    predictor: Predictor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = [name for name in ops.available_backends() if name != "triton"]  # its interpreter takes minutes
    monkeypatch.setattr(ops, "available_backends", lambda: backends)
    found = Studio(predictor, tmp_path).photo(str(photo), compare=True)
    image = read_image(photo)
    assert found.overlay.shape == image.shape and (found.overlay != image).any()
    assert found.heatmaps.ndim == 3 and found.heatmaps.std() > 5
    expected = predictor(image)
    assert [row[1] for row in found.rows] == list(predictor.skeleton.joints)
    assert [row[2] for row in found.rows] == pytest.approx(expected.joints[:, 0].tolist(), abs=0.06)
    assert [row[5] for row in found.rows] == [round(100 * chance) for chance in expected.chances]
    assert f"**{expected.chances.mean():.0%}** of the joints are expected to be right" in found.summary
    assert all(f"| {name} |" in found.summary for name in backends)
    drawn, content = found.files
    assert all(Path(file).is_relative_to(tmp_path) for file in found.files)
    assert json.loads(Path(content).read_text())["people"] == [expected.as_dict()]
    assert (read_image(drawn) == found.overlay).all()


def test_a_drawn_box_is_the_predictors(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    text = demo.box_of_corners((60.0, 150.0), (10.0, 20.0))
    assert text == "10, 20, 50, 130"
    found = Studio(predictor, tmp_path).photo(str(photo), BOX, text)
    assert json.loads(Path(found.files[1]).read_text())["people"][0]["box"] == [10, 20, 50, 130]
    assert found.rows != Studio(predictor, tmp_path).photo(str(photo), ONE, text).rows


@pytest.mark.parametrize("box", ["", "1, 2, 3", "a, b, c, d"])
def test_bad_boxes_are_named(predictor: Predictor, photo: Path, tmp_path: Path, box: str) -> None:
    with pytest.raises(UserError, match=f"the box must be four numbers x, y, width, height, .*, got '{box}'"):
        Studio(predictor, tmp_path).photo(str(photo), BOX, box)


def test_bad_files_are_named(predictor: Predictor, tmp_path: Path) -> None:
    studio = Studio(predictor, tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for call, sentence in (
        (lambda: studio.photo(None), "there is no photo"),
        (lambda: studio.photo(str(bad)), "bad.png"),
        (lambda: studio.video(None), "there is no video"),
        (lambda: studio.video(str(bad)), "bad.png"),
    ):
        with pytest.raises(UserError, match=sentence):
            call()


def test_everybody_is_found(predictor: Predictor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poses = [predictor(read_image(photo)), predictor(read_image(photo)[:, ::-1].copy())]
    monkeypatch.setattr(predictor, "everyone", lambda image: poses)
    found = Studio(predictor, tmp_path).photo(str(photo), EVERYBODY)
    assert {row[0] for row in found.rows} == {1, 2} and "**2 people**" in found.summary


def test_a_video_is_played_and_written_frame_by_frame(predictor: Predictor, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    overlay, files, told = Studio(predictor, tmp_path).video(str(clip))
    lines = [json.loads(line) for line in Path(files[1]).read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8)) and lines[7]["seconds"] == 0.7
    assert told.startswith("**8 frames**") and "the video has 10.0." in told and "cut" not in told
    frames = list(read_frames(overlay))
    assert [frame.seconds for frame in frames] == pytest.approx([0.1 * number for number in range(8)], abs=1e-3)
    assert {person["id"] for line in lines for person in line["people"]} == {1}
    # Bounded by the length of the video and by time; one frame is always done.
    for limits, done in ((Limits(video_seconds=0.3), "**3 frames**"), (Limits(seconds=0.0), "**1 frame**")):
        *_, told = Studio(predictor, tmp_path, limits).video(str(clip))
        assert told.startswith(done) and "It was cut after" in told


def test_the_camera_drops_frames_while_one_is_worked_on(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    studio, image = Studio(predictor, tmp_path), read_image(photo)
    assert (studio.camera(image) != image).any()
    with studio._one_at_a_time:
        assert studio.camera(image) is None
    assert studio.camera(None) is None


def test_what_is_wrong_with_the_command_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(demo.main, ["--port", "70000"]) == 2
    assert "--port must be 0 to 65535, got 70000" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run(demo.main, []) == 2
    assert "needs Gradio, which is not installed: pip install pyranet-fast[demo]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running page, and the folder of its results."""
    pytest.importorskip("gradio", reason="Gradio is not installed (pip install pyranet-fast[demo])")
    temporary = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "pyranet_fast.demo", "--port", "0", "--megabytes", "1", "--precision", "fp32"]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=temporary
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            break
    else:
        pytest.fail(said)
    (folder,) = temporary.glob("pyranet-fast-demo-*")
    try:
        yield match[0], folder
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert not folder.exists()


def request(address: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, content: bytes, name: str = "x.png") -> tuple[int, bytes]:
    body = (
        f'--B\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    ).encode()
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    return request(f"{address}/gradio_api/upload", body + content + b"\r\n--B--\r\n", **headers)


def test_nothing_outside_the_folder_is_served(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    secret = tmp_path / "secret.txt"
    secret.write_text("do not tell")
    beside = folder.parent / "secret.txt"
    beside.write_text("do not tell")
    names = ["/etc/passwd", str(secret), str(beside), f"{folder}/../secret.txt", f"{folder}/%2e%2e/secret.txt"]
    for name in [*names, "secret.txt", "../secret.txt"]:
        status, content = request(f"{address}/gradio_api/file={name}")
        assert status in (403, 404) and b"do not tell" not in content and b"root:" not in content, name
    # What was uploaded is served; it lies in the folder, whatever its name was.
    status, content = upload(address, b"\x89PNG\r\n\x1a\n", "../../up.png")
    assert status == 200
    (path,) = json.loads(content)
    assert Path(path).resolve().is_relative_to(folder.resolve())
    assert request(f"{address}/gradio_api/file={path}")[0] == 200


def test_uploads_have_a_limit(served: tuple[str, Path]) -> None:
    assert upload(served[0], b"x" * 2**19)[0] == 200
    assert upload(served[0], b"x" * (2**20 + 2**18))[0] == 413


def wait(driver: Any, seconds: float, found: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds).until(lambda _: found())


def test_a_browser_uploads_a_photo_and_sees_a_skeleton(served: tuple[str, Path], browser, photo: Path) -> None:  # noqa: F811
    address, _ = served
    browser.set_window_size(1300, 1400)
    browser.get(address)

    def one(selector: str) -> Any:
        return next(iter(browser.find_elements("css selector", selector)), None)

    wait(browser, 60, lambda: one("#photo input[type=file]")).send_keys(str(photo))
    shown = wait(browser, 60, lambda: one("#photo img"))
    wait(browser, 60, lambda: shown.size["width"] > 50)
    one("#run").click()
    overlay = wait(browser, 120, lambda: one("#overlay img"))
    assert "of the joints are expected to be right" in wait(browser, 30, lambda: one("#summary").text)
    status, content = request(overlay.get_attribute("src"))
    drawn = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = read_image(photo)
    assert status == 200 and drawn.shape == image.shape
    changed = (drawn != image).any(axis=2)
    assert 0.005 < changed.mean() < 0.5
    # Two clicks are a box.
    from selenium.webdriver.common.action_chains import ActionChains

    for x, y in ((-0.2, -0.3), (0.2, 0.3)):
        place = ActionChains(browser).move_to_element_with_offset(
            shown, int(x * shown.size["width"]), int(y * shown.size["height"])
        )
        place.click().perform()
        wait(browser, 30, lambda: not one("#photo .generating"))
    text = wait(browser, 30, lambda: one("#box textarea, #box input").get_attribute("value"))
    box = demo.parse_box(text)
    assert min(box) > 0 and box[0] + box[2] < image.shape[1] and box[1] + box[3] < image.shape[0]
