"""Maxima of averaged score maps of several scales: exact, inside the image, and the same however they are found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.inference import heatmaps as multiscale
from pyranet_fast.inference.heatmaps import SIX_SCALES, decode_scales


def scenes(n=3, k=4, size=16, scales=SIX_SCALES, noise=0.05, seed=0):
    """Maps with a bump a joint that the scales place a little differently, and crops somewhere in images."""
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0, noise, (n, len(scales), k, size, size))
    y, x = np.mgrid[:size, :size]
    for person, scale, joint in np.ndindex(maps.shape[:3]):
        u = np.random.default_rng((seed, person, joint)).uniform(-0.4, 0.4, 2)
        at_x, at_y = u * size / scales[scale] + (size - 1) / 2 + rng.normal(0, 0.4, 2)
        maps[person, scale, joint] += np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 2)
    sides = rng.uniform(60, 250, n)
    sizes = rng.integers(150, 300, (n, 2)).astype(float)
    centers = sizes * rng.uniform(0.3, 0.7, (n, 2))
    return torch.from_numpy(maps).float(), centers, sides, sizes


def mean_at(maps, scales, center, side, x, y):
    """The average of one joint's maps at image points, one bilinear read a scale and point: slow and obvious."""
    total = np.zeros((len(y), len(x)))
    size = maps.shape[-1]
    for one, scale in zip(maps, scales, strict=True):
        padded = np.pad(one.astype(np.float64), 2)
        for i, row in enumerate(y):
            for j, column in enumerate(x):
                at = (np.array([row - center[1], column - center[0]]) / (side * scale)) * size + (size - 1) / 2
                at = np.clip(at, -1, size) + 2
                (r, c), (dr, dc) = at.astype(int), at - at.astype(int)
                near = padded[r : r + 2, c : c + 2]
                total[i, j] += (near * np.outer([1 - dr, dr], [1 - dc, dc])).sum()
    return total / len(scales)


def crossings(scales, size, center, side, length):
    """Where the average of bilinear pieces can be largest along an axis: pixel centers of any map, and the border."""
    pixels = np.arange(-1, size + 1) - (size - 1) / 2
    lines = np.concatenate([center + side * scale * pixels / size for scale in scales])
    return np.unique(np.clip(lines, 0, length - 1))


@pytest.mark.parametrize("scales, size", [(SIX_SCALES, 8), ((0.7, 1.0), 9), ((1.0,), 6)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_exact_maximum_is_found(scales, size, noise):
    maps, centers, sides, sizes = scenes(2, 2, size, scales, noise)
    joints, scores = decode_scales(maps, scales, centers, sides, sizes)
    for person, joint in np.ndindex(2, 2):
        x = crossings(scales, size, centers[person, 0], sides[person], sizes[person, 0])
        y = crossings(scales, size, centers[person, 1], sides[person], sizes[person, 1])
        mean = mean_at(maps[person, :, joint].numpy(), scales, centers[person], sides[person], x, y)
        row, column = np.unravel_index(mean.argmax(), mean.shape)
        np.testing.assert_allclose(joints[person, joint], [x[column], y[row]], atol=1e-3)
        np.testing.assert_allclose(scores[person, joint], mean.max(), rtol=1e-5)
        # Nowhere on a fine grid is it larger.
        fine = [np.linspace(0, sizes[person, axis] - 1, 60) for axis in (0, 1)]
        assert mean_at(maps[person, :, joint].numpy(), scales, centers[person], sides[person], *fine).max() <= (
            scores[person, joint] + 1e-5
        )


def test_it_agrees_with_maps_warped_onto_the_whole_image():
    maps, centers, sides, sizes = scenes(3, 4, 32)
    joints, scores = decode_scales(maps, SIX_SCALES, centers, sides, sizes)
    for person, joint in np.ndindex(3, 4):
        width, height = (int(v) for v in sizes[person])
        whole = np.zeros((height, width))
        for one, scale in zip(maps[person, :, joint].double().numpy(), SIX_SCALES, strict=True):
            pixel = sides[person] * scale / 32
            corner = centers[person] - pixel * 31 / 2
            to_image = np.array([[pixel, 0, corner[0]], [0, pixel, corner[1]]])
            # OpenCV rounds the places it reads to 1/32 of a pixel.
            whole += cv2.warpAffine(one, to_image, (width, height), flags=cv2.INTER_LINEAR) / len(SIX_SCALES)
        x, y = np.rint(joints[person, joint]).astype(int)
        row, column = np.unravel_index(whole.argmax(), whole.shape)
        assert np.abs(joints[person, joint] - (column, row)).max() < 0.15 * sides[person] / 32 + 1
        assert whole.max() <= scores[person, joint] + 0.01
        assert abs(whole[y, x] - scores[person, joint]) < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_blocks_left_out_do_not_matter(noise, monkeypatch):
    maps, *where = scenes(3, 5, 16, noise=noise)
    results = []
    for block, at_once in ((16, 1024), (3, 7), (10**6, 1)):
        monkeypatch.setattr(multiscale, "_BLOCK", block)
        monkeypatch.setattr(multiscale, "_AT_ONCE", at_once)
        monkeypatch.setattr(multiscale, "_lines", multiscale._lines.__wrapped__)
        results.append(decode_scales(maps, SIX_SCALES, *where))
        monkeypatch.undo()
    for joints, scores in results[1:]:
        np.testing.assert_allclose(joints, results[0][0], atol=1e-4)
        np.testing.assert_allclose(scores, results[0][1], rtol=1e-5)


def test_joints_stay_inside_the_image():
    maps, _centers, sides, _ = scenes(2, 6, 16)
    sizes = np.array([[40.0, 25.0], [1.0, 1.0]])
    joints, _ = decode_scales(maps, SIX_SCALES, np.array([[35.0, 20.0], [900.0, -500.0]]), sides, sizes)
    assert (joints[0] >= 0).all() and (joints[0] <= sizes[0] - 1).all()
    assert np.isfinite(joints).all()


def test_equal_maxima_nan_and_nobody():
    maps, *where = scenes(2, 3, 8)
    maps[0, 2, 1, 3, 3] = torch.nan
    maps[1, :, 0] = 0.25
    joints, scores = decode_scales(maps, SIX_SCALES, *where)
    assert np.isnan(joints[0, 1]).all() and np.isnan(scores[0, 1])
    assert np.isfinite(joints[0, [0, 2]]).all() and np.isfinite(joints[1]).all()
    assert scores[1, 0] == pytest.approx(0.25)
    again, _ = decode_scales(maps, SIX_SCALES, *where)
    np.testing.assert_array_equal(joints, again)
    nobody, none = decode_scales(
        torch.zeros(0, 6, 3, 8, 8), SIX_SCALES, np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2))
    )
    assert nobody.shape == (0, 3, 2) and none.shape == (0, 3)


def test_bad_arguments_are_named():
    maps, centers, sides, sizes = scenes(2, 3, 8)
    with pytest.raises(ValueError, match=r"maps must have .* for scales \(1.0, 2.0\), got \(2, 6, 3, 8, 8\)"):
        decode_scales(maps, (1.0, 2.0), centers, sides, sizes)
    with pytest.raises(ValueError, match=r"centers must be finite numbers of shape \(2, 2\), got shape \(1, 2\)"):
        decode_scales(maps, SIX_SCALES, centers[:1], sides, sizes)
    with pytest.raises(ValueError, match=r"sides must be finite numbers of shape \(2,\), got shape \(2,\)"):
        decode_scales(maps, SIX_SCALES, centers, sides * np.nan, sizes)
