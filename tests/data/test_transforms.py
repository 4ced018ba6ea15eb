"""The crop's geometry, seen in pixels as well as in formulas; the augmentation's distributions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.data import Augmentation, crop, crop_matrix, normalize
from pyranet_fast.data.transforms import MEAN, apply_gains, from_map, invert, to_map, transform_points


def test_matrix_without_rotation_is_the_stated_formula():
    matrix = crop_matrix((70.0, 40.0), 0.8, 0.0, 128)
    points = np.array([[70.0, 40.0], [0.0, 0.0], [101.5, 9.25]])
    expected = (points - [70.0, 40.0]) * 128 / 160 + 127 / 2
    np.testing.assert_allclose(transform_points(matrix, points), expected, atol=1e-10)


def test_rotation_is_counter_clockwise_and_keeps_lengths():
    matrix = crop_matrix((50.0, 50.0), 0.5, 90.0, 100)
    # What was to the right of the center is above it (y grows downward).
    np.testing.assert_allclose(transform_points(matrix, [60.0, 50.0]), [49.5, 39.5], atol=1e-10)


def test_flip_mirrors_input_pixels():
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    plain = transform_points(crop_matrix((50, 50), 0.6, 25, 64), points)
    mirrored = transform_points(crop_matrix((50, 50), 0.6, 25, 64, flip=True), points)
    np.testing.assert_allclose(mirrored, np.stack([63 - plain[:, 0], plain[:, 1]], axis=1), atol=1e-10)


def test_map_pixels_are_the_middles_of_four_input_pixels():
    assert to_map([1.5, 5.5]).tolist() == [0.0, 1.0]
    points = np.random.default_rng(1).uniform(0, 255, (7, 2))
    np.testing.assert_allclose(from_map(to_map(points)), points)
    # Mirroring the input mirrors the map, without a shift.
    np.testing.assert_allclose(to_map(127 - points), 31 - to_map(points))


def test_invert():
    matrix = crop_matrix((31, 17), 0.4, -38, 96, flip=True)
    points = np.random.default_rng(2).uniform(0, 96, (9, 2))
    np.testing.assert_allclose(transform_points(matrix, transform_points(invert(matrix), points)), points)


def centroid(image: np.ndarray) -> np.ndarray:
    """Brightness-weighted middle of a picture of one bright dot."""
    weight = image.astype(float).sum(axis=2)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 30.0, -77.0])
@pytest.mark.parametrize("scale", [0.35, 0.8, 1.55, 3.0])
def test_a_dot_lands_where_the_matrix_says(scale, rotation, flip):
    dot = (213.0, 178.0)
    image = np.zeros((400, 380, 3), dtype=np.uint8)
    cv2.circle(image, (213, 178), 6, (255, 255, 255), -1)
    matrix = crop_matrix((200.0, 190.0), scale, rotation, 128, flip)
    result = crop(image, matrix, 128, border=(0, 0, 0))
    assert result.shape == (128, 128, 3) and result.dtype == np.uint8
    np.testing.assert_allclose(centroid(result), transform_points(matrix, dot), atol=0.1)


def test_border_is_the_data_mean():
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    result = crop(image, crop_matrix((10, 10), 1.0, 0, 64), 64)
    assert result[0, 0].tolist() == [round(255 * m) for m in MEAN]
    assert result[32, 32].tolist() == [0, 0, 0]
    far = crop(image, crop_matrix((5000, 10), 1.0, 0, 64), 64)
    assert np.all(far == result[0, 0])
    assert np.all(crop(image, crop_matrix((9000, 10), 9.0, 0, 64), 64) == result[0, 0])  # reduced first


def test_shrinking_averages_instead_of_skipping():
    # One pixel in six is white: bilinear taps alone would show stripes.
    image = np.zeros((600, 600, 3), dtype=np.uint8)
    image[:, ::6] = 255
    result = crop(image, crop_matrix((300, 300), 2.9, 0, 64), 64)[8:-8, 8:-8]
    assert abs(result.mean() - 255 / 6) < 3
    assert result.std() < 25


def test_gains_are_rounded_and_clipped():
    image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    result = apply_gains(image, (1.2, 0.8, 1.0))[:, 0].astype(float)
    steps = np.arange(256.0)
    np.testing.assert_array_equal(result[:, 2], steps)
    assert np.abs(result[:, 0] - np.minimum(1.2 * steps, 255)).max() <= 0.5 + 1e-4
    assert np.abs(result[:, 1] - 0.8 * steps).max() <= 0.5 + 1e-4


def test_augmentation_has_the_stated_distributions():
    rng = np.random.default_rng(0)
    draws = [Augmentation().draw(rng) for _ in range(4000)]
    scales, angles = np.array([d.scale for d in draws]), np.array([d.rotation for d in draws])
    gains, flips = np.array([d.gains for d in draws]), np.array([d.flip for d in draws])
    assert scales.min() == 0.75 and scales.max() == 1.25
    # Clamped at one deviation: 15.9 % at either end.
    assert abs(np.mean(scales == 1.25) - 0.159) < 0.025
    assert abs(np.mean(angles != 0) - 0.4) < 0.03
    assert np.abs(angles).max() == 60 and abs(np.std(angles[angles != 0]) - 28.8) < 1.8
    assert 0.8 <= gains.min() < 0.81 and 1.19 < gains.max() <= 1.2
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.06
    assert abs(flips.mean() - 0.5) < 0.03


def test_augmentation_off_changes_nothing():
    draw = Augmentation(scale=0, rotation_probability=0, flip=0, color=0).draw(np.random.default_rng(0))
    assert (draw.scale, draw.rotation, draw.flip, draw.gains) == (1.0, 0.0, False, (1.0, 1.0, 1.0))


def test_reach_covers_every_draw():
    augmentation = Augmentation()
    rng = np.random.default_rng(5)
    corners = [(x, y) for x in (-0.5, 63.5) for y in (-0.5, 63.5)]
    widest = 0.0
    for _ in range(2000):
        draw = augmentation.draw(rng)
        matrix = crop_matrix((0, 0), draw.scale / 200, draw.rotation, 64)  # a crop side of 1
        widest = max(widest, np.abs(transform_points(invert(matrix), corners)).max())
    assert 0.95 * augmentation.reach < widest <= augmentation.reach + 1e-6


@pytest.mark.parametrize("name", ["scale", "rotation", "rotation_probability", "flip", "color"])
def test_augmentation_refuses_nonsense(name):
    with pytest.raises(ValueError, match=f"{name} must lie in 0.*, got -1"):
        Augmentation(**{name: -1})


def test_normalize():
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = images.double() / 255 - torch.tensor(MEAN).double().view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(images).double(), expected, atol=1e-6, rtol=0)
    assert normalize(images, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(N, 3, H, W\), got torch.float32"):
        normalize(images.float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0, 64), "scale must be positive, got -1"), ((1, 0, 0), "input_size must be at least 1, got 0")],
)
def test_matrix_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        crop_matrix((0, 0), *arguments)
