"""Evaluation of a network on people: scales, batches, interruptions, images that are not there."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

from pyranet_fast.data.transforms import crop, crop_matrix
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import EvaluationState, evaluate_pose, prefetch
from pyranet_fast.inference.heatmaps import SIX_SCALES, decode_scales, score_maps
from pyranet_fast.pose import LSP
from tests.data.people import MemorySource, person, smooth_image

SIZE = 32


class Network(nn.Module):
    """Answers to the picture, and can be told to stop after some batches."""

    def __init__(self, batches=10**9):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, len(LSP), 9, stride=4, padding=4)
        self.left = batches

    def forward(self, x):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return [self.conv(x)]


def crowd(count=5, without=()):
    images = [None if i in without else smooth_image(70 + 3 * i, 90 + i, i) for i in range(count)]
    return MemorySource(images, [person((40.0 + 2 * i, 30.0 + i), 0.2 + 0.05 * i, i) for i in range(count)])


def test_six_scales_are_the_crops_of_six_sizes_averaged():
    people = crowd(3)
    _, predictions = evaluate_pose(Network(), people, SIZE, flip=True, scales=SIX_SCALES)
    for index in range(3):
        who, image = people.person(index), people.image(index)
        maps = []
        for scale in SIX_SCALES:
            picture = crop(image, crop_matrix(who.center, who.scale * scale, 0.0, SIZE), SIZE)
            maps.append(score_maps(Network(), torch.from_numpy(picture.transpose(2, 0, 1))[None], LSP)[0])
        size = [[image.shape[1], image.shape[0]]]
        joints, scores = decode_scales(torch.stack(maps)[None], SIX_SCALES, [who.center], [200 * who.scale], size)
        np.testing.assert_allclose(predictions[index, :, :2], joints[0], atol=1e-2)
        np.testing.assert_allclose(predictions[index, :, 2], scores[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scales", [(1.0,), SIX_SCALES], ids=("one", "six"))
def test_batches_and_workers_do_not_matter(scales):
    first = evaluate_pose(Network(), crowd(), SIZE, flip=False, scales=scales)[1]
    for options in ({"batch_size": 1}, {"batch_size": 13}, {"workers": 2}):
        again = evaluate_pose(Network(), crowd(), SIZE, flip=False, scales=scales, **options)[1]
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scales", [(1.0,), SIX_SCALES], ids=("one", "six"))
def test_an_interrupted_evaluation_goes_on(scales, tmp_path):
    people, path, what = crowd(), tmp_path / "state", {"scales": len(scales)}
    options = {"flip": True, "scales": scales, "batch_size": 2 * len(scales)}
    score, whole = evaluate_pose(Network(), people, SIZE, **options)
    with pytest.raises(KeyboardInterrupt):
        evaluate_pose(Network(1), people, SIZE, **options, state=EvaluationState(5, 14, path, what))
    state = EvaluationState(5, 14, path, what)
    assert state.done.tolist() == [True, True, False, False, False]
    network = Network()
    again, predictions = evaluate_pose(network, people, SIZE, **options, state=state)
    np.testing.assert_array_equal(predictions, whole)
    assert again.mean == score.mean and again.columns == score.columns
    assert 10**9 - network.left == 2  # three people in batches of two
    assert not EvaluationState(5, 14, path, {"scales": 2}).done.any()  # of another evaluation
    assert not EvaluationState(5, 14, path, what, resume=False).done.any()
    state.finish()
    assert not path.exists()
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"state of an interrupted evaluation, cannot be read; delete it"):
        EvaluationState(5, 14, path, what)


def test_missing_images_are_counted_and_no_image_is_an_error():
    with pytest.raises(UserError, match=r"image 2\.jpg cannot be read"):
        evaluate_pose(Network(), crowd(5, (2,)), SIZE, flip=False, scales=SIX_SCALES)
    score, predictions = evaluate_pose(Network(), crowd(5, (2,)), SIZE, flip=False, scales=SIX_SCALES, on_error="skip")
    assert score.count == 4 and score.settings["unreadable"] == 1
    assert np.isnan(predictions[2]).all() and np.isfinite(predictions[[0, 1, 3, 4]]).all()
    with pytest.raises(UserError, match="memory: no image of the 5 people can be read"):
        evaluate_pose(Network(), crowd(5, range(5)), SIZE, flip=False, on_error="skip")


def test_items_are_made_ahead_in_order_and_errors_arrive():
    started = threading.Event()

    def items():
        yield 1
        started.set()  # while the first is worked on
        yield 2
        raise ValueError("the third")

    got = prefetch(items())
    assert next(got) == 1 and started.wait(5)
    assert next(got) == 2
    with pytest.raises(ValueError, match="the third"):
        next(got)
    assert list(prefetch([])) == []


@pytest.mark.parametrize("scales", [(1.0,), SIX_SCALES], ids=("one", "six"))
def test_maps_that_are_not_finite_are_not_scored(scales):
    network = Network()
    with torch.no_grad():
        network.conv.bias[3] = -float("inf")
    with pytest.raises(UserError, match="score maps that are not finite, of which no pose is made"):
        evaluate_pose(network, crowd(2), SIZE, flip=False, scales=scales)
