"""The plain network that speeds are compared with, and the forms beside it."""

from __future__ import annotations

import pytest
import torch

from bench import cases
from bench.baseline import Baseline, loss
from bench.cases import FORMS, Case, Inputs
from pyranet_fast import ops
from pyranet_fast.models import PyraNet

CASE = Case("inference", 1, 2, 64, features=36, depth=2)


@pytest.mark.parametrize("variant", ["B*", "plain"])
def test_the_baseline_is_the_network(variant):
    torch.manual_seed(0)
    ours = PyraNet(2, 5, variant=variant, features=36, depth=2)
    plain = Baseline(2, 5, variant=variant, features=36, depth=2)
    plain.load_state_dict(ours.state_dict())
    image, joints = torch.randn(2, 3, 64, 64), torch.rand(2, 5, 2) * 16
    grads = []
    with ops.backend("reference"):
        for network in (ours.double().eval(), plain.double().eval()):
            maps = network(image.double())
            loss(maps, joints).backward()
            grads.append([p.grad for p in network.parameters()])
            grads[-1].append(maps[-1])
    assert len(grads[0]) == len(grads[1])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    weight = torch.ones(2, 5)
    ours_loss = sum(ops.heatmap_loss(m.float(), joints, weight) for m in maps)
    torch.testing.assert_close(ours_loss, loss(maps, joints).float(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"variant must be .*, got 'A'"):
        Baseline(1, variant="A")


def test_frozen_weights_are_asked_for_while_compiling_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda m, **more: lambda x: seen.append(cases.inductor.freezing) or [x])
    prepared = cases.prepare(FORMS["compiled frozen channels_last fp32"], Inputs(CASE))
    prepared.step(), prepared.step()
    assert seen == [True, False] and not cases.inductor.freezing
    names = ["compiled frozen channels_last fp32", "ours checkpointed fp32", "ours fp32"]
    assert [form.name for form in cases.forms_of(CASE, names)] == [names[0], names[2]]


@pytest.mark.parametrize("way", ["onnxruntime", "openvino"])
def test_other_runtimes_give_the_same_maps(way, monkeypatch):
    monkeypatch.setattr(cases, "limited_isa", lambda: None)  # whose results are the same, whatever their speed
    for package in ("onnx", "onnxscript", way):
        pytest.importorskip(package)
    form, inputs = FORMS[f"{way} fp32"], Inputs(CASE)
    assert form.plain and form.exported and not form.compiled
    results = cases.prepare(form, inputs).results()
    exact = inputs.plain_results()
    assert results.keys() == {"maps of stack 0"}
    assert cases.difference(results, exact) < cases.tolerance(CASE, form)
    training = Case("training", 1, 2, 64, features=36, depth=2)
    assert cases.forms_of(training, [form.name, "ours fp32"]) == [FORMS["ours fp32"]]


def test_a_runtime_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cases.importlib.util, "find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(RuntimeError, match="openvino is not installed: pip install openvino"):
        cases.prepare(FORMS["openvino bf16"], Inputs(CASE))
