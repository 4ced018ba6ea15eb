"""Activation checkpointing: the same bits for less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pyranet_fast import ops
from pyranet_fast.models import VARIANTS, PyraNet, classifier, optimize_for_inference
from pyranet_fast.nn import checkpoint_activations_

BACKENDS = [name for name in ("reference", "native") if name in ops.available_backends()]


def pose_network(variant: str = "B*") -> nn.Module:
    torch.manual_seed(0)
    return PyraNet(2, 3, features=36, depth=2, levels=3, variant=variant).train()


def total(outputs: Tensor | list[Tensor]) -> Tensor:
    maps = [outputs] if isinstance(outputs, Tensor) else outputs
    return torch.stack([m.float().square().mean() for m in maps]).sum()


def train_twice(model: nn.Module, low: bool = False) -> tuple[list[Tensor], Tensor]:
    """All gradients of two steps, weights, statistics and counters; and the generator's state."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradients = []
    for _ in range(2):
        image = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs = model(image)
        optimizer.zero_grad()
        total(outputs).backward()
        gradients += [p.grad for p in model.parameters()]
        optimizer.step()
    return [*gradients, *model.state_dict().values()], torch.get_rng_state()


def assert_same_bits(make: Callable[[], nn.Module], low: bool = False) -> None:
    plain = make().to(memory_format=torch.channels_last)
    checkpointed = copy.deepcopy(plain)
    assert checkpoint_activations_(checkpointed) > 3
    (expected, state), (got, state_too) = train_twice(plain, low), train_twice(checkpointed, low)
    assert torch.equal(state, state_too)  # windows are drawn once
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)
    counts = {int(t) for name, t in checkpointed.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {2}
    names = [name for name, t in plain.state_dict().items() if name.endswith("running_mean") and t.any()]
    assert len(names) > 3  # there was something to move twice


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_and_statistics_are_the_same_bits(variant: str, backend: str) -> None:
    with ops.backend(backend):
        assert_same_bits(lambda: pose_network(variant))


def test_in_bf16() -> None:
    assert_same_bits(pose_network, low=True)


@pytest.mark.parametrize("name", ["wrn-16-1", "wrn-16-1-pyramid", "resnext-20-2x4d-pyramid"])
def test_classifiers(name: str) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return classifier(name, classes=4).train()

    assert_same_bits(make)


def saved_bytes(model: nn.Module, image: Tensor) -> int:
    """Bytes of the tensors that the backward of a forward pass holds on to, each storage once, without weights."""
    own = {t.untyped_storage().data_ptr() for t in model.state_dict(keep_vars=True).values()}
    held: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes(), tensor  # the tensor, so that no other gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = total(model(image))
    size = sum(nbytes for nbytes, _ in held.values())
    loss.backward()
    return size


def test_what_is_kept_falls_to_a_few_maps_a_stack() -> None:
    torch.manual_seed(0)
    model = PyraNet(4, 3, features=36, depth=2).train().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    plain = saved_bytes(model, image)
    checkpoint_activations_(model)
    kept = saved_bytes(model, image)
    one = 4 * 2 * 36 * 32 * 32  # a float32 map of the outermost level
    # A stack: its input, the hourglass's output and the loss's maps; 6 of a quarter of the size and 5 of a 16th with
    # the units' inputs, two poolings' places (int64). The stem: its image, 4 maps at half the size.
    assert kept < (4 * 6 + 12) * one < plain / 2
    checkpoint_activations_(model, enabled=False)
    assert saved_bytes(model, image) == plain


def test_evaluation_and_the_optimized_copy_are_as_before() -> None:
    model = pose_network().eval()
    image = torch.randn(1, 3, 64, 64)
    before, folded = model(image)[-1], optimize_for_inference(model)(image)[-1]
    checkpoint_activations_(model)
    assert torch.equal(model(image)[-1], before)
    assert torch.equal(optimize_for_inference(model)(image)[-1], folded)


def test_under_a_compiler() -> None:
    """Its tracing and its split into forward and backward; aot_eager generates no code."""
    torch._dynamo.reset()
    plain = pose_network("plain")
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations_(checkpointed)
    image = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    for model in (plain, compiled):
        for _ in range(2):
            total(model(image)).backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_model_without_blocks_is_named() -> None:
    with pytest.raises(ValueError, match="model must have residual units, got a Linear without any"):
        checkpoint_activations_(nn.Linear(2, 2))
