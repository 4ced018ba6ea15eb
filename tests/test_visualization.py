"""Skeletons land where the joints are, in the colors of their sides."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.pose import LSP, MPII, Skeleton
from pyranet_fast.visualization import COLORS, contact_sheet, draw_pose

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
    with pytest.raises(ValueError, match=r"\(14, 2\).*mpii"):
        draw_pose(canvas(), np.zeros((14, 2)))
    with pytest.raises(ValueError, match=r"scores has shape \(3,\)"):
        draw_pose(canvas(), np.zeros((16, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="images is empty"):
        contact_sheet([], 2)
    with pytest.raises(ValueError, match="columns is 0"):
        contact_sheet([canvas()], 0)
    with pytest.raises(ValueError, match="captions has 2"):
        contact_sheet([canvas()], 1, captions=["a", "b"])
