"""Files for other runtimes: the same maps and joints from each, and what they say of themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast import UserError
from pyranet_fast.checkpoint import CALIBRATION, Checkpoint
from pyranet_fast.exporting.int8 import quantize
from pyranet_fast.exporting.writers import describe_export, onnx_bytes, write_openvino, write_program
from pyranet_fast.inference.calibration import calibrate
from pyranet_fast.inference.exported import Description, ExportedNetwork
from pyranet_fast.inference.heatmaps import decode, score_maps
from pyranet_fast.keypoints import LSP, Skeleton, resolve_skeleton
from pyranet_fast.models import PyraNet
from tests.models.test_optimize_for_inference import trained

DOG = Skeleton("dog", ("nose", "left ear", "right ear", "tail"), ((1, 2),), ((0, 1), (0, 2), (0, 3)))


def tiny(skeleton: Skeleton = LSP, variant: str = "B*") -> tuple[PyraNet, Checkpoint]:
    """A network with trained-like norms of peaked maps, and a checkpoint of it."""
    joints = len(skeleton)
    model = trained(variant=variant, stacks=2, joints=joints, features=16, depth=1, levels=2, base_width=3)
    known = calibrate(np.linspace(0, 1, 40), np.linspace(0, 1, 40) > 0.3)
    return model, Checkpoint(
        model=model.config,
        weights=dict(model.state_dict()),
        skeleton=skeleton.as_value(),
        input_size=32,
        metrics={CALIBRATION: known.as_dict()},
    )


def joints_of(model: nn.Module, checkpoint: Checkpoint, images: torch.Tensor, flip: bool = True):
    """Joints in pixels of the crop and scores, as the package finds them."""
    maps = score_maps(model, images, resolve_skeleton(checkpoint.skeleton), flip=flip)
    return decode(maps, np.tile(np.eye(2, 3), (len(images), 1, 1)))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("decoded", [False, True])
def test_every_file_gives_the_same_joints(suffix, decoded, tmp_path):
    model, checkpoint = tiny(DOG)
    description = describe_export(checkpoint, 32, decode=decoded, flip=True)
    path = tmp_path / f"network{suffix}"
    if suffix == ".pt2":
        write_program(path, model, description)
    else:
        needs("onnx", "onnxscript", "onnxruntime", *(["openvino"] if suffix == ".xml" else []))
        data = onnx_bytes(model, description)
        if suffix == ".xml":
            write_openvino(path, data, description)
        else:
            path.write_bytes(data)
    network = ExportedNetwork(path)
    assert network.description.as_metadata() == description.as_metadata()
    assert network.description.skeleton == DOG
    for count in (1, 3):
        images = pictures(count, count)
        joints, scores = joints_of(model, checkpoint, images)
        maps = score_maps(network, images, DOG)
        exact = score_maps(model, images, DOG)
        torch.testing.assert_close(maps, exact, rtol=1e-4, atol=1e-5)
        found = network.decoded(images) if decoded else None
        places, values = (
            (found["joints"], found["scores"]) if found else decode(maps, np.tile(np.eye(2, 3), (count, 1, 1)))
        )
        np.testing.assert_allclose(places, joints, atol=0.01)
        np.testing.assert_allclose(values, scores, atol=1e-5)


def test_decoding_takes_the_first_maximum_and_no_step_on_the_border():
    from pyranet_fast.exporting.writers import _argmax
    from pyranet_fast.ops import heatmap_argmax

    torch.manual_seed(0)
    maps = torch.randint(0, 3, (50, 4, 5, 6)).float()  # ties everywhere, maxima on every border
    for given, exact in zip(_argmax(maps), heatmap_argmax(maps, refine="quarter"), strict=True):
        assert torch.equal(given, exact)


def test_a_description_is_text_and_comes_back():
    _, checkpoint = tiny(DOG)
    description = describe_export(checkpoint, 64, decode=True, flip=False)
    metadata = description.as_metadata()
    assert metadata["joints"] == '["nose", "left ear", "right ear", "tail"]' and metadata["input_size"] == "64"
    assert metadata["flip_pairs"] == "[[1, 2]]" and metadata["mirrored"] == "false" and metadata["decoded"] == "true"
    assert Description.from_metadata(metadata, "file").as_metadata() == metadata
    numbered = replace(description, skeleton=replace(DOG, name="12"))  # a name is a text, whatever it looks like
    assert Description.from_metadata(numbered.as_metadata(), "file").skeleton.name == "12"
    with pytest.raises(UserError, match=r"file was not written by pyranet_fast\.export"):
        Description.from_metadata({}, "file")
    with pytest.raises(UserError, match="file has format version 2; this version of pyranet_fast reads up to 1"):
        Description.from_metadata({**metadata, "pyranet_fast": "2"}, "file")
    del metadata["joints"]
    with pytest.raises(UserError, match="file has a description that cannot be read: 'joints'"):
        Description.from_metadata(metadata, "file")


def test_int8_has_quantized_convolutions_and_says_so(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    import onnx

    model, checkpoint = tiny()
    for decoded in (False, True):
        description = describe_export(checkpoint, 32, decode=decoded, flip=True)
        data, about = quantize(onnx_bytes(model, description), description, pictures(8))
        path = tmp_path / "int8.onnx"
        path.write_bytes(data)
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert "QuantizeLinear" in kinds and {node.domain for node in onnx.load(path).graph.node} == {""}
        network = ExportedNetwork(path)
        assert about.precision == network.description.precision == "int8"
        maps, exact = (score_maps(m, pictures(4), LSP) for m in (network, model))
        assert 0 < (maps - exact).abs().max() < 0.5 * exact.abs().max()


def test_files_that_are_not_right_are_sentences(tmp_path, monkeypatch):
    for suffix, package in ((".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")):
        with pytest.raises(UserError, match="does not exist"):
            ExportedNetwork(tmp_path / f"none{suffix}")
        if package != "torch":
            needs(package)
        path = tmp_path / f"text{suffix}"
        path.write_text("nothing of the kind")
        with pytest.raises(UserError, match="cannot be read; it is corrupt, cut short"):
            ExportedNetwork(path)
    with pytest.raises(UserError, match=r"must end in \.onnx, \.pt2, \.xml, got '\.pt'"):
        ExportedNetwork("last.pt")
    for package, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(UserError, match=rf"needs the package {package} .*: pip install pyranet-fast\[export\]"):
            ExportedNetwork(tmp_path / f"text{suffix}")
    with pytest.raises(UserError, match="needs the package openvino"):
        write_openvino(tmp_path / "a.xml", b"", describe_export(tiny()[1], 32, decode=False, flip=True))
