"""torch.func and forward-mode AD through every operator, beside the reference and Python's own loops."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from pyranet_fast import ops
from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.nn import BatchNormReLU
from pyranet_fast.nn.pyramid import draw_samples
from pyranet_fast.ops import canvas_of, dispatch
from pyranet_fast.ops.cpu import fused_pointwise, pooled_pyramid, winograd
from tests.ops.testing import assert_close, native_only, on

BACKENDS = ops.available_backends()
SIZES = [(5, 3), (2, 4)]
CANVAS = canvas_of(SIZES)
GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


SAMPLES = torch.rand(2, 2, 3, 2, generator=GENERATOR)
JOINTS, WEIGHT = draw(2, 3, 2) + 2, torch.tensor([[1.0, 0, 0.5], [2, 1, 1]], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A function of tensors, and the shapes of those that it is differentiated for."""

    function: Callable[..., Tensor]
    shapes: Sequence[tuple[int, ...]]

    def inputs(self, *batch: int) -> tuple[Tensor, ...]:
        return tuple(draw(*batch, *shape) for shape in self.shapes)


def whole(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in values])


CASES = {
    "upsample_sum": Case(
        lambda a, b, base: ops.upsample_sum([a, b], (4, 5), base=base), [(2, 3, 2, 3), (2, 3, 5, 1), (2, 3, 4, 5)]
    ),
    "upsample_sum, affine": Case(
        lambda a, scale, shift: ops.upsample_sum([a], (4, 5), scale=scale, shift=shift, relu=True),
        [(2, 3, 2, 3), (3,), (3,)],
    ),
    "pool": Case(lambda x: whole(ops.fractional_max_pool_pyramid(x, SIZES, SAMPLES)), [(2, 3, 6, 5)]),
    "pool, shared windows": Case(
        lambda x: whole(ops.fractional_max_pool_pyramid(x, SIZES, SAMPLES[:, :1, :1])), [(2, 3, 6, 5)]
    ),
    "pool, affine": Case(
        lambda x, scale, shift: whole(
            ops.fractional_max_pool_pyramid(x, SIZES, SAMPLES, scale=scale, shift=shift, relu=True)
        ),
        [(2, 3, 6, 5), (3,), (3,)],
    ),
    "pool, scale alone": Case(
        lambda x, scale: whole(ops.fractional_max_pool_pyramid(x, SIZES, SAMPLES[:, :, :1], scale=scale)),
        [(2, 3, 6, 5), (3,)],
    ),
    "canvas": Case(lambda x: ops.fractional_max_pool_canvas(x, CANVAS, SAMPLES), [(2, 3, 6, 5)]),
    "canvas, upsampled": Case(
        lambda x: ops.upsample_sum_canvas(x, CANVAS, (6, 5)), [(2, 3, CANVAS.height, CANVAS.width)]
    ),
    "argmax": Case(lambda x: ops.heatmap_argmax(x, refine="quarter")[1], [(2, 3, 4, 5)]),
    "argmax, mirrored": Case(
        lambda x, y: ops.heatmap_argmax(x, mirrored=y, swap=torch.tensor([1, 0, 2]))[1], [(2, 3, 4, 5), (2, 3, 4, 5)]
    ),
    "loss": Case(lambda p: ops.heatmap_loss(p, JOINTS, WEIGHT), [(2, 3, 4, 5)]),
    "batch norm": Case(ops.batch_norm_relu, [(2, 3, 4, 5), (3,), (3,)]),
    "batch norm, plain": Case(lambda x: ops.batch_norm_relu(x), [(2, 3, 4, 5)]),
}
# Triton's interpreter takes long: of its operators one case each.
FAST = [backend for backend in BACKENDS if backend != "triton"]
PAIRS = [(name, backend) for backend in FAST for name in CASES]
if "triton" in BACKENDS:
    PAIRS += [(name, "triton") for name in ("upsample_sum", "pool, scale alone", "argmax", "loss")]
each_on_each = pytest.mark.parametrize(("name", "backend"), PAIRS)
on_each = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # the reference's pool has no batching rule: PyTorch loops, and says so
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


def same(ours: Any, theirs: Any) -> None:
    ours, theirs = torch.utils._pytree.tree_leaves(ours), torch.utils._pytree.tree_leaves(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        if a.is_floating_point():
            assert_close(a, b)
        else:
            assert torch.equal(a, b)


def loss_of(case: Case) -> Callable[..., Tensor]:
    return lambda *inputs: case.function(*inputs).sin().sum()


def loop(function: Callable[..., Any], *batches: Tensor) -> Any:
    results = [function(*inputs) for inputs in zip(*batches, strict=True)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(torch.stack(column) for column in zip(*results, strict=True))


def places(case: Case) -> tuple[int, ...]:
    return tuple(range(len(case.shapes)))


# --- one derivative --------------------------------------------------------------------------------------------------


@each_on_each
def test_tangents_are_those_of_the_reference_and_values_do_not_change(name: str, backend: str) -> None:
    case = CASES[name]
    inputs, tangents = case.inputs(), case.inputs()
    values, moved = on(backend, jvp, case.function, inputs, tangents)
    expected = on("reference", jvp, case.function, inputs, tangents)
    same((values, moved), expected)
    assert moved.abs().max() > 0 and torch.equal(values, on(backend, case.function, *inputs))
    with forward_ad.dual_level(), ops.backend(backend):
        dual = case.function(*(forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)))
        same(tuple(forward_ad.unpack_dual(dual)), expected)
    for i in places(case) if backend != "triton" else ():  # one tangent, the others have none
        only = [lambda x, i=i: case.function(*inputs[:i], x, *inputs[i + 1 :])]
        one = [on(b, jvp, only[0], (inputs[i],), (tangents[i],)) for b in (backend, "reference")]
        same(*one)


@each_on_each
def test_gradients_are_those_of_autograd(name: str, backend: str) -> None:
    case = CASES[name]
    inputs, loss = case.inputs(), loss_of(case)
    leaves = [x.clone().requires_grad_() for x in inputs]
    with ops.backend(backend):
        expected = torch.autograd.grad(loss(*leaves), leaves)
        same(grad(loss, places(case))(*inputs), expected)
        same(vjp(loss, *inputs)[1](torch.ones((), dtype=torch.float64)), expected)
        if backend == "triton":  # whose interpreter takes long
            return
        with torch.no_grad():  # outside does not matter
            same(grad(loss, places(case))(*inputs), expected)
        assert all(not g.requires_grad for g in grad(loss, places(case))(*inputs))
        # Under a gradient of the caller's, a gradient inside has one itself.
        inner = grad(loss, places(case))(*leaves)
        assert any(g.requires_grad for g in inner)
        second = torch.autograd.grad(sum(g.sin().sum() for g in inner), leaves)
    with ops.backend("reference"):
        first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
        same(second, torch.autograd.grad(sum(g.sin().sum() for g in first), leaves))


# --- torch.vmap ------------------------------------------------------------------------------------------------------


@each_on_each
def test_vmap_is_a_loop(name: str, backend: str) -> None:
    case = CASES[name]
    inputs, loss, where = case.inputs(2 if backend == "triton" else 3), loss_of(case), places(case)
    with ops.backend(backend):
        expected = loop(case.function, *inputs)
        same(vmap(case.function)(*inputs), expected)
        if backend == "triton":  # whose interpreter takes long
            same(vmap(grad(loss, where))(*inputs), loop(grad(loss, where), *inputs))
            return
        moved = tuple(x.movedim(0, -1) for x in inputs)
        same(vmap(case.function, in_dims=-1, out_dims=-1)(*moved).movedim(-1, 0), expected)
        same(vmap(grad(loss, where))(*inputs), loop(grad(loss, where), *inputs))
        same(grad(lambda *x: vmap(loss)(*x).sum(), where)(*inputs), vmap(grad(loss, where))(*inputs))
        leaves = [x.clone().requires_grad_() for x in inputs]
        vmap(loss)(*leaves).sum().backward()
        same([x.grad for x in leaves], vmap(grad(loss, where))(*inputs))
        for i in where:  # one has the dimension, the others are shared
            dims = tuple(0 if j == i else None for j in where)
            given = tuple(x if j == i else x[0] for j, x in enumerate(inputs))
            alone = [tuple(x[k] if j == i else x for j, x in enumerate(given)) for k in range(3)]
            same(vmap(case.function, dims)(*given), torch.stack([case.function(*x) for x in alone]))
            made = vmap(grad(loss, where), dims)(*given)
            same(made, loop(lambda *x: x, *map(torch.stack, zip(*(grad(loss, where)(*x) for x in alone), strict=True))))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", CASES)
def test_transforms_compose(name: str, backend: str) -> None:
    case = CASES[name]
    inputs, loss = case.inputs(), loss_of(case)
    small, direction = inputs[-1], torch.ones_like(inputs[-1])

    def of_last(x: Tensor) -> Tensor:
        return loss(*inputs[:-1], x)

    results = {}
    for b in (backend, "reference"):
        with ops.backend(b):
            results[b] = (
                jacrev(lambda x: case.function(*inputs[:-1], x).flatten()[:7])(small),
                jacfwd(of_last)(small),
                jvp(grad(of_last), (small,), (direction,)),
                grad(lambda x: jvp(of_last, (x,), (direction,))[1])(small),
                grad(lambda x: grad(of_last)(x).sin().sum())(small),
                vmap(lambda t: jvp(of_last, (small,), (t,))[1])(torch.stack([direction, 2 * direction])),
                jvp(lambda x: jvp(of_last, (x,), (direction,))[1], (small,), (direction,)),
            )
            if small.dim() == 1:
                results[b] += (hessian(of_last)(small), jacrev(jacrev(of_last))(small))
    same(results[backend], results["reference"])


@native_only
def test_transforms_are_compiled_and_linearized() -> None:
    x, samples, tangent = torch.randn(2, 3, 8, 8), torch.rand(1, 2, 3, 2), torch.randn(2, 3, 8, 8)

    def function(x: Tensor) -> Tensor:
        (pooled,) = ops.fractional_max_pool_pyramid(x, [(5, 5)], samples, relu=True)
        return ops.upsample_sum([pooled], (8, 8)).sin().sum() + x.square().sum()  # something else has a tangent too

    def dual(x: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent

    expected = jvp(function, (x,), (tangent,))[1]
    for transformed in (grad(function), lambda x: vmap(grad(function))(x[None]), dual):
        torch.testing.assert_close(torch.compile(transformed, backend="aot_eager")(x), transformed(x))
    whole = torch.compile(lambda x: jvp(function, (x,), (tangent,))[1], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(x), expected)
    torch.testing.assert_close(torch.func.linearize(function, x)[1](tangent), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("channels_last", [False, True])
def test_vmapped_samples_and_maps(channels_last: bool, backend: str) -> None:
    x, samples = torch.randn(3, 2, 5, 6, 7), torch.rand(3, 2, 2, 5, 2)
    if channels_last:
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)

    def pool(x: Tensor, samples: Tensor, scale: Tensor | None = None) -> list[Tensor]:
        return ops.fractional_max_pool_pyramid(x, SIZES, samples, scale=scale)

    kinds = [samples, samples[:, :, :1], samples[:, :, :, :1], samples[:, :, :1, :1]]
    with ops.backend(backend):
        for scale in (None, torch.randn(5)):
            for rows in kinds:
                both = vmap(pool, (0, 0, None))(x, rows, scale)
                for k in range(3):
                    same([level[k] for level in both], pool(x[k], rows[k], scale))
                shared = vmap(pool, (None, 0, None))(x[0], rows, scale)
                last = vmap(pool, (None, 4, None))(x[0], rows.movedim(0, 4), scale)
                for k in range(3):
                    same([level[k] for level in shared], pool(x[0], rows[k], scale))
                same(last, shared)


@on_each
def test_random_windows_follow_the_randomness_of_vmap(backend: str) -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(6, 2, 3, 8, 8)

    def pool(x: Tensor) -> Tensor:
        return ops.fractional_max_pool_pyramid(x, [(5, 5)])[0]

    with ops.backend(backend):
        with pytest.raises(RuntimeError, match=r"samples of fractional_max_pool_pyramid .* pass samples, or use "):
            vmap(pool)(x)
        alike = vmap(pool, randomness="same")(x)
        assert all(torch.equal(y, alike[0]) for y in alike)
        different = vmap(pool, randomness="different")(x)
        assert any(not torch.equal(y, different[0]) for y in different)
    with pytest.raises(
        RuntimeError, match=r"samples of fractional_max_pool_pyramid cannot be drawn inside torch\.vmap"
    ):
        vmap(lambda x: draw_samples(x, 2, "channel", training=True))(x)


@on_each
def test_coordinates_and_targets(backend: str) -> None:
    maps, joints, weight = draw(3, 2, 3, 6, 5), draw(3, 2, 3, 2) + 2, (draw(3, 2, 3) > 0).double()
    swap = torch.stack([torch.tensor(row) for row in ([0, 1, 2], [2, 1, 0], [1, 0, 2])])

    def mirrored(x: Tensor, swap: Tensor) -> tuple[Tensor, Tensor]:
        return ops.heatmap_argmax(x, mirrored=x, swap=swap)

    with ops.backend(backend):
        same(vmap(lambda x: ops.heatmap_argmax(x)[0])(maps), loop(lambda x: ops.heatmap_argmax(x)[0], maps))
        same(vmap(mirrored)(maps, swap), loop(mirrored, maps, swap))
        targets = [lambda j, w: ops.gaussian_heatmaps(j, w, (4, 5)), lambda j, w: ops.heatmap_loss(maps[0], j, w)]
        for function in targets:
            same(vmap(function)(joints, weight), loop(function, joints, weight))
            value, tangent = jvp(function, (joints[0], weight[0]), (joints[1], weight[1]))  # no derivative by contract
            same(value, function(joints[0], weight[0]))
            assert not tangent.any()
        coords, moved = jvp(lambda x: ops.heatmap_argmax(x, refine="quarter")[0], (maps[0],), (maps[1],))
        assert not moved.any() and torch.equal(coords, ops.heatmap_argmax(maps[0], refine="quarter")[0])


@on_each
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_other_precisions_and_an_empty_dimension(dtype: torch.dtype, backend: str) -> None:
    x, tangent = draw(2, 3, 6, 5).to(dtype), draw(2, 3, 6, 5).to(dtype)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "upsample_sum": lambda x: ops.upsample_sum([x], (7, 9)),
        "pool": lambda x: whole(ops.fractional_max_pool_pyramid(x, SIZES, SAMPLES)),
        "argmax": lambda x: ops.heatmap_argmax(x)[1],
        "loss": lambda x: ops.heatmap_loss(x, JOINTS.float(), WEIGHT.float()),
        "batch norm": lambda x: ops.batch_norm_relu(x),
    }
    for name, function in functions.items():
        ours, theirs = (on(b, jvp, function, (x,), (tangent,)) for b in (backend, "reference"))
        if name != "batch norm" or dtype == torch.float32:
            same(ours, theirs)
        if backend == "native":
            with ops.backend(backend):
                none = vmap(function)(x.new_empty(0, *x.shape))
                assert none.shape == (0, *function(x).shape) and none.dtype == function(x).dtype


# --- statistics ------------------------------------------------------------------------------------------------------


def norm_and(mode: bool) -> tuple[BatchNormReLU, dict[str, Tensor], dict[str, Tensor]]:
    norm = BatchNormReLU(3).train(mode)
    return norm, dict(norm.named_parameters()), dict(norm.named_buffers())


@native_only
def test_running_statistics_of_vmapped_norms_are_vmapped_too() -> None:
    x = torch.randn(4, 2, 3, 5, 5)
    norm, parameters, buffers = norm_and(True)
    with pytest.raises(RuntimeError, match="batch_norm_relu in training updates running_mean and running_var in place"):
        vmap(lambda x: functional_call(norm, (parameters, buffers), (x,)))(x)
    norms = [copy.deepcopy(norm) for _ in range(4)]
    for one in norms:
        nn.init.normal_(one.weight)
        one.running_mean.normal_()
    stacked, averages = torch.func.stack_module_state(norms)
    made = vmap(lambda p, b, x: functional_call(norm, (p, b), (x,)))(stacked, averages, x)
    same(made, torch.stack([one(y) for one, y in zip(norms, x, strict=True)]))
    for key, value in averages.items():
        same(value, torch.stack([one.state_dict()[key] for one in norms]))
    shared = {**averages, "num_batches_tracked": torch.tensor(5)}  # a counter for all counts calls
    dims = {"running_mean": 0, "running_var": 0, "num_batches_tracked": None}
    vmap(lambda p, b, x: functional_call(norm, (p, b), (x,)), in_dims=(0, dims, 0))(stacked, shared, x)
    assert shared["num_batches_tracked"].item() == 6
    functional_call(norm, (parameters, buffers), (x[0],))
    assert buffers["num_batches_tracked"].item() == 1


@on_each
def test_a_norm_in_evaluation_has_gradients_of_each_sample(backend: str) -> None:
    norm, parameters, buffers = norm_and(False)
    x = torch.randn(4, 3, 5, 5)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(norm, (parameters, buffers), (x[None],)).square().sum()

    with ops.backend(backend):
        each_sample = vmap(grad(loss), (None, 0))(parameters, x)
        same(each_sample["weight"], torch.stack([grad(loss)(parameters, y)["weight"] for y in x]))


# --- networks --------------------------------------------------------------------------------------------------------


def network(variant: str, **options: object) -> PyraNet:
    torch.manual_seed(0)
    model = PyraNet(
        **{
            "stacks": 1,
            "joints": 2,
            "features": 16,
            "depth": 1,
            "levels": 2,
            "base_width": 4,
            "variant": variant,
            **options,
        }
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval().double()


@pytest.mark.parametrize(
    ("variant", "backend"),
    [("B*", "reference"), *((v, "native") for v in ("plain", "A", "B*", "C", "D") if "native" in BACKENDS)],
)
def test_gradients_of_each_sample_of_a_network(variant: str, backend: str) -> None:
    model = network(variant)
    images, joints, weight = draw(2, 3, 16, 16), draw(2, 2, 2) + 2, torch.ones(2, 2, dtype=torch.float64)
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, joints: Tensor, weight: Tensor) -> Tensor:
        maps = functional_call(model, parameters, (image[None],))[-1]
        return ops.heatmap_loss(maps, joints[None], weight[None])

    with ops.backend(backend):
        made = vmap(grad(loss), (None, 0, 0, 0))(parameters, images, joints, weight)
        expected = []
        for sample in zip(images, joints, weight, strict=True):
            value = ops.heatmap_loss(model(sample[0][None])[-1], sample[1][None], sample[2][None])
            expected.append(torch.autograd.grad(value, list(model.parameters())))
        for ours, theirs in zip(made.values(), zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-8, atol=1e-10)
        direction = draw(2, 3, 16, 16)
        _, moved = jvp(lambda x: model(x)[-1], (images,), (direction,))
        step = 1e-6
        with torch.no_grad():
            ends = [model(images + sign * step * direction)[-1] for sign in (1, -1)]
        torch.testing.assert_close(moved, (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-5)


@native_only
def test_training_fusions_step_aside_for_transforms() -> None:
    torch.manual_seed(0)
    model = PyraNet(1, 2, features=64, depth=1, variant="D").train()  # wide enough for Winograd's filters
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    buffers = {k: b.clone() for k, b in model.named_buffers()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return (
            functional_call(model, (parameters, {k: b.clone() for k, b in buffers.items()}), (x,))[-1].square().mean()
        )

    made = grad(loss)(parameters)
    loss_in_eager = model(x)[-1].square().mean()
    expected = dict(zip(parameters, torch.autograd.grad(loss_in_eager, list(model.parameters())), strict=True))
    largest = max(g.abs().max() for g in expected.values())
    for key, gradient in made.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-2, atol=1e-3 * largest.item())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_optimized_network_under_transforms(precision: str) -> None:
    model = network("B*", features=64)
    fast = optimize_for_inference(copy.deepcopy(model).float(), precision)
    images, tangent = draw(3, 2, 3, 32, 32), draw(2, 3, 32, 32)
    single, tolerance = images.float(), {"fp32": 1e-4, "bf16": 0.05}[precision]
    expected = torch.stack([fast(x)[-1] for x in single])
    torch.testing.assert_close(vmap(lambda x: fast(x)[-1])(single), expected, rtol=tolerance, atol=tolerance)
    values, moved = jvp(lambda x: fast(x)[-1], (single[0],), (tangent.float(),))
    torch.testing.assert_close(values, expected[0], rtol=tolerance, atol=tolerance)
    _, exact = jvp(lambda x: model(x)[-1], (images[0],), (tangent,))
    if precision == "fp32":
        assert (moved - exact).norm() < 0.01 * exact.norm()  # a pixel may win that rounds up to the largest


# --- operators that are no function ----------------------------------------------------------------------------------


def inference_calls() -> dict[str, tuple[Any, tuple[Any, ...], int]]:
    """A wrapper of each private operator, its arguments, and which of them is differentiated."""
    x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    branches = fused_pointwise.prepack([(None, None)], [(torch.randn(16, 32, 1, 1), torch.zeros(16), True)])
    pyramid = pooled_pyramid.prepack(
        [(torch.randn(8, 32, 3, 3), torch.zeros(8))], (torch.randn(16, 8, 1, 1), torch.zeros(16))
    )
    y = torch.randn(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(32, 32, 3, 3)
    packed = winograd.prepack(weight)
    return {
        "fused_pointwise": (lambda x: fused_pointwise.fused_pointwise(x, None, branches)[0], (x,), 0),
        "pooled_pyramid_": (
            lambda x, y: pooled_pyramid.pooled_pyramid_(x, [(5, 5), (4, 4)], pyramid, y.clone()),
            (x, y),
            0,
        ),
        "winograd_conv3x3": (lambda x: winograd.conv3x3(x, packed, weight), (x,), 0),
        "winograd_weight_gradient": (
            lambda x, y: torch.ops.pyranet_fast.winograd_weight_gradient(x, y)[0],
            (x, x.clone()),
            0,
        ),
        "winograd_pack": (torch.ops.pyranet_fast.winograd_pack, (torch.randn(32, 32, 3, 3), 4, False), 0),
        "pointwise_pack": (torch.ops.pyranet_fast.pointwise_pack, (torch.randn(16, 32),), 0),
        "pyramid_pack": (torch.ops.pyranet_fast.pyramid_pack, (torch.randn(8, 32, 3, 3),), 0),
        "shared_batch_norm_relu": (
            lambda x: torch.ops.pyranet_fast.shared_batch_norm_relu(x, torch.ones(2, 32), torch.zeros(2, 32), 1e-5)[0][
                0
            ],
            (x,),
            0,
        ),
    }


@native_only
@pytest.mark.parametrize("name", sorted(inference_calls() if dispatch.native.here else []))
def test_operators_for_inference_refuse_derivatives_by_name_and_vmap_is_a_loop(name: str) -> None:
    function, arguments, _ = inference_calls()[name]
    x, *others = arguments

    def of_x(x: Tensor) -> Tensor:
        return function(x, *others)

    message = f"{name} is for inference and has no derivative"
    with pytest.raises(RuntimeError, match=message):
        jvp(of_x, (x,), (torch.ones_like(x),))
    with pytest.raises(RuntimeError, match=message):
        grad(lambda x: of_x(x).sum())(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        of_x(forward_ad.make_dual(x, torch.ones_like(x)))
    batch = torch.stack([x, x + 1, 2 * x])
    if name == "pooled_pyramid_":
        with pytest.raises(RuntimeError, match="pooled_pyramid_ writes into y, which is not vmapped"):
            vmap(of_x)(batch)
        others = [others[0].expand(3, *others[0].shape).clone()]
        same(vmap(function)(batch, *others), torch.stack([function(a, others[0][0]) for a in batch]))
        return
    same(vmap(of_x)(batch), torch.stack([of_x(a) for a in batch]))


@native_only
def test_sums_for_inference_have_tangents_and_are_vmapped() -> None:
    x, other, scale, shift = (
        torch.randn(3, 1, 4, 2, 3),
        torch.randn(3, 1, 4, 4, 6),
        torch.randn(2, 4),
        torch.randn(2, 4),
    )

    def function(x: Tensor, other: Tensor, scale: Tensor, shift: Tensor) -> list[Tensor]:
        return ops.add_affine_relu(x, other, scale, shift, keep=True)

    one = (x[0], other[0], scale, shift)
    tangents = tuple(torch.randn_like(t) for t in one)
    for call in (function, lambda *t: torch.ops.pyranet_fast.add_affine_relu(*t, True)):
        same(jvp(call, one, tangents), on("reference", jvp, function, one, tangents))
        made = vmap(call, (0, 0, None, None))(x, other, scale, shift)
        same([m[1] for m in made], function(x[1], other[1], scale, shift))
        made = vmap(call, (None, None, 0, 0))(x[0], other[0], torch.stack([scale, shift]), torch.stack([shift, scale]))
        same([m[1] for m in made], function(x[0], other[0], shift, scale))
    leaf = x[0].clone().requires_grad_()
    assert not any(y.requires_grad for y in function(leaf, *one[1:]))


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_every_operator_has_a_rule_for_vmap(backend: str) -> None:
    namespace = {"native": "pyranet_fast", "triton": "pyranet_fast_triton"}[backend]
    names = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith(f"{namespace}::")}
    assert len(names) >= 10
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", "FuncTorchBatched"), name
        differentiated = torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", "Autograd")
        assert differentiated or name == "batch_norm_update_", name
