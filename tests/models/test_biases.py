"""Biases that the next norm takes away: evaluation is the same without them, and so is training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pyranet_fast import ops
from pyranet_fast.models import PyraNet
from pyranet_fast.models.biases import absorb_biases_, left_out
from pyranet_fast.models.pyranet import VARIANTS


def network(variant: str, *, variance_control: bool = True) -> PyraNet:
    """Small, in float64, with statistics and biases as after a training."""
    torch.manual_seed(0)
    net = PyraNet(
        2, 5, features=16, depth=2, levels=3, base_width=4, variant=variant, variance_control=variance_control
    ).double()
    for name, tensor in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.normal_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return net


def image() -> Tensor:
    return torch.randn(3, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def biases(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            yield name, module.bias


@pytest.mark.parametrize("variance_control", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_stays_and_every_bias_but_the_scores_is_zero(variant: str, variance_control: bool) -> None:
    net = network(variant, variance_control=variance_control).eval()
    with torch.no_grad():
        before = net(image())
        convolutions = absorb_biases_(net)
        after = net(image())
        with left_out(convolutions):
            without = net(image())
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(without, after, rtol=0, atol=0)
    for name, bias in biases(net):
        assert bool(bias.any()) == name.endswith(".score") == bias.requires_grad, name
    assert absorb_biases_(net) == convolutions
    torch.testing.assert_close(net(image()), after, rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_without_them_is_the_training_with_them(variant: str) -> None:
    def trained(absorbed: bool) -> tuple[list[float], dict[str, Tensor], list[Tensor]]:
        net = network(variant).train()
        convolutions = absorb_biases_(net) if absorbed else []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        joints = torch.tensor([[3.0, 4.0]], dtype=torch.float64).repeat(3, 5, 1)
        losses = []
        for step in range(4):
            torch.manual_seed(step)
            optimizer.zero_grad()
            with left_out(convolutions):
                maps = net(image())
                loss = torch.stack([ops.heatmap_loss(m, joints, torch.ones(3, 5).double()) for m in maps]).sum()
                loss.backward()
            optimizer.step()
            losses.append(loss.item())
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        net.eval()
        with torch.no_grad():
            return losses, gradients, net(image())

    losses, gradients, maps = trained(absorbed=False)
    own_losses, own_gradients, own_maps = trained(absorbed=True)
    assert own_losses == pytest.approx(losses, rel=1e-9)
    left = {name for name in gradients if name not in own_gradients}
    assert left == {f"{name}.bias" for name, _ in biases(network(variant)) if not name.endswith(".score")}
    for name in own_gradients:
        torch.testing.assert_close(own_gradients[name], gradients[name], rtol=1e-7, atol=1e-9)
    # The running means of one follow maps with the biases, those of the other maps without: the same function.
    torch.testing.assert_close(own_maps, maps, rtol=1e-7, atol=1e-9)
    for name in left:  # nothing but rounding errors
        assert gradients[name].abs().max() < 1e-9, name


class Wrapped(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


def test_a_network_with_a_foreign_part_is_left_alone() -> None:
    net = network("B*")
    net.stacks[1].hourglass.low1 = Wrapped(net.stacks[1].hourglass.low1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert absorb_biases_(net) == []
    assert absorb_biases_(nn.Sequential(nn.Conv2d(3, 4, 3))) == []
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(p.requires_grad for p in net.parameters())


def test_a_weight_that_is_computed_keeps_its_bias_out_of_training_too() -> None:
    net = network("B*")
    torch.nn.utils.parametrizations.weight_norm(net.stem.conv)
    net.eval()
    with torch.no_grad():
        before = net(image())
        convolutions = absorb_biases_(net)
        with left_out(convolutions):
            torch.testing.assert_close(net(image()), before, rtol=1e-9, atol=1e-9)
    assert net.stem.conv in convolutions


def test_biases_come_back_after_an_error() -> None:
    net = network("plain")
    names = set(net.state_dict())
    with pytest.raises(ZeroDivisionError), left_out(absorb_biases_(net)):
        assert set(net.state_dict()) < names
        raise ZeroDivisionError
    assert set(net.state_dict()) == names
