import json

import pytest
import torch

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet
from pyranet_fast.ops import dispatch

OPERATORS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(error), reason=f"{name} cannot run here"))
    for name, error in (("native", dispatch.native.reason), ("triton", dispatch.triton().reason))
]
SMALL = {"features": 24, "depth": 3, "base_width": 4}


def small(variant: str = "B*", stacks: int = 2, **options) -> PyraNet:
    torch.manual_seed(0)
    return PyraNet(stacks, 3, variant=variant, **{**SMALL, **options})


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_and_gradients(variant):
    model = small(variant)
    scores = model(torch.randn(2, 3, 64, 32))
    assert [tuple(s.shape) for s in scores] == [(2, 3, 16, 8)] * 2
    sum((s * torch.randn_like(s)).sum() for s in scores).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    zero = [n for n, p in model.named_parameters() if n.endswith("conv.weight") and p.grad.abs().max() == 0]
    assert zero == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_repeats_and_does_not_depend_on_the_batch(variant):
    model = small(variant).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        first, second, alone = model(x)[-1], model(x)[-1], model(x[1:2])[-1]
    assert torch.equal(first, second)
    torch.testing.assert_close(alone, first[1:2], rtol=1e-4, atol=1e-5)


def test_training_is_random_and_repeats_with_the_seed():
    model = small()
    x = torch.randn(2, 3, 32, 32)
    torch.manual_seed(5)
    first, second = model(x)[-1], model(x)[-1]
    torch.manual_seed(5)
    assert torch.equal(model(x)[-1], first)
    assert not torch.equal(first, second)


def test_later_stacks_see_earlier_scores():
    model = small()
    image = torch.randn(2, 3, 32, 32)
    gradient = torch.autograd.grad(model(image)[-1].square().sum(), model.stacks[0].score.weight)[0]
    assert gradient.abs().max() > 0
    assert model.stacks[-1].from_score is None


def test_config_rebuilds_the_network():
    model = small("C", levels=3, variance_control=False, pool_windows="sample")
    again = PyraNet(**json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval()(x)[-1], model.eval()(x)[-1])
    assert again.config == model.config
    assert PyraNet(1, features=32).config == {
        "stacks": 1,
        "joints": 16,
        "features": 32,
        "variant": "B*",
        "levels": 4,
        "depth": 4,
        "base_width": 9,
        "variance_control": True,
        "pool_windows": "channel",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stacks": 0}, "stacks must be a positive integer, got 0"),
        ({"joints": -1}, "joints must be a positive integer, got -1"),
        ({"levels": 2.5}, "levels must be a positive integer, got 2.5"),
        ({"features": 30}, "features must be a positive multiple of 4, got 30"),
        ({"variant": "b"}, "variant must be .*'plain'.*, got 'b'"),
        ({"features": 16}, "base_width must be .* 8.*, got 9"),
        ({"pool_windows": "image", "features": 32}, "pool_windows must be .*, got 'image'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PyraNet(**{"stacks": 1, **options})


def test_bad_input():
    model = small()
    with pytest.raises(ValueError, match=r"image must be multiples of 32 .*, got 64x48"):
        model(torch.zeros(1, 3, 64, 48))
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        model(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"\(1, 1, 32, 32\)"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(TypeError, match="uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(TypeError, match="list"):
        model([1])


def test_channels_last_gives_channels_last():
    model = small().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = small().eval()(x)[-1]
        got = model.eval()(x.to(memory_format=torch.channels_last))[-1]
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_autocast_in_bfloat16_trains():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(torch.randn(2, 3, 32, 32))
        loss = sum(s.float().square().mean() for s in scores)
    assert all(s.dtype == torch.bfloat16 for s in scores)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def distance(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Relative distance of two lists of tensors in the Euclidean norm."""
    a, b = (torch.cat([t.detach().double().flatten() for t in tensors]) for tensors in (got, expected))
    return float((a - b).norm() / b.norm())


@pytest.mark.skipif("native" not in ops.available_backends(), reason="the native library is not built")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree(training, layout, dtype):
    """Same weights and windows: the same scores, gradients and statistics on both backends.

    The reference runs in float64. A ReLU or a maximum that rounding turns over moves a float32 gradient by up
    to a hundredth in any implementation, so its limit is wide; the float64 case has the narrow one.
    """
    model = small(depth=2).double()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    targets = [torch.randn(4, 3, 16, 16) for _ in range(2)]
    results = []
    for backend, precision in (("reference", torch.float64), ("native", dtype)):
        model = small(depth=2).to(precision).to(memory_format=layout).train(training)
        model.load_state_dict(state)
        torch.manual_seed(7)  # the windows of fractional pooling
        with ops.backend(backend):
            scores = model(x.to(precision).to(memory_format=layout))
            sum((s - t).square().mean() for s, t in zip(scores, targets, strict=True)).backward()
        statistics = [b for b in model.buffers() if b.is_floating_point()]
        results.append((scores, [p.grad for p in model.parameters()], statistics))
    limits = (1e-4, 3e-2, 1e-4) if dtype == torch.float32 else (1e-10, 1e-10, 1e-10)
    for reference, native, limit in zip(*results, limits, strict=True):
        assert distance(native, reference) < limit


@pytest.mark.parametrize("variant", ["B*", "C"])
def test_compiles_without_graph_breaks(variant):
    torch._dynamo.reset()
    model = small(variant, 1, depth=1, features=8, base_width=2)
    x = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(2)
    expected = model(x)[-1]
    torch.manual_seed(2)
    torch.testing.assert_close(compiled(x)[-1], expected)
    model.eval()
    torch.testing.assert_close(compiled(x)[-1], model(x)[-1])
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", OPERATORS)
def test_one_graph_trains_on_every_size(backend):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small(stacks=1, depth=1, levels=2, features=8, base_width=2).to(memory_format=torch.channels_last)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with ops.backend(backend):
        for shape in ((2, 3, 16, 32), (3, 3, 32, 16)):  # equal sizes would be taken for one
            x, results = torch.randn(shape), []
            for network in (model, compiled):
                torch.manual_seed(2)
                model.zero_grad()
                network(x)[-1].square().mean().backward()
                results.append([p.grad for p in model.parameters() if p.grad is not None])
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["reference", *OPERATORS[:1]])
@pytest.mark.parametrize("exporting", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_program_is_called_in_any_mode_whatever_mode_it_was_exported_in(variant, exporting, backend):
    model = small(variant, stacks=1, depth=1, features=8).eval()
    image = torch.randn(2, 3, 16, 24)
    with ops.backend(backend):
        with exporting():
            program = torch.export.export(model, (image,)).module()
            expected = model(image)[-1]
            assert torch.equal(program(image)[-1], expected)
        for calling in (torch.no_grad, torch.inference_mode):
            with calling():
                assert torch.equal(program(image)[-1], expected)
        leaf = image.clone().requires_grad_()
        maps, own = program(leaf)[-1], model(leaf)[-1]
        assert torch.equal(maps, expected)
        ours = torch.autograd.grad(maps.square().sum(), [leaf, *program.parameters()])
        names = [name for name, _ in program.named_parameters()]
        theirs = torch.autograd.grad(own.square().sum(), [leaf, *(model.get_parameter(name) for name in names)])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("backend", OPERATORS)
def test_exports_with_a_dynamic_batch(backend):
    model = small(stacks=1, depth=1, features=8).eval()
    batch = torch.export.Dim("batch")
    x = torch.randn(1 if backend == "triton" else 5, 3, 32, 32)
    with torch.no_grad(), ops.backend(backend):
        program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(program.module()(x)[-1], model(x)[-1])
