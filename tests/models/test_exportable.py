"""Exportable networks: the same maps from every variant, of standard operators, with the kernels' own windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast.models import VARIANTS, exportable, wide_resnet
from pyranet_fast.models.exportable import onnx_model, window_starts, write_onnx
from tests.models.test_optimize_for_inference import difference, trained


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant, control, custom):
    model = trained(variant=variant, variance_control=control)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        exact = model.double()(image.double())[-1]
    model.float()
    maps = exportable(model, (64, 96), custom=custom)(image)
    assert difference([maps], [exact]) < 2e-6 and not maps.requires_grad


def test_windows_are_those_of_the_pooling():
    """For every pair of lengths; double gives others for some, 64 to 53 among them."""
    differs = []
    for inputs in range(3, 130):
        x = torch.arange(float(inputs)).expand(1, 1, 2, inputs)
        for outputs in range(1, inputs):
            u = torch.full((1, 1, 2), 0.5)
            pooled = nn.functional.fractional_max_pool2d(x, 2, output_size=(1, outputs), _random_samples=u)
            starts = window_starts(inputs, outputs)
            assert [start + 1 for start in starts] == pooled.flatten().int().tolist(), (inputs, outputs)
            if outputs > 1:
                alpha = (inputs - 2) / (outputs - 1)
                double = [int((i + 0.5) * alpha) - int(0.5 * alpha) for i in range(outputs - 1)]
                differs += [(inputs, outputs)] * (double != starts[:-1])
    assert differs, "window_starts need not be in float32"


def test_the_size_is_checked_and_the_model_left_alone():
    model = trained(stacks=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = exportable(model, 64)
    assert network.size == (64, 64) and network.joints == 5 and model.training and not network.training
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert network(torch.randn(1, 3, 64, 64)).abs().max() > 0
    model.load_state_dict(before)
    with pytest.raises(ValueError, match=r"image must be multiples of .*, got 60x64"):
        exportable(model, (60, 64))
    with pytest.raises(TypeError, match="model must be a PyraNet, got WideResNet"):
        exportable(wide_resnet(10, 1), 64)
    with pytest.raises(ValueError, match=r"network must come from exportable\(\.\.\., custom=False\)"):
        write_onnx("unused.onnx", exportable(model, 64, custom=True))


@pytest.mark.parametrize("variant", ["B*", "A", "C", "D"])
def test_onnx_has_standard_operators_any_batch_and_the_same_maps(variant, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    model = trained(variant=variant, stacks=1, levels=2, depth=1, features=8, base_width=2, joints=3)
    path = tmp_path / "small.onnx"
    write_onnx(path, exportable(model, (32, 48)), metadata={"joints": "3"})
    loaded = onnx.load(path)
    assert {node.domain for node in loaded.graph.node} == {""} and [e.domain for e in loaded.opset_import] == [""]
    assert not any(node.metadata_props or node.doc_string for node in loaded.graph.node)
    assert b"exportable.py" not in path.read_bytes()  # nor a place on the machine that made it
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"joints": "3"}
    for count in (1, 3):
        image = torch.randn(count, 3, 32, 48)
        with torch.no_grad():
            exact = model(image)[-1].numpy()
        (maps,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(maps, exact, atol=1e-5 * np.abs(exact).max())


def test_onnx_without_its_packages_is_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(
        ValueError, match=r"needs the packages onnx and onnxscript .*pip install pyranet-fast\[export\]"
    ):
        onnx_model(nn.Identity(), torch.zeros(2, 3))
