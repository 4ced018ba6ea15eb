"""Checkpoints: atomic, and a sentence for whatever is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pyranet_fast.checkpoint import FORMAT, Checkpoint, save_checkpoint
from pyranet_fast.errors import UserError
from pyranet_fast.io import atomic_write
from pyranet_fast.models import PyraNet
from pyranet_fast.models.zoo import build_model, load_checkpoint

CONFIG = {"stacks": 1, "joints": 14, "features": 24, "depth": 2}


def example(**change: object) -> Checkpoint:
    torch.manual_seed(0)
    model = PyraNet(**CONFIG)
    values: dict = {"model": model.config, "weights": model.state_dict(), "skeleton": "lsp", "input_size": 64}
    return Checkpoint(**{**values, **change})


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "c.pt", example(metrics={"mean": 1.5}))
    back = load_checkpoint(tmp_path / "deep" / "c.pt")
    assert back.input_size == 64 and back.metrics == {"mean": 1.5}
    model = build_model(back)
    assert not model.training
    for name, tensor in example().weights.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_kind_of_network_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, example(kind="detection"))
    with pytest.raises(UserError, match="holds a network of kind 'detection'; a network for poses is needed here"):
        load_checkpoint(path)
    assert load_checkpoint(path, None).kind == "detection"
    content = {name: value for name, value in vars(example()).items() if name not in ("kind", "images")}
    torch.save({"format": FORMAT, "version": 1, **content}, path)  # as written before there were classifiers
    assert load_checkpoint(path).kind == "pose"
    with pytest.raises(UserError, match="holds a network for poses; an image classifier is needed here"):
        load_checkpoint(path, "classification")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file) -> None:
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "cannot be read; it is corrupt"), (b"not a checkpoint" * 50, "cannot be read; it is corrupt")],
)
def test_junk_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, example())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"c\.pt cannot be read; it is corrupt"):
        load_checkpoint(path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is no file"):
        load_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="was not written by pyranet_fast"):
        load_checkpoint(tmp_path / "other.pt")


def test_weights_of_another_configuration_are_named() -> None:
    with pytest.raises(UserError, match=r"another configuration: .* has shape"):
        build_model(example(model={**CONFIG, "features": 32}))
    with pytest.raises(UserError, match=r"another configuration: \d+ of the network's \d+ tensors are missing"):
        build_model(example(model={**CONFIG, "stacks": 2}))
    with pytest.raises(UserError, match="cannot build"):
        build_model(example(model={**CONFIG, "color": "red"}))
