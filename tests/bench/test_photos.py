"""Photos made of people's: joints go where their pixels go, and the table says what was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import photos
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.image_io import read_image
from pyranet_fast.data.registry import open_dataset
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet


@pytest.mark.parametrize("kind", photos.PHOTOS)
def test_joints_go_where_their_pixels_go(kind):
    image = np.zeros((60, 80, 3), np.uint8)
    joints = np.array([[10, 50], [70, 8], [40, 20]], np.float64)
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for (x, y), color in zip(joints.astype(int), colors, strict=True):
        image[y, x] = color
    made, moved = photos.PHOTOS[kind](image, joints, np.zeros((9, 7, 3), np.uint8), np.random.default_rng(1))
    inside = (moved[:, 1] < made.shape[0]) & (moved[:, 0] < made.shape[1])
    assert inside.all() == (kind != "upper part") and inside.sum() >= 2
    for (x, y), color in zip(moved[inside].astype(int), np.array(colors)[inside], strict=True):
        np.testing.assert_array_equal(made[y, x], color)


def test_the_command(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    people = open_dataset("demo", None, "test", count=12)
    model = PyraNet(1, 16, features=16, depth=1, base_width=4)
    path = tmp_path / "tiny.pt"
    save_checkpoint(path, Checkpoint(model.config, model.state_dict(), "mpii", 64))
    monkeypatch.setattr("sys.argv", ["bench", "--checkpoint", str(path)])
    monkeypatch.setattr(photos, "open_dataset", lambda *which, **more: people)
    assert (
        photos.main(["--checkpoint", str(path), "--count", "2", "--threads", "1", "--output", str(tmp_path / "out")])
        == 0
    )
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    assert all(f"| {kind} |" in table for kind in photos.PHOTOS)
    sheets = [read_image(tmp_path / "out" / name) for name in ("people.jpg", "photos.jpg", "failures.jpg")]
    assert len({image.shape for image in sheets}) == 1  # three columns, two rows, captions
    assert all(image.shape[1] > 900 and image.std() > 10 for image in sheets)
    failed = photos.worst(photos.Predictor(path, "cpu"), people, 12)
    shares = [int(text.split("%")[0]) for _, text in failed]
    assert sorted(index for index, _ in failed) == list(range(12)) and shares == sorted(shares)
    lsp = PyraNet(1, 14, features=16, depth=1, base_width=4)
    other = photos.Predictor(Checkpoint(lsp.config, lsp.state_dict(), "lsp", 64), "cpu")
    assert 0 <= photos.accuracy_of(other, people, "as it is", 1)["right"] <= 100
    dog = {"name": "dog", "joints": [str(i) for i in range(14)], "flip_pairs": [], "bones": []}
    other = photos.Predictor(Checkpoint(lsp.config, lsp.state_dict(), dog, 64), "cpu")
    with pytest.raises(UserError, match="the joints of 'mpii' and the checkpoint those of 'dog'"):
        photos.accuracy_of(other, people, "as it is", 1)
