"""Skeletons land where the joints are, in the colors of their sides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pyranet_fast.pose import LSP, MPII, Skeleton
from pyranet_fast.visualization import COLORS, contact_sheet, draw_crop, draw_heatmaps, draw_pose, draw_poses

GREY = 90


def canvas(height=400, width=300):
    return np.full((height, width, 3), GREY, np.uint8)


def near(image, x, y, color, reach=2):
    """Whether a pixel of the color lies within ``reach`` of the point."""
    part = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].reshape(-1, 3)
    return bool((np.abs(part.astype(int) - color).max(axis=1) <= 12).any())


def spread(skeleton, height=400, width=300):
    """Joints far apart, so that nothing covers anything."""
    angle = np.linspace(0, 2 * np.pi, len(skeleton), endpoint=False)
    return np.stack([width / 2 + 0.4 * width * np.cos(angle), height / 2 + 0.4 * height * np.sin(angle)], axis=1)


@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_joints_are_drawn_at_their_places_in_the_color_of_their_side(skeleton):
    image, joints = canvas(), spread(skeleton)
    drawn = draw_pose(image, joints, None, skeleton, long_side=None)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == GREY).all()
    for name, side, (x, y) in zip(skeleton.joints, skeleton.sides, joints, strict=True):
        assert side == (name.split()[0] if name.split()[0] in ("left", "right") else "center")
        assert near(drawn, round(x), round(y), COLORS[side]), name


def test_given_pairs_have_two_colors_whatever_their_names():
    skeleton = Skeleton("fish", ("fin 1", "fin 2", "tail"), ((0, 1),), ((0, 2), (1, 2)))
    joints = spread(skeleton)
    drawn = draw_pose(canvas(), joints, None, skeleton, long_side=None)
    for (x, y), side in zip(joints, ("left", "right", "center"), strict=True):
        assert near(drawn, round(x), round(y), COLORS[side])
    for a, side in ((0, "left"), (1, "right")):
        x, y = np.rint(joints[[a, 2]].mean(axis=0)).astype(int)
        assert near(drawn, x, y, COLORS[side])


def test_every_bone_is_drawn():
    joints = spread(MPII)
    for a, b in MPII.bones:
        only = np.full((len(MPII), 2), np.nan)
        only[[a, b]] = joints[[a, b]]
        drawn = draw_pose(canvas(), only, None, MPII, long_side=None)
        x, y = np.rint(joints[[a, b]].mean(axis=0)).astype(int)
        sides = {MPII.sides[a], MPII.sides[b]} - {"center"}
        color = COLORS[sides.pop()] if len(sides) == 1 else COLORS["center"]
        assert near(drawn, x, y, color), (MPII.joints[a], MPII.joints[b])


def test_low_scores_are_hollow_and_faint_and_nan_is_not_drawn():
    joints = spread(LSP)
    scores = np.ones(len(LSP))
    scores[0] = 0.05
    certain = draw_pose(canvas(), joints, None, LSP, long_side=None)
    doubtful = draw_pose(canvas(), joints, scores, LSP, long_side=None)
    x, y = np.rint(joints[0]).astype(int)
    assert near(certain, x, y, COLORS["right"], 0)
    assert not near(doubtful, x, y, COLORS["right"], 0)
    x, y = np.rint(joints[[0, 1]].mean(axis=0)).astype(int)
    change = [np.abs(drawn[y, x].astype(int) - GREY).max() for drawn in (certain, doubtful)]
    assert 0 < change[1] < 0.6 * change[0]
    np.testing.assert_array_equal(draw_pose(canvas(), np.full((14, 2), np.nan), None, LSP, long_side=None), canvas())


def test_small_images_are_enlarged_and_large_ones_reduced():
    joints = np.full((14, 2), np.nan)
    joints[13] = (15.0, 3.0)  # head top
    drawn = draw_pose(canvas(20, 30), joints, None, LSP)
    assert drawn.shape == (341, 512, 3)
    zoom = 512 / 30
    assert near(drawn, round(15.5 * zoom - 0.5), round(3.5 * zoom - 0.5), COLORS["center"])
    assert draw_pose(canvas(3000, 100), joints, None, LSP).shape == (2048, 68, 3)
    assert draw_pose(canvas(1, 1), joints, None, LSP).shape == (512, 512, 3)
    assert draw_pose(canvas(1, 5000), joints, None, LSP).shape == (1, 2048, 3)


def test_joints_far_outside_are_harmless():
    joints = spread(LSP)
    joints[3] = (1e12, -1e12)
    joints[4] = (-np.inf, 5)
    assert draw_pose(canvas(), joints, None, LSP, long_side=None).shape == (400, 300, 3)


def test_a_sheet_fits_every_image_into_its_cell():
    reds = np.zeros((10, 40, 3), np.uint8)
    reds[..., 0] = 255
    blues = np.zeros((900, 300, 3), np.uint8)
    blues[..., 2] = 255
    sheet = contact_sheet([reds, blues, reds], columns=2, cell=64)
    assert sheet.shape == (2 * 66 + 2, 2 * 66 + 2, 3)
    red, blue = (sheet == (255, 0, 0)).all(axis=2), (sheet == (0, 0, 255)).all(axis=2)
    assert red[34, 2:66].all() and red[:, 2].sum() == 2 * 16
    assert blue[2:66, 100].all() and blue[34].sum() == 21
    assert not red[68:, 70:].any()
    with_text = contact_sheet([reds, blues], columns=2, cell=64, captions=["one", "a very long caption, 照片"])
    assert with_text.shape[0] > sheet.shape[0] // 2 + 1
    assert (with_text[68:] > 150).all(axis=2).any()


def test_bad_arguments_get_a_sentence():
    with pytest.raises(ValueError, match=r"mpii.*, got \(14, 2\)"):
        draw_pose(canvas(), np.zeros((14, 2)))
    with pytest.raises(ValueError, match=r"scores must have shape .*, got \(3,\)"):
        draw_pose(canvas(), np.zeros((16, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="images is empty"):
        contact_sheet([], 2)
    with pytest.raises(ValueError, match="columns is 0"):
        contact_sheet([canvas()], 0)
    with pytest.raises(ValueError, match="captions must have one line per image, got 2"):
        contact_sheet([canvas()], 1, captions=["a", "b"])


# What eyes without one kind of cone see, as maps of linear RGB (Machado, Oliveira, Fernandes 2009, severity 1).
COLOR_BLIND = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eyes", COLOR_BLIND)
def test_the_sides_are_told_apart_by_color_blind_eyes(eyes):
    encoded = np.array(list(COLORS.values())) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOR_BLIND[eyes]).T, 0, 1).astype(np.float32)
    lab = cv2.cvtColor(seen[None], cv2.COLOR_LRGB2Lab)[0]
    right, left, center = (lab[list(COLORS).index(side)] for side in ("right", "left", "center"))
    assert np.linalg.norm(right - left) > 100  # CIE 1976 differences; 2.3 can just be told apart
    assert min(np.linalg.norm(right - center), np.linalg.norm(left - center)) > 40


def test_several_people_are_drawn_as_one_after_the_other():
    joints = spread(LSP)
    both = draw_poses(canvas(), [(joints / 2, None), (joints / 2 + (150, 0), None)], LSP)
    once = draw_pose(canvas(), joints / 2, None, LSP)
    np.testing.assert_array_equal(both[:, :180], once[:, :180])
    assert not np.array_equal(both, once)
    np.testing.assert_array_equal(
        draw_poses(canvas(), [], LSP), draw_pose(canvas(), np.full((14, 2), np.nan), None, LSP)
    )


def test_a_crop_and_its_heatmaps_lie_over_each_other():
    image = canvas()
    image[200:220, 100:120] = 255  # a white spot, and the map of the first joint has its peak there
    to_image = np.array([[4.0, 0, 60], [0, 4.0, 150]])  # map pixel (12, 15) is image pixel (108, 210)
    maps = np.zeros((14, 32, 32), np.float32)
    maps[0, 15, 12] = 0.9
    seen = draw_crop(image, to_image, 32, 256)
    assert seen.shape == (256, 256, 3)
    white = np.argwhere(seen[..., 0] > 250).mean(axis=0)
    np.testing.assert_allclose(white, [8 * (209.5 - 150) / 4 + 3.5, 8 * (109.5 - 60) / 4 + 3.5], atol=1)
    panel = draw_heatmaps(image, maps, to_image, LSP, cell=128)
    cell = panel[2:130, 2:130].astype(int)
    y, x = np.unravel_index((cell[..., 0] - cell[..., 2]).argmax(), (128, 128))
    assert abs(x - (4 * 12 + 1.5)) <= 2 and abs(y - (4 * 15 + 1.5)) <= 2
    assert draw_heatmaps(image, maps, to_image, LSP, joints=[0, 3], cell=128).shape[1] == 2 * 130 + 2
    with pytest.raises(ValueError, match=r"heatmaps has shape .*expected \(14, h, w\)"):
        draw_heatmaps(image, maps[:3], to_image, LSP)
