"""Known Gaussians come back as joints; the flip test aligns both pictures exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast import ops
from pyranet_fast.data.transforms import crop_matrix, invert, to_map, transform_points
from pyranet_fast.inference.heatmaps import decode, prepare_model, score_maps
from pyranet_fast.models import InferencePyraNet, PyraNet
from pyranet_fast.pose import LSP, MPII

SIZE = 64


class Oracle(nn.Module):
    """Gives Gaussians at known places; a white pixel in the corner tells it that it is shown the mirror.

    ``seen`` and ``seen_mirrored`` say which joints it finds in each.
    """

    def __init__(self, points, skeleton, seen=None, seen_mirrored=None):
        super().__init__()
        self.points = torch.as_tensor(points, dtype=torch.float32)
        self.order = skeleton.flip_permutation
        everything = torch.ones(self.points.shape[:2])
        self.seen = everything if seen is None else seen
        self.seen_mirrored = everything if seen_mirrored is None else seen_mirrored
        self.batches = []

    def forward(self, x):
        self.batches.append(x)
        side = SIZE // 4
        repeat = len(x) // len(self.points)
        straight = self.points.repeat(repeat, 1, 1)
        mirrored = straight.clone()
        mirrored[..., 0] = (side - 1) - mirrored[..., 0]
        is_mirror = x[:, 0, 0, 0] < x[:, 0, 0, -1]
        points = torch.where(is_mirror[:, None, None], mirrored[:, self.order], straight)
        seen = torch.where(
            is_mirror[:, None],
            self.seen_mirrored.repeat(repeat, 1)[:, self.order],
            self.seen.repeat(repeat, 1),
        )
        maps = ops.gaussian_heatmaps(points, seen, (side, side))
        return [torch.zeros_like(maps), maps]


def marked(count):
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    images[:, :, 0, 0] = 255
    return images


def people(skeleton, seed=0, count=3):
    """Joints in image pixels with the crops around them, some far off the image's origin."""
    rng = np.random.default_rng(seed)
    centers = np.array([[320.0, 200.5], [-40.25, 33.0], [2500.0, 10.0]])[:count]
    scales = np.array([0.9, 2.3, 0.37])[:count]
    matrices = np.stack([crop_matrix(c, s, 0.0, SIZE) for c, s in zip(centers, scales, strict=True)])
    half = 200 * scales[:, None, None] / 2
    joints = centers[:, None] + rng.uniform(-0.85, 0.85, (count, len(skeleton), 2)) * half
    return joints, matrices, 200 * scales / SIZE


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_known_joints_come_back(skeleton, flip):
    joints, matrices, pixel = people(skeleton)
    points = np.stack([to_map(transform_points(m, j)) for m, j in zip(matrices, joints, strict=True)])
    maps = score_maps(Oracle(points, skeleton), marked(3), skeleton, flip=flip)
    found, scores = decode(maps, np.stack([invert(m) for m in matrices]))
    assert found.shape == joints.shape and found.dtype == scores.dtype == np.float32
    # A quarter of a map pixel is as near as the quarter-pixel rule can come: one input pixel.
    error = np.abs(found - joints).max(axis=(1, 2)) / pixel
    assert (error <= 1.01).all()
    assert scores.min() > np.exp(-0.5 * 2 * 0.5**2) - 1e-3


def test_points_on_the_quarter_grid_come_back_exactly():
    quarters = np.array(
        [(x + dx, y + dy) for x, y in [(3, 4), (9, 12)] for dx in (-0.25, 0.25) for dy in (-0.25, 0.25)]
    )
    points = np.concatenate([quarters, [[5.0, 5.0], [0.0, 15.0], [15.0, 0.0]], [[7.25, 8.0]] * 3])[None]
    maps = score_maps(Oracle(points, LSP), marked(1), LSP)
    matrix = crop_matrix((812.0, 33.5), 1.7, 0.0, SIZE)
    found, _ = decode(maps, torch.from_numpy(invert(matrix))[None])
    expected = transform_points(invert(matrix), (points[0] + 0.5) * 4 - 0.5)
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_each_picture_supplies_what_the_other_misses():
    points = np.random.default_rng(1).uniform(2, 13, (2, len(MPII), 2))
    seen = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (2, len(MPII)))).float()
    both = Oracle(points, MPII, seen, 1 - seen)
    half = score_maps(both, marked(2), MPII, flip=True)
    full = score_maps(Oracle(points, MPII), marked(2), MPII, flip=False)
    torch.testing.assert_close(half, full / 2)
    assert len(both.batches) == 1 and len(both.batches[0]) == 4  # image and mirror in one batch


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, len(LSP), 7, stride=4, padding=3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.conv(x))


def test_flip_test_commutes_with_mirroring_for_any_network():
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    model = Random()
    straight = score_maps(model, images, LSP)
    mirrored = score_maps(model, images.flip(3), LSP)
    torch.testing.assert_close(mirrored.flip(3)[:, LSP.flip_permutation], straight)
    assert not torch.allclose(straight, score_maps(model, images, LSP, flip=False))


def test_the_network_sees_normalized_images_in_eval_mode_and_keeps_its_mode():
    model = Random().train()
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    first = score_maps(model, images, LSP, flip=False)
    torch.testing.assert_close(first, score_maps(model, images, LSP, flip=False))
    assert model.training
    mean = torch.tensor([0.4404, 0.4440, 0.4327]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(first, model.conv(images / 255 - mean))
    low = score_maps(model, images, LSP, flip=False, precision="bf16")
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, first, atol=0.05, rtol=0.05)
    assert not torch.equal(low, first)


def test_empty_batches_pass():
    maps = score_maps(Random(), torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8), LSP)
    joints, scores = decode(maps, np.zeros((0, 2, 3)))
    assert joints.shape == (0, 14, 2) and scores.shape == (0, 14)


def test_bad_arguments_get_a_sentence():
    images = marked(1)
    with pytest.raises(TypeError, match="float32"):
        score_maps(Random(), images.float(), LSP)
    with pytest.raises(TypeError, match="ndarray"):
        score_maps(Random(), images.numpy(), LSP)
    with pytest.raises(ValueError, match=r"\(3, 64, 64\)"):
        score_maps(Random(), images[0], LSP)
    with pytest.raises(ValueError, match=r"precision must be .*, got 'fp8'"):
        score_maps(Random(), images, LSP, precision="fp8")
    with pytest.raises(ValueError, match="skeleton 'mpii'"):
        score_maps(Random(), images, MPII)
    with pytest.raises(ValueError, match=r"inverse must have shape .*, got \(2, 3\)"):
        decode(torch.zeros(1, 14, 4, 4), np.zeros((2, 3)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_is_folded_wherever_predictions_are_made(precision):
    """ "meta" stands for a GPU."""
    for device in (torch.device("cpu"), torch.device("meta")):
        network, autocast = prepare_model(PyraNet(1, 3, features=24, depth=1), device, precision)
        assert isinstance(network, InferencePyraNet) and autocast == "fp32" and network.precision == precision
        assert {t.device.type for t in (*network.parameters(), *network.buffers())} == {device.type}
    plain, autocast = prepare_model(nn.Conv2d(3, 3, 1), torch.device("meta"), precision)
    assert isinstance(plain, nn.Conv2d) and autocast == precision
