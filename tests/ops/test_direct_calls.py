"""Operators called past their public functions: wrong arguments are refused, and nothing dies."""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import struct

import pytest
import torch

from pyranet_fast.ops import dispatch

from .direct_calls import call, calls, described, valid_arguments
from .testing import native_only

pytestmark = [
    native_only,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked"),
    pytest.mark.filterwarnings("ignore"),
]
CALLS = 150


def test_every_operator_is_called() -> None:
    names = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("pyranet_fast::")}
    here = {n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(f"pyranet_fast::{n}", "CPU")}
    assert here == {*valid_arguments()}


@pytest.mark.parametrize("name", sorted(valid_arguments()) if dispatch.native.here else [])
def test_wrong_arguments_are_refused_and_nothing_dies(name: str) -> None:
    """In a child with little memory, which tells how far it came."""
    progress = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()  # a crash is the parent's to tell
            torch.set_num_threads(1)
            used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE if os.path.exists("/proc") else 0
            resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
            taken = 0
            for number, arguments in enumerate(calls(name, CALLS, 0)):
                progress[:4] = struct.pack("i", number)
                valid = call(name, arguments)
                assert valid or number > 0, "the valid call is refused"
                taken += valid
            progress[4:] = struct.pack("i", taken)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    at, taken = struct.unpack("ii", progress[:])
    if status != 0:
        arguments = list(calls(name, at + 1, 0))[-1]
        pytest.fail(f"status {status:#x} of call {at}: {name}({', '.join(map(described, arguments))})")
    assert 1 <= taken < CALLS


REFUSED = {
    "running_mean of other sizes": (
        "batch_norm_update_",
        lambda a: [torch.zeros(3), *a[1:]],
        "running_mean must be contiguous, of the shape",
    ),
    "running averages of another dtype": (
        "batch_norm_update_",
        lambda a: [a[0].double(), a[1].double(), *a[2:]],
        "running_mean must be contiguous, of the shape, dtype",
    ),
    "a counter of 32 bits": ("batch_norm_update_", lambda a: [*a[:2], a[2].int(), *a[3:]], "batches must be one int64"),
    "averages of other sizes": (
        "batch_norm_relu_update_",
        lambda a: [*a[:4], a[4][:3], *a[5:]],
        "running_var must be contiguous, of the shape",
    ),
    "two counters": (
        "batch_norm_relu_update_",
        lambda a: [*a[:5], torch.zeros(2, dtype=torch.int64), *a[6:]],
        "batches must be one int64",
    ),
    "weight in half precision": ("batch_norm_relu", lambda a: [a[0], a[1].half(), *a[2:]], "weight must be float32"),
    "gradient of another map": (
        "batch_norm_relu_backward",
        lambda a: [a[0][:1], *a[1:]],
        "grad must have the shape, dtype and device of x",
    ),
    "mean of fewer channels": ("batch_norm_relu_backward", lambda a: [*a[:4], a[4][:2], *a[5:]], "mean must be"),
    "extra of another dtype": (
        "shared_batch_norm_relu_backward",
        lambda a: [a[0], a[1].bfloat16(), *a[2:]],
        "extra must have the shape, dtype",
    ),
    "extra of another map": (
        "shared_batch_norm_relu_backward",
        lambda a: [a[0], a[1][:, :, :2], *a[2:]],
        "extra must have the shape",
    ),
    "samples in half precision": (
        "fractional_max_pool_pyramid",
        lambda a: [a[0], a[1].half(), *a[2:]],
        "samples must be float32 or float64",
    ),
    "positions of another dtype": (
        "fractional_max_pool_pyramid_backward",
        lambda a: [a[0], a[1].int(), *a[2:]],
        "positions must be uint8",
    ),
    "x of as many elements": (
        "fractional_max_pool_pyramid_backward",
        lambda a: [*a[:3], a[3].transpose(2, 3), *a[4:]],
        "x must have the shape and device of positions",
    ),
    "channels that overflow": (
        "winograd_pack",
        lambda a: [torch.empty(2**62, 0, 3, 3), 4, False],
        "a number of channels is",
    ),
    "outputs that overflow": ("winograd_conv3x3", lambda a: [*a[:4], 2**63 - 1, True], "a number of channels is"),
    "a bias of two axes": ("winograd_conv3x3", lambda a: [*a[:2], a[2][:, None], *a[3:]], r"bias must be \(K,\)"),
    "maps of absurd size": (
        "heatmap_argmax",
        lambda a: [torch.empty(0, 1, 2**40, 2**10), True],
        "height and width must be [0-9]+ to [0-9]+, got 1099511627776",
    ),
    "a program that is cut off": (
        "run_folded",
        lambda a: [a[0], a[1][:-1], a[2]],
        "program ends within an instruction",
    ),
    "a list longer than its program": ("run_folded", lambda a: [a[0], [3, 2**40], a[2]], "ends within an instruction"),
    "an unknown instruction": ("run_folded", lambda a: [a[0], [4], []], "program has instruction 4; expected 0 to 3"),
    "a place that is not there": ("run_folded", lambda a: [a[0], [], [2**40]], "program has place 1099511627776 of 9"),
    "a place that was forgotten": ("run_folded", lambda a: [a[0], [3, 1, 0], [0]], "reads place 0, where nothing is"),
    "a value that would be overwritten": (
        "run_folded",
        lambda a: [a[0], [2, 0, *(4, 5, 4, 8, 7), *(1, 6), *(1, 7), 8, 4, 0], []],
        "program overwrites value 0",
    ),
    "a sigma of 0": ("gaussian_heatmaps", lambda a: [*a[:4], 0.0], "sigma is 0"),
    "a sigma that is NaN": ("heatmap_loss", lambda a: [*a[:3], float("nan")], "sigma is nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sentences(case: str) -> None:
    name, change, sentence = REFUSED[case]
    with pytest.raises(RuntimeError, match=sentence):
        getattr(torch.ops.pyranet_fast, name)(*change(valid_arguments()[name]()))
