"""What a GPU would run and move, counted over tensors without values."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import gpu_model
from bench.gpu_model import Kernel, Rates, Work, counted
from pyranet_fast import ops
from pyranet_fast.errors import UserError
from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.models.optimized import folding

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
cuda_build = pytest.mark.skipif(not torch.version.cuda, reason="this torch is built without CUDA")
SMALL = Work(2, 64, {"features": 72, "depth": 2})
BF16, FP32 = torch.bfloat16, torch.float32


def maps(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda", memory_format=torch.channels_last)


def test_a_kernel_takes_the_longest_of_three_times():
    rates = Rates(kernel_s=2e-6, bytes_per_s=1e12, flop_per_s=1e14, narrow_flop_per_s=1e13, narrow=32)
    assert Kernel("small", {BF16: 1000}).seconds(rates) == 2e-6
    assert Kernel("streams", {BF16: 3_000_000, FP32: 2_000_000}).seconds(rates) == 5e-6
    assert Kernel("multiplies", {BF16: 1000}, flops=10**9, channels=32).seconds(rates) == 1e-5
    assert Kernel("narrow", {BF16: 1000}, flops=10**9, channels=31).seconds(rates) == 1e-4


def test_operators_become_kernels_and_bytes():
    with gpu_model.fake_cuda(), torch.no_grad():
        x, weight, bias = maps(2, 8, 4, 4), maps(16, 8, 3, 3), torch.empty(16, dtype=BF16, device="cuda")
        y = maps(2, 16, 4, 4)
        of_x, of_weight, of_y = 2 * x.numel(), 2 * weight.numel(), 2 * y.numel()

        assert F.conv2d(x, weight, padding=1).is_contiguous()  # which cuDNN would not make of it
        with gpu_model.Counting():
            assert F.conv2d(x, weight, padding=1).stride() == y.stride()
        (product,) = counted(lambda: F.conv2d(x, weight, padding=1)).kernels
        assert product.bytes == {BF16: of_x + of_weight + of_y}
        assert product.flops == 2 * y.numel() * 8 * 9 and product.channels == 8
        again, added = counted(lambda: F.conv2d(x, weight, bias, padding=1)).kernels
        assert again == product and added.bytes == {BF16: 2 * of_y + 32}
        places = [1, 1], [1, 1], [1, 1], 1
        (fused,) = counted(lambda: torch.cudnn_convolution_relu(x, weight, bias, *places)).kernels
        assert fused.bytes == product.bytes and fused.flops == product.flops
        (fused,) = counted(lambda: torch.cudnn_convolution_add_relu(x, weight, y, 1.0, bias, *places)).kernels
        assert fused.bytes == {BF16: of_x + of_weight + 2 * of_y} and fused.flops == product.flops

        rows, square = torch.empty(32, 8, dtype=BF16, device="cuda"), torch.empty(8, 16, dtype=BF16, device="cuda")
        total = torch.empty(32, 16, dtype=BF16, device="cuda")
        (product,) = counted(lambda: torch._addmm_activation(bias, rows, square)).kernels
        assert product.bytes == {BF16: 2 * (32 * 8 + 8 * 16 + 32 * 16 + 16)} and product.flops == 2 * 32 * 8 * 16
        (product,) = counted(lambda: total.addmm_(rows, square)).kernels
        assert product.bytes == {BF16: 2 * (32 * 8 + 8 * 16 + 2 * 32 * 16)}
        assert [k.flops for k in counted(lambda: torch.addmm(total, rows, square)).kernels] == [0, 2 * 32 * 8 * 16]

        assert counted(lambda: y.view(2, 16, 16).transpose(1, 2)).operators == 0
        assert counted(lambda: y.relu_()).bytes == {BF16: 2 * of_y}
        assert counted(lambda: y + bias.view(1, 16, 1, 1).expand_as(y)).bytes == {BF16: 2 * of_y + 32}
        indices = counted(lambda: F.max_pool2d(y, 2)).bytes[torch.int64]
        assert indices == 8 * y.numel() // 4
        assert counted(lambda: y.float()).bytes == {BF16: of_y, FP32: 2 * of_y}
        assert counted(lambda: y.cpu()).host == ["_to_copy"] and not counted(lambda: y + 1).host
        many = [torch.empty(4, device="cuda") for _ in range(200)]
        assert len(counted(lambda: torch._foreach_add_(many, 1.0)).kernels) == 2


@native
def test_inference_moves_less_once_folded_stays_bfloat16_and_never_waits():
    (plain,), (folded,) = (FORM(SMALL, [4]) for FORM in (gpu_model.unfolded, gpu_model.folded))
    assert sum(folded.bytes.values()) < 0.75 * sum(plain.bytes.values())
    assert len(folded.kernels) < 0.6 * len(plain.kernels) and folded.seconds() < plain.seconds()
    image, scores = 4 * 3 * 64 * 64, 2 * 4 * 16 * 16 * 16
    for count in (plain, folded):
        assert not count.host
        wide = [k for k in count.kernels if k.bytes.get(FP32, 0) > 4 * 100_000]
        assert all(k.operator == "_to_copy" for k in wide)  # the image as it comes, and no map
    norms = {"add_affine_relu", "upsample_sum_affine", "fractional_max_pool_pyramid"}
    parameters = sum(k.bytes.get(FP32, 0) for k in folded.kernels if k.operator in norms)
    assert folded.bytes[FP32] - parameters <= 4 * (image + scores) + 1000


@native
def test_biases_additions_and_relus_of_the_folded_network_are_no_kernels():
    """What is left beside products: norms, pools, sums of levels, the precision at both ends."""
    (count,) = gpu_model.folded(SMALL, [4])
    products = {"convolution", "cudnn_convolution_relu", "cudnn_convolution_add_relu", "addmm", "addmm_"}
    others = {"add_affine_relu", "fractional_max_pool_pyramid", "upsample_sum_affine", "_to_copy"}
    found = Counter(k.operator for k in count.kernels)
    assert set(found) == products | others | {"_addmm_activation"}
    assert found["_to_copy"] == SMALL.stacks + 1
    pyramids = found["upsample_sum_affine"]
    assert found["convolution"] == 5 * pyramids and found["cudnn_convolution_add_relu"] == pyramids
    assert count.bytes.get(torch.int64, 0) == 0  # max-pooling writes no indices


@native
def test_autocast_leaves_the_folded_network_in_its_precision():
    network = optimize_for_inference(PyraNet(1, **SMALL.options).eval(), "bf16")
    with gpu_model.fake_cuda(), torch.no_grad():
        gpu_model.on_fake_cuda(network)
        plain = counted(lambda: network(SMALL.image(1)))
        with torch.autocast("cuda", torch.float16):
            mixed = counted(lambda: network(SMALL.image(1)))
    assert mixed.kernels == plain.kernels


@native
def test_the_count_sees_an_operator_without_a_kernel(monkeypatch):
    (folded,) = gpu_model.folded(SMALL, [4])

    def in_float32(x, other, scale, shift, *, keep=False):
        total = x if other is None else other + 1
        made = [total.float().mul_(2).add_(1).relu_().to(x.dtype) for _ in range(len(scale))]
        return [total, *made] if keep else made

    monkeypatch.setattr(folding, "add_affine_relu", in_float32)
    (slow,) = gpu_model.folded(SMALL, [4])
    assert slow.bytes[FP32] > 10 * folded.bytes[FP32] and len(slow.kernels) > 1.3 * len(folded.kernels)


@native
def test_bytes_grow_with_the_batch_and_kernels_do_not():
    one, two, three = gpu_model.folded(SMALL, [1, 2, 3])
    assert [k.operator for k in one.kernels] == [k.operator for k in two.kernels]
    size = [sum(count.bytes.values()) for count in (one, two, three)]
    assert size[2] - size[1] == size[1] - size[0] > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_backward_without_autograd_s_engine_gives_the_same_gradients(layout):
    torch.manual_seed(0)
    network = PyraNet(2, 3, features=36, depth=1, levels=2, pool_windows="batch").to(memory_format=layout)
    image, joints, weight = torch.randn(2, 3, 32, 32), torch.rand(2, 3, 2) * 8, torch.ones(2, 3)
    found = []
    for run in (torch.Tensor.backward, gpu_model.backward):
        torch.manual_seed(1)
        network.zero_grad()
        run(torch.stack([ops.heatmap_loss(m, joints, weight) for m in network(image)]).sum())
        found.append([p.grad.clone() for p in network.parameters()])
    for engine, own in zip(*found, strict=True):
        torch.testing.assert_close(own, engine, rtol=1e-4, atol=1e-6)


def test_gradients_of_several_readers_are_added():
    x = torch.tensor([2.0], requires_grad=True)
    y = x * 3
    first, second = torch.stack([y, y * y]).unbind()
    gpu_model.backward((first + second * x).sum())
    assert x.grad.item() == 3 + 3 * 9 * 4  # of 3x + 9x³


@cuda_build
@native
def test_a_training_step_in_bfloat16():
    (step,) = gpu_model.training(SMALL, [4])
    names = {k.operator for k in step.kernels}
    assert {"convolution_backward", "heatmap_loss_backward", "fractional_max_pool_pyramid_backward"} <= names
    assert any(name.startswith("_foreach") for name in names) and not step.host
    assert step.bytes[FP32] < 0.5 * step.bytes[BF16]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in PyraNet(2, **SMALL.options).modules())
    assert sum(k.operator == "convolution_backward" for k in step.kernels) >= 2 * convolutions - 1


@native
def test_the_command_prints_a_table_for_each_mode(capsys):
    arguments = "--modes inference --stacks 1 --input-size 64 --batches 2 1 --operators 2"
    assert gpu_model.main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert "a model's prediction that no GPU has confirmed" in out and "on the host" not in out
    assert "| inference | ops | kernels | GB b2 | bf16 / fp32 / other | images/s b1 / b2 |" in out
    rows = [line for line in out.splitlines() if line.startswith(("| folded |", "| unfolded"))]
    assert len(rows) == 2 + 4


@native
def test_predictions_stand_beside_what_a_gpu_measured(tmp_path, capsys):
    (count,) = gpu_model.folded(Work(1, 64, {"features": 72, "depth": 2}), [4])
    row = {"part": "model", "mode": "inference", "form": "ours graphed bf16", "stacks": 1, "side": 64, "batch": 4,
           "features": 72, "depth": 2, "ms": 3e3 * count.seconds()}  # fmt: skip
    others = [{**row, "form": "ours bf16"}, {**row, "mode": "training"}, {**row, "part": "growth"}]
    content = {"machine": "a GPU", "parts": {"model": {"ceilings": {"copy_GB_per_s": 1}}}, "rows": [row, *others]}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(content))
    assert gpu_model.main(["--modes", "inference", "--results", str(path)]) == 0
    head, _, *body = capsys.readouterr().out.splitlines()
    assert head == "| a GPU | predicted, ms | measured, ms | measured / predicted |"
    assert body[0].startswith("| inference, 1 stacks, batch 4 |") and body[0].endswith("| 3.00 |") and body[1] == ""
    assert "copy_GB_per_s" in body[2] and "bytes_per_s" in body[2]
    with pytest.raises(UserError, match="there is no row of inference in the form 'ours graphed bf16'"):
        gpu_model.comparison({**content, "rows": others}, ["inference"])


@pytest.mark.skipif(bool(torch.version.cuda), reason="this torch is built with CUDA")
def test_a_step_asks_for_a_torch_with_cuda():
    with pytest.raises(UserError, match="needs a CUDA build of torch, but no GPU; this one is"):
        gpu_model.training(SMALL, [1])
