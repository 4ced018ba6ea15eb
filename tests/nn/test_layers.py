import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyranet_fast.nn import BatchNormReLU


def randomise(bn: nn.BatchNorm2d) -> None:
    """Affine parameters and statistics that all matter."""
    with torch.no_grad():
        bn.weight.uniform_(-1.5, 1.5)
        bn.bias.uniform_(-1, 1)
        bn.running_mean.uniform_(-1, 1)
        bn.running_var.uniform_(0.2, 2)


@pytest.mark.parametrize("training", [True, False])
def test_is_relu_of_batch_norm_and_shares_its_state_dict(training):
    torch.manual_seed(0)
    plain, fused = nn.BatchNorm2d(5), BatchNormReLU(5)
    randomise(plain)
    fused.load_state_dict(plain.state_dict(), strict=True)
    plain.train(training), fused.train(training)
    x = torch.randn(3, 5, 4, 6, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    expected, got = F.relu(plain(x)), fused(y)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(fused.weight.grad, plain.weight.grad)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(fused.running_var, plain.running_var)


def test_folded_is_the_norm_in_evaluation():
    torch.manual_seed(0)
    bn = BatchNormReLU(5)
    randomise(bn)
    bn.eval()
    x = torch.randn(2, 5, 3, 3)
    scale, shift = bn.folded()
    torch.testing.assert_close(F.relu(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)), bn(x))
    assert all(v.dtype == torch.float32 for v in bn.bfloat16().folded())


def test_folded_refuses_batch_statistics():
    assert not BatchNormReLU(2).foldable
    assert not BatchNormReLU(2, track_running_stats=False).eval().foldable
    with pytest.raises(RuntimeError, match="folds only in evaluation"):
        BatchNormReLU(2).folded()
