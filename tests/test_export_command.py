"""The export command end to end, with a small network: its files, what it prints and refuses, and predictions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pyranet_fast import Predictor, UserError, cli
from pyranet_fast import predict as predict_command
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data import open_dataset
from pyranet_fast.data.image_io import write_image
from pyranet_fast.export import main
from pyranet_fast.exporting import check
from pyranet_fast.inference.exported import ExportedNetwork
from pyranet_fast.keypoints import MPII
from pyranet_fast.models.zoo import load_checkpoint
from tests.models.test_optimize_for_inference import trained

ORDINARY = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = trained(stacks=1, joints=len(MPII), features=16, depth=1, levels=2, base_width=3)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, Checkpoint(model.config, dict(model.state_dict()), "mpii", 32))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (60 + 20 * i, 90, 3), dtype=np.uint8)
        write_image(folder / f"photo{i}.png", pixels)
    return folder


def command(*arguments: object) -> int:
    return cli.run(main, [str(a) for a in arguments])


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


def test_what_a_user_types(checkpoint, photos, tmp_path, capsys):
    """Every flag's default; then predictions from the file, which are the checkpoint's."""
    needs(*ORDINARY)
    path = tmp_path / "deep" / "network.onnx"
    assert command(checkpoint, path) == 0
    shown = capsys.readouterr().out
    assert f"wrote {path}: " in shown and "image (N, 3, 32, 32) float32, normalized -> heatmaps" in shown
    assert "(200 of 512), flip" in shown and "| PCKh@0.5 |" in shown and shown.endswith("check passed\n")
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")]
    assert rows[:5] == ["form", "-" * len(rows[1]), "pyranet_fast", "PyTorch", "onnxruntime float32"]
    assert [p.name for p in path.parent.iterdir()] == ["network.onnx"]
    assert ExportedNetwork(path).description.precision == "float32"

    results = []
    for source in (checkpoint, path):
        output = tmp_path / Path(source).stem
        images = sorted(photos.iterdir())
        arguments = [*map(str, images), "--checkpoint", str(source), "--output", str(output), "--precision", "fp32"]
        assert cli.run(predict_command.main, arguments) == 0
        results.append(json.loads((output / "predictions.json").read_text()))
    ours, exported = results
    assert exported["settings"] == {**ours["settings"], "precision": "float32"}
    for one, other in zip(ours["predictions"], exported["predictions"], strict=True):
        assert (one["skeleton"], one["box"], one["rotation"]) == (other["skeleton"], other["box"], other["rotation"])
        for name, joint in one["joints"].items():
            assert other["joints"][name] == pytest.approx(joint, abs=0.011)


def test_decode_without_the_mirrored_pass_in_another_size(checkpoint, photos, tmp_path, capsys):
    needs(*ORDINARY)
    path = tmp_path / "network.onnx"
    assert command(checkpoint, path, "--decode", "--no-flip", "--input-size", 64, "--images", photos) == 0
    shown = capsys.readouterr().out
    assert "image (N, 64, 64, 3) uint8 RGB -> joints, scores, heatmaps\n" in shown
    assert f"3 images of {photos}, no flip" in shown
    predictor = Predictor(path)
    assert predictor.input_size == 64 and predictor.flip
    pose = predictor(photos / "photo0.png")
    exact = Predictor(checkpoint)
    exact.input_size = 64
    np.testing.assert_allclose(pose.joints, exact(photos / "photo0.png").joints, atol=0.01)


def test_predictions_of_a_file_with_the_mirrored_pass(checkpoint, photos, tmp_path):
    needs(*ORDINARY)
    path = tmp_path / "network.onnx"
    assert command(checkpoint, path, "--decode", "--no-check") == 0
    for photo in sorted(photos.iterdir()):
        box = (5, 5, 50, 50)
        np.testing.assert_allclose(
            Predictor(path)(photo, box).joints, Predictor(checkpoint)(photo, box).joints, atol=0.01
        )
    with pytest.raises(
        UserError, match=r"flip must be True for .*, which includes the mirrored pass; export it with --no-flip"
    ):
        Predictor(path, flip=False)
    with pytest.raises(UserError, match=r"device must be cpu for an exported file such as .*, got 'cuda'"):
        Predictor(path, "cuda")
    with pytest.raises(UserError, match=r"precision must be fp32 or auto for .*, which has its own, got 'bf16'"):
        Predictor(path, precision="bf16")
    with pytest.raises(UserError, match="is an exported file, which predict and Predictor run; a checkpoint is needed"):
        load_checkpoint(path)


def test_int8_is_written_beside_a_verdict(checkpoint, photos, tmp_path, capsys, monkeypatch):
    needs(*ORDINARY)
    monkeypatch.setattr(check, "LOST", 100.0)  # a network of noise loses what it never had
    path = tmp_path / "network.onnx"
    assert command(checkpoint, path, "--int8", "--images", photos, "--calibration-crops", 2, "--people", 2) == 0
    shown = capsys.readouterr()
    assert "int8: ranges from 2 images" in shown.err and "onnxruntime int8" in shown.out
    assert "int8 in onnxruntime" in shown.out and "of its size; without people of these joints" in shown.out
    assert ExportedNetwork(path).description.precision == "int8"
    assert Predictor(path).precision == "int8"


def test_pt2_on_people_of_a_dataset(checkpoint, data_root, tmp_path, capsys):
    path = tmp_path / "network.pt2"
    if not (data_root / "lsp_dataset").is_dir():
        pytest.skip("no LSP")
    assert command(checkpoint, path, "--root", data_root, "--people", 3) == 0
    shown = capsys.readouterr().out
    assert "lsp 1001-" in shown and "(3 of " in shown and "torch export" in shown
    assert "| PCK " in shown  # these are other joints: differences and times alone
    np.testing.assert_allclose(
        Predictor(path)(np.full((50, 40, 3), 99, np.uint8)).joints,
        Predictor(checkpoint)(np.full((50, 40, 3), 99, np.uint8)).joints,
        atol=0.01,
    )


def test_openvino_files_lie_side_by_side(checkpoint, photos, tmp_path, capsys):
    needs(*ORDINARY, "openvino")
    path = tmp_path / "network.xml"
    assert command(checkpoint, path, "--images", photos) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    assert "OpenVINO float32" in capsys.readouterr().out
    path.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"its \.bin file is not beside it"):
        ExportedNetwork(path)


def test_a_file_that_is_not_right_is_status_1(checkpoint, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "MAPS", -1.0)
    path = tmp_path / "network.pt2"
    assert command(checkpoint, path, "--images", photos) == 1
    assert "error: torch export: score maps may differ by at most " in capsys.readouterr().err and path.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.tflite"], "FILE must end in one of .onnx, .pt2, .xml, got 'a.tflite'"),
        (["a.onnx", "--aot"], "--aot goes with FILE.pt2; FILE is 'a.onnx'"),
        (["a.pt2", "--int8"], "--int8 goes with FILE.onnx and FILE.xml; FILE is 'a.pt2'"),
        (["a.pt2", "--input-size", "30"], "--input-size must be a multiple of 8, got 30"),
        (["a.pt2", "--people", "-1"], "--people must be an integer of at least 0 (0 for all), got -1"),
        (["a.onnx", "--calibration-crops", "0"], "--calibration-crops must be a positive integer, got 0"),
        (["a.pt2", "--images", "x", "--root", "y"], "--images does not go with --dataset and --root"),
        (["a.pt2", "--images", "nowhere"], "nowhere must hold images (.jpg"),
    ],
)
def test_bad_flags_are_sentences(arguments, sentence, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = command(checkpoint, *arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2 and sentence in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_a_sentence_and_no_file(checkpoint, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert command(checkpoint, tmp_path / "network.onnx", "--images", photos) == 2
    error = capsys.readouterr().err
    assert (
        "writing ONNX needs the packages onnx and onnxscript" in error and "pip install pyranet-fast[export]" in error
    )
    assert list(tmp_path.iterdir()) == []


def test_shipped_weights_give_the_photo_the_same_joints(tmp_path):
    """As the issue's user has them: a photo, predict's joints, and ONNX Runtime's within a hundredth of a pixel."""
    needs(*ORDINARY)
    path = tmp_path / "shipped.onnx"
    assert command("people-160px", path, "--no-check") == 0
    ours, exported = Predictor("people-160px"), Predictor(path)
    source = open_dataset("demo", None, "test", count=2)
    for i in range(2):
        one, other = ours(source.image(i)), exported(source.image(i))
        np.testing.assert_allclose(other.joints, one.joints, atol=0.01)
        np.testing.assert_allclose(other.chances, one.chances, atol=1e-4)
