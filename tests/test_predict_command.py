"""The predict command end to end, with a small network of random weights; and what all commands share."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast import cli
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.image_io import read_image, write_image
from pyranet_fast.errors import UserError
from pyranet_fast.inference.overlays import OverlayNames
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import resolve_device
from pyranet_fast.pose import LSP
from pyranet_fast.predict import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = PyraNet(stacks=1, joints=len(LSP), features=32, depth=2, levels=2)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, Checkpoint(model.config, model.state_dict(), "lsp", 64))
    return path


def picture(path: Path, height: int = 60, width: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return path


def overlay_names(images: list[str], output: Path) -> list[str]:
    names = OverlayNames(output)
    names.reserve(images)
    return [names.take(at) for at in range(len(images))]


def command(*arguments: object) -> int:
    return cli.run(main, [str(a) for a in arguments])


def test_pictures_and_json(checkpoint, tmp_path, capsys):
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b ü.jpg", 700, 500)
    out = tmp_path / "deep" / "out"
    assert command(first, second, "--checkpoint", checkpoint, "--output", out, "--device", "cpu") == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "a_pose.png",
        "b ü_pose.png",
        "predictions.json",
        "predictions.jsonl",
    ]
    assert read_image(out / "a_pose.png").shape == (341, 512, 3)
    overlay = read_image(out / "b ü_pose.png")
    assert overlay.shape == (700, 500, 3)
    assert not np.array_equal(overlay, read_image(second))
    content = json.loads((out / "predictions.json").read_text())
    assert content["errors"] == []
    assert [p["image"] for p in content["predictions"]] == [str(first), str(second)]
    entry = content["predictions"][1]
    assert (entry["width"], entry["height"], entry["overlay"]) == (500, 700, "b ü_pose.png")
    assert list(entry["joints"]) == list(LSP.joints)
    assert all(set(joint) == {"x", "y", "score"} for joint in entry["joints"].values())
    assert len(entry["box"]) == 4
    printed = capsys.readouterr()
    assert str(out / "a_pose.png") in printed.out and printed.err == ""


def test_box_flip_and_precision_reach_the_predictor(checkpoint, tmp_path, monkeypatch):
    forms = set()
    real = Predictor._predict_regions

    def seen(self, *arguments, **options):
        forms.add((type(self.model).__name__, torch.backends.cudnn.benchmark))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "_predict_regions", seen)
    image = picture(tmp_path / "a.png")
    results = []
    for options in (["--precision", "fp32"], ["--no-flip", "--precision", "fp32"], ["--precision", "bf16"]):
        box = ["--box=-5,3,40.5,50"]
        assert command(image, "--checkpoint", checkpoint, "--output", tmp_path / "o", *box, *options) == 0
        results.append(json.loads((tmp_path / "o" / "predictions.json").read_text()))
    assert all(r["predictions"][0]["box"] == [-5, 3, 40.5, 50] for r in results)
    assert [r["settings"]["flip"] for r in results] == [True, False, True]
    assert [r["settings"]["precision"] for r in results] == ["fp32", "fp32", "bf16"]
    assert results[0]["predictions"] != results[1]["predictions"]
    assert forms == {("InferencePyraNet", True)} and not torch.backends.cudnn.benchmark


def test_one_bad_image_among_many(checkpoint, tmp_path, capsys):
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "z.png")]
    bad = tmp_path / "half.jpg"
    data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    bad.write_bytes(data[: len(data) // 2])
    gone = tmp_path / "gone.png"
    out = tmp_path / "out"
    assert command(good[0], bad, gone, good[1], "--checkpoint", checkpoint, "--output", out) == 2
    content = json.loads((out / "predictions.json").read_text())
    assert [p["image"] for p in content["predictions"]] == [str(p) for p in good]
    assert [e["image"] for e in content["errors"]] == [str(bad), str(gone)]
    assert {p.name for p in out.iterdir()} == {
        "a_pose.png",
        "z_pose.png",
        "predictions.json",
        "predictions.jsonl",
    }
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "half.jpg" in lines[0] and "truncated" in lines[0]
    assert "gone.png" in lines[1] and "does not exist" in lines[1]


def test_box_outside_one_image_names_it(checkpoint, tmp_path, capsys):
    small, large = picture(tmp_path / "small.png", 20, 20), picture(tmp_path / "large.png", 90, 90)
    options = ["--checkpoint", checkpoint, "--output", tmp_path / "o", "--box", "50,50,20,20"]
    assert command(small, large, *options) == 2
    error = capsys.readouterr().err
    assert "small.png" in error and "outside the image of 20 x 20" in error
    assert (tmp_path / "o" / "large_pose.png").is_file()


def test_equal_names_do_not_overwrite_each_other(checkpoint, tmp_path):
    images = [picture(tmp_path / f / "im.png", 40 + 10 * i, 40) for i, f in enumerate("abc")]
    images.append(picture(tmp_path / "d" / "im-2.png", 80, 40))
    out = tmp_path / "out"
    assert command(*images, "--checkpoint", checkpoint, "--output", out) == 0
    entries = json.loads((out / "predictions.json").read_text())["predictions"]
    shapes = [read_image(out / e["overlay"]).shape[:2] for e in entries]
    assert shapes == [(512, round(40 * 512 / h) if h > 40 else 512) for h in (40, 50, 60, 80)]


def test_an_image_called_like_a_numbered_overlay(tmp_path):
    assert overlay_names(["x.jpg", "x.png", "x-2.jpg"], tmp_path) == ["x_pose.png", "x-3_pose.png", "x-2_pose.png"]
    assert overlay_names(["x-2.jpg", "x.png", "x.jpg"], tmp_path) == ["x-2_pose.png", "x_pose.png", "x-3_pose.png"]


@pytest.mark.parametrize(
    "images",
    [
        ["a/x.jpg", "b/x.jpg"],
        ["x.jpg", "x.png", "x.webp"],
        ["x.jpg", "X.jpg", "X.JPG"],
        ["caf\u00e9.jpg", "cafe\u0301.jpg", "CAFE\u0301.png"],
        ["stra\u00dfe.jpg", "STRASSE.jpg"],
        ["x.jpg", "x.jpg"],
        ["x.jpg", "x.png", "x-2.jpg", "x-2.png", "X-3.jpg"],
        ["x.tar.gz.png", "x.tar.gz.jpg"],
        ["ü" * 120 + "1.png", "ü" * 120 + "2.png"],
    ],
)
def test_no_two_overlays_have_one_name_on_any_file_system(tmp_path, images):
    names = overlay_names(images, tmp_path)
    alike = {unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()) for name in names}
    assert len(alike) == len(images)


def test_reruns_replace_their_own_overlays_and_no_others(checkpoint, tmp_path):
    first, second = picture(tmp_path / "a" / "x.png", 40), picture(tmp_path / "b" / "x.png", 50)
    out = tmp_path / "out"
    options = ["--checkpoint", checkpoint, "--output", out]

    def overlays() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.glob("*_pose.png")}

    def done(*images: Path) -> list[str]:
        assert command(*images, *options) == 0
        return [p["overlay"] for p in json.loads((out / "predictions.json").read_text())["predictions"]]

    assert done(first) == ["x_pose.png"]
    before = overlays()
    assert done(second) == ["x-2_pose.png"]  # another image of that name: the first one's overlay stays
    assert overlays()["x_pose.png"] == before["x_pose.png"]
    before = overlays()
    assert done(second, first) == ["x-2_pose.png", "x_pose.png"] and overlays() == before
    assert done(first) == ["x_pose.png"] and done(second) == ["x-2_pose.png"] and overlays() == before

    own = picture(out / "y_pose.png", 30)  # the user's own picture, and a folder
    (out / "z_pose.png").mkdir()
    kept = own.read_bytes()
    assert done(picture(tmp_path / "y.png"), picture(tmp_path / "z.png")) == ["y-2_pose.png", "z-2_pose.png"]
    assert own.read_bytes() == kept

    # The whole folder is moved: images are found again by where they are as seen from OUTPUT.
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in ("a", "b", "out"):
        (tmp_path / folder).rename(moved / folder)
    names = overlay_names([str(moved / "b" / "x.png"), str(moved / "a" / "x.png")], moved / "out")
    assert names == ["x-2_pose.png", "x_pose.png"]


def test_overlay_names_spare_the_inputs(tmp_path):
    names = overlay_names([str(tmp_path / "x.png"), str(tmp_path / "x_pose.png"), "other/X.jpg"], tmp_path)
    assert names == ["x-2_pose.png", "x_pose_pose.png", "X-3_pose.png"]
    long = overlay_names(["ü" * 120 + ".png"], tmp_path)[0]
    assert len(long.encode()) < 240 and long.endswith("_pose.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no weights are shipped"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--checkpoint", "CHECKPOINT", "--output", "FILE"], "a file is in the way"),
        (["--checkpoint", "CHECKPOINT", "--output", "FILE/below"], "a file is in the way"),
        (["--checkpoint", "FILE"], "not a checkpoint"),
        (["--checkpoint", "CHECKPOINT", "--device", "warp"], "device must be auto, cpu"),
    ],
)
def test_bad_flags_get_one_line_and_status_2(checkpoint, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.setattr("pyranet_fast.models.zoo.FOLDER", tmp_path)
    image = picture(tmp_path / "a.png")
    real = {"CHECKPOINT": str(checkpoint), "FILE": str(image)}
    for name, path in real.items():
        options = [o.replace(name, path) for o in options]
    assert command(image, *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("options", [["--box", "1,2,3"], ["--box", "a,b,c,d"], ["--precision", "fp8"]])
def test_bad_values_are_argparse_errors(checkpoint, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as caught:
        command(picture(tmp_path / "a.png"), "--checkpoint", checkpoint, *options)
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_as_a_process(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyranet_fast.predict",
            str(tmp_path / "x.png"),
            "--checkpoint",
            str(tmp_path / "no.pt"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    shipped = "shipped are people-160px, people-128px"
    assert run.stderr == f"error: checkpoint {tmp_path / 'no.pt'} does not exist; {shipped}\n"


def test_damaged_images_have_one_line_each_on_stderr(checkpoint, tmp_path):
    """Decoders write to stderr themselves; of what they say only our lines are left."""
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)

    def encoded(suffix: str, *options: int) -> bytes:
        return cv2.imencode(suffix, image, options)[1].tobytes()

    def changed(data: bytes, at: int, count: int = 12) -> bytes:
        return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + count]) + data[at + count :]

    whole, tiff = encoded(".png"), encoded(".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 1)
    files = {
        "pixels.png": changed(whole, len(whole) // 2),
        "half.png": whole[: len(whole) // 2],
        "header.png": changed(whole, 14, 4),
        "half.tif": tiff[: len(tiff) // 2],
        "floats.tif": cv2.imencode(".tiff", image.astype(np.float32))[1].tobytes(),
        "header.tif": changed(tiff, 4, 4),
        "half.jpg": encoded(".jpg")[:900],
        "header.jpg": changed(encoded(".jpg"), 2, 40),
        "half.webp": encoded(".webp")[:900],
        "header.webp": changed(encoded(".webp"), 12),
        "half.bmp": encoded(".bmp")[:900],
        "half.jp2": encoded(".jp2")[:900],
        "half.hdr": encoded(".hdr")[:900],
        "text.jpg": b"no picture",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "pyranet_fast.predict", *(str(tmp_path / name) for name in files)]
    command += ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = run.stderr.splitlines()
    assert run.returncode == 2 and len(lines) == len(files), run.stderr
    for line, name in zip(lines, files, strict=True):
        assert line.startswith(f"error: image {tmp_path / name} "), line


def failing(error: BaseException):
    def main() -> int:
        raise error

    return main


def test_run_turns_the_users_errors_into_one_line(capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "out/last.pt")
    wrapped = RuntimeError("unexpected pos")
    wrapped.__context__ = full
    expected = {
        UserError("first\n  second"): "first second",
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"): "a.txt: No such file or directory",
        PermissionError(errno.EACCES, "Permission denied", "b"): "b: Permission denied",
        full: "out/last.pt: No space left on device",
        wrapped: "out/last.pt: No space left on device",
        torch.OutOfMemoryError("CUDA out of memory"): "not enough GPU memory",
    }
    for error, words in expected.items():
        assert cli.run(failing(error)) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {words}") and printed.count("\n") == 1


def test_run_passes_on_everything_else(capsys, monkeypatch):
    assert cli.run(lambda: None) == 0
    assert cli.run(lambda a, b: a + b, 1, 2) == 3
    assert cli.run(failing(KeyboardInterrupt())) == 130
    for defect in (RuntimeError("x"), ValueError("y"), SystemExit(0)):
        with pytest.raises(type(defect)):
            cli.run(failing(defect))
    # A defect that happened while a missing file was handled is still a defect.
    during = KeyError("k")
    during.__context__ = FileNotFoundError(errno.ENOENT, "No such file", "a")
    with pytest.raises(KeyError):
        cli.run(failing(during))
    monkeypatch.setenv("PYRANET_FAST_TRACEBACK", "1")
    with pytest.raises(UserError):
        cli.run(failing(UserError("z")))


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device(None) == torch.device("cpu")
    with pytest.raises(UserError, match="'cuda:0' was asked for"):
        resolve_device("cuda:0")
    for name in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(UserError, match="device must be auto, cpu, cuda or cuda:N, got "):
            resolve_device(name)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="the last GPU of this machine is cuda:1"):
        resolve_device("cuda:2")


def results(out: Path) -> list[str]:
    return [Path(p["image"]).name for p in json.loads((out / "predictions.json").read_text())["predictions"]]


def test_folders_and_resume(checkpoint, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a.png", "b.png", "deep/a.png"):
        picture(folder / name)
    options = ["--checkpoint", checkpoint, "--output", out]
    assert command(folder, "--recursive", *options) == 0
    assert results(out) == ["a.png", "b.png", "a.png"]
    assert {p.name for p in out.glob("*.png")} == {"a_pose.png", "b_pose.png", "a-2_pose.png"}
    picture(folder / "c.png")
    before = (out / "a_pose.png").stat().st_mtime_ns
    capsys.readouterr()
    assert command(folder, "--recursive", "--resume", *options) == 0
    printed = capsys.readouterr()
    assert [line.split(" -> ")[0] for line in printed.out.splitlines()[:-1]] == [str(folder / "c.png")]
    assert "3 pictures are done already" in printed.err
    assert results(out) == ["a.png", "b.png", "c.png", "a.png"]  # its overlays are no pictures of the folder
    assert (out / "a_pose.png").stat().st_mtime_ns == before
    assert command(folder, "--recursive", "--resume", "--no-flip", *options) == 2
    assert "other settings" in capsys.readouterr().err


def test_everything_that_can_be_written(checkpoint, tmp_path, capsys):
    images = [picture(tmp_path / "000017.png"), picture(tmp_path / "b.png")]
    out = tmp_path / "out"
    flags = ["--heatmaps", "--crops", "--sheet", "--write", "coco,csv", "--joints", "left wrist, neck"]
    assert command(*images, "--checkpoint", checkpoint, "--output", out, *flags) == 0
    made = {p.name for p in out.iterdir()}
    assert made >= {f"b_{kind}.png" for kind in ("pose", "heatmaps", "crop")} | {"sheet.jpg", "predictions.csv"}
    content = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [sorted(p["joints"]) for p in content] == [["left wrist", "neck"]] * 2
    coco = json.loads((out / "coco_results.json").read_text())
    assert [person["image_id"] for person in coco] == [17, str(images[1])]
    keypoints = np.reshape(coco[1]["keypoints"], (len(LSP), 3))
    named = {LSP.joints[i] for i in np.flatnonzero(keypoints[:, 2])}
    assert named == {"left wrist", "neck"}
    wrist = content[1]["joints"]["left wrist"]
    assert keypoints[LSP.joints.index("left wrist")].tolist() == pytest.approx([wrist["x"], wrist["y"], 1])
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[0] == "image,person,joint,x,y,score" and len(rows) == 5
    assert rows[3] == f"{images[1]},1,left wrist,{wrist['x']},{wrist['y']},{wrist['score']}"
    assert read_image(out / "b_crop.png").shape == (256, 256, 3)
    plain = tmp_path / "plain"
    assert command(*images, "--checkpoint", checkpoint, "--output", plain, "--no-overlay") == 0
    assert {p.name for p in plain.iterdir()} == {"predictions.json", "predictions.jsonl"}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--write", "xml"], "--write must be coco, csv or both"),
        (["--joints", "left wing"], "--joints has 'left wing'; expected names among right ankle"),
        (["--sheet", "--no-overlay"], "--sheet needs the overlays"),
        (["--show"], "--show needs a display"),
    ],
)
def test_outputs_that_cannot_be(checkpoint, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    image = picture(tmp_path / "a.png")
    assert command(image, "--checkpoint", checkpoint, "--output", tmp_path / "o", *options) == 2
    assert words in capsys.readouterr().err


# The second process dies as if it were killed when it has done as many pictures as DIE says.
DYING = """
import os, runpy, signal, sys
from pyranet_fast.inference.journal import Journal
write, count = Journal.write, 0
def counted(self, *arguments):
    global count
    if int(os.environ["RANK"]) == 1 and count == int(os.environ.get("DIE", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    write(self, *arguments)
Journal.write = counted
sys.argv = sys.argv[1:]
runpy.run_module("pyranet_fast.predict", run_name="__main__", alter_sys=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_two_processes_of_which_one_is_killed(checkpoint, tmp_path):
    folder, out, script = tmp_path / "in", tmp_path / "out", tmp_path / "dying.py"
    for number in range(9):
        picture(folder / f"{number}.png", 40 + number)
    script.write_text(DYING)
    (folder / "broken.png").write_bytes(b"no picture")
    arguments = [folder, "--checkpoint", checkpoint, "--output", out, "--device", "cpu", "--no-search", "--no-flip"]
    arguments += ["--resume", "--batch-size", 2, "--precision", "fp32"]
    command = [str(script), "predict", *map(str, arguments)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        launch + command, capture_output=True, text=True, timeout=240, env=environment | {"DIE": "2"}
    )
    assert killed.returncode != 0 and not (out / "predictions.json").exists()
    lines = [json.loads(x) for path in out.glob("predictions*.jsonl") for x in path.read_text().splitlines()]
    first = {line["image"] for line in lines if "error" not in line}
    assert 2 <= len(first) < 9
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    again = [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment | {"RANK": str(rank)}
        )
        for rank in range(2)
    ]
    said = "".join(process.communicate(timeout=240)[0] for process in again)
    assert [process.returncode for process in again] == [2, 0]  # the broken picture, told by the first
    assert results(out) == [f"{number}.png" for number in range(9)]
    printed = {line.split(" -> ")[0] for line in said.splitlines() if " -> " in line}
    assert not printed & first and len(printed) == 9 - len(first)
    content = json.loads((out / "predictions.json").read_text())
    assert [Path(e["image"]).name for e in content["errors"]] == ["broken.png"]
    assert sorted(p.name for p in out.glob("*.jsonl")) == ["predictions.jsonl"]
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 10


def test_boxes_and_people(checkpoint, tmp_path, capsys):
    images = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    (tmp_path / "boxes.csv").write_text("a.png,5,5,20,30\na.png,30,5,20,30,0.9\na.png,1,1,9,9,0.01\n")
    out = tmp_path / "out"
    options = ["--checkpoint", checkpoint, "--output", out, "--precision", "fp32"]
    assert command(*images, *options, "--boxes", tmp_path / "boxes.csv", "--crops") == 0
    entries = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [(Path(e["image"]).name, e["box"]) for e in entries] == [
        ("a.png", [5, 5, 20, 30]),
        ("a.png", [30, 5, 20, 30]),
    ]
    assert {p.name for p in out.glob("a-*_crop.png")} == {"a-1_crop.png", "a-2_crop.png"}
    assert "b.png -> " in capsys.readouterr().out and (out / "b_pose.png").exists()
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [len(line["people"]) for line in lines] == [2, 0]
    assert command(*images, *options, "--people", "all") == 0
    assert json.loads((out / "predictions.json").read_text())["predictions"] == []  # random weights are sure of nobody
    for flags, words in (
        (["--people", "all", "--box", "1,1,5,5"], "--people searches for people"),
        (["--boxes", "x.csv", "--box", "1,1,5,5"], "expected --box or --boxes, got both"),
        (["--boxes", tmp_path / "none.json"], "does not exist"),
    ):
        assert command(*images, *options, *flags) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(*images, *options, "--people", "some")


def test_a_camera_ends_by_ctrl_c(checkpoint, tmp_path, monkeypatch):
    class Camera:
        def __init__(self, number):
            self.taken = 0

        def isOpened(self):
            return True

        def read(self):
            self.taken += 1
            if self.taken > 2:
                raise KeyboardInterrupt
            return True, np.zeros((40, 30, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    out = tmp_path / "out"
    assert command("camera:0", "--checkpoint", checkpoint, "--output", out, "--no-search", "--precision", "fp32") == 0
    assert {name.split("#")[0] for name in results(out)} <= {"camera:0"} and (out / "predictions.json").exists()


def _video(path, frames=4):
    from pyranet_fast.inference.video import VideoWriter

    with VideoWriter(path) as writer:
        for number in range(frames):
            writer.write(np.full((48, 64, 3), 40 * number, np.uint8), number / 10)
    return path


def test_track_writes_a_video_and_rows(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr("pyranet_fast.inference.tracking.is_trusted", lambda pose: True)
    monkeypatch.setattr("pyranet_fast.inference.tracking.CUT_DIFFERENCE", 300.0)
    source, out = _video(tmp_path / "walk.mp4"), tmp_path / "out"
    command = [str(source), "--track", "--write", "csv,jsonl", "--checkpoint", str(checkpoint), "--output", str(out)]
    assert main([*command, "--device", "cpu", "--no-search"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["walk_pose.csv", "walk_pose.jsonl", "walk_pose.mp4"]
    rows = [json.loads(line) for line in (out / "walk_pose.jsonl").read_text().splitlines()]
    assert rows[0]["frame"] == 0 and rows[0]["id"] == 1
    assert len((out / "walk_pose.csv").read_text().splitlines()) == 1 + len(rows)
    told = capsys.readouterr().out
    assert "4 frames, " in told and " of real time, " in told


def test_a_video_is_tracked_unless_images_are_asked_for(checkpoint, tmp_path, caplog, monkeypatch):
    pytest.importorskip("av")
    source = _video(tmp_path / "walk.mp4", frames=2)
    for name, options, made in (
        ("alone", [], {"walk_pose.mp4"}),
        ("images", ["--no-track"], {"walk-000000_pose.png", "walk-000001_pose.png", "predictions.json"}),
        ("crops", ["--crops"], {"walk-000000_pose.png", "walk-000000_crop.png"}),
        ("coco", ["--write", "coco"], {"walk-000000_pose.png", "coco_results.json"}),
    ):
        command = [str(source), *options, "--checkpoint", str(checkpoint), "--output", str(tmp_path / name)]
        assert main([*command, "--device", "cpu", "--no-search"]) == 0
        there = {path.name for path in (tmp_path / name).iterdir()}
        assert made <= there and (len(there) == 1) == (name == "alone"), (name, there)
    several = [
        str(tmp_path / "*.mp4"),
        "--no-overlay",
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(tmp_path / "glob"),
    ]
    assert main([*several, "--device", "cpu", "--no-search"]) == 0  # a glob of videos is no video
    assert len(results(tmp_path / "glob")) == 2
    gone = [str(tmp_path / "gone.mp4"), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "gone")]
    assert main([*gone, "--device", "cpu"]) == cli.BAD_INPUT and (tmp_path / "gone" / "predictions.json").exists()
    monkeypatch.setattr("pyranet_fast.predict.importlib.util.find_spec", lambda name: None)
    command = [str(source), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "poor"), "--device", "cpu"]
    assert main([*command, "--no-search"]) == 0
    assert "PyAV is not installed" in caplog.text and (tmp_path / "poor" / "predictions.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["photo.jpg", "--track"], "--track needs one video file of this machine or camera:N, got photo.jpg"),
        (["s3://b/a.mp4", "--track"], "--track needs one video file of this machine or camera:N, got s3://b/a.mp4"),
        (["a.mp4", "--track", "--resume"], "--resume does not work with --track"),
        (["a.mp4", "--track", "--write", "coco"], "--write must be csv, jsonl or both"),
        (["a.mp4", "--audio", "--no-track"], "--audio needs --track"),
        (["missing.mp4", "--track"], "video missing.mp4 does not exist"),
    ],
)
def test_track_refuses(checkpoint, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        main([*options, "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--device", "cpu"])


def test_ctrl_c_while_tracking_leaves_files_of_what_was_done(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("av")
    from pyranet_fast.inference.tracking import Tracker
    from pyranet_fast.inference.video import read_frames

    calls = []

    def interrupted(self, frame):
        calls.append(frame.number)
        if frame.number == 2:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(Tracker, "__call__", interrupted)
    source, out = _video(tmp_path / "walk.mp4"), tmp_path / "out"
    command = [str(source), "--track", "--checkpoint", str(checkpoint), "--output", str(out), "--device", "cpu"]
    assert main([*command, "--write", "csv"]) == cli.INTERRUPTED  # a script must not take it for the entire video
    assert capsys.readouterr().out.startswith("stopped; 2 frames, ")
    assert len(list(read_frames(out / "walk_pose.mp4"))) == 2
    assert len((out / "walk_pose.csv").read_text().splitlines()) == 1
