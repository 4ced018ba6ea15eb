"""A network that starts from another one's weights predicts what that one did, so far as both have it."""

from __future__ import annotations

import pytest
import torch

from pyranet_fast.checkpoint import Checkpoint
from pyranet_fast.errors import UserError
from pyranet_fast.keypoints import LSP, MPII, Skeleton
from pyranet_fast.models import PyraNet
from pyranet_fast.training.transfer import transferred

SMALL = {"features": 16, "depth": 1, "base_width": 4}


def trained(stacks: int, skeleton: Skeleton = LSP) -> tuple[PyraNet, Checkpoint]:
    torch.manual_seed(0)
    model = PyraNet(stacks, len(skeleton), **SMALL).eval()
    return model, Checkpoint(model.config, model.state_dict(), skeleton.as_value(), 32)


def started(start: Checkpoint, stacks: int, skeleton: Skeleton) -> PyraNet:
    model = PyraNet(stacks, len(skeleton), **SMALL).eval()
    model.load_state_dict(transferred(start, model.config, skeleton, "start.pt"))
    return model


@torch.inference_mode()
def test_joints_of_both_keep_their_maps():
    model, start = trained(2)
    image = torch.randn(2, 3, 32, 32)
    for old, new in zip(model(image), started(start, 2, MPII)(image), strict=True):
        for place, joint in enumerate(MPII.joints):
            name = {"upper neck": "neck"}.get(joint, joint)
            if name in LSP.joints:
                torch.testing.assert_close(new[:, place], old[:, LSP.index(name)])
        hips = old[:, [LSP.index("right hip"), LSP.index("left hip")]].mean(dim=1)
        torch.testing.assert_close(new[:, MPII.index("pelvis")], hips)


@torch.inference_mode()
@pytest.mark.parametrize("stacks", [1, 2])
def test_more_stacks_begin_as_copies_of_the_last(stacks):
    model, start = trained(stacks)
    image = torch.randn(2, 3, 32, 32)
    grown = started(start, stacks + 2, LSP)
    maps = grown(image)
    assert len(maps) == stacks + 2
    for old, new in zip(model(image), maps, strict=False):
        torch.testing.assert_close(new, old)
    for name, value in model.stacks[-1].state_dict().items():
        assert torch.equal(grown.stacks[-1].state_dict()[name], value)
    if stacks == 1:  # nothing was ever handed on: the copies see what the first one saw
        torch.testing.assert_close(maps[-1], maps[0])


def test_networks_that_are_not_alike_are_refused():
    _, start = trained(2)
    with pytest.raises(UserError, match=r"--stacks must be 2, .* --weights start\.pt .*, got 1"):
        started(start, 1, LSP)
    config = {**start.model, "variant": "B"}
    with pytest.raises(UserError, match=r"--variant must be 'B\*', .*, got 'B'"):
        transferred(start, config, LSP, "start.pt")
    dog = Skeleton("dog", ("nose", "tail"), (), ())
    with pytest.raises(UserError, match=r"--weights must predict the joints of the dataset, 'dog' .*, got 'lsp'"):
        transferred(start, {**start.model, "joints": 2}, dog, "start.pt")
