import pytest
import torch

from pyranet_fast.nn import draw_samples, level_sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [(128, [107, 90, 76, 64]), (64, [53, 45, 38, 32]), (32, [26, 22, 19, 16]), (16, [13, 11, 9, 8])],
)
def test_level_sizes_of_the_paper(size, expected):
    assert level_sizes((size, size), 4) == [(s, s) for s in expected]


@pytest.mark.parametrize("levels", range(1, 9))
def test_last_level_is_exactly_half(levels):
    assert level_sizes((64, 34), levels)[-1] == (32, 17)


def test_levels_leave_room_for_windows():
    for full in range(2, 40):
        for h, w in level_sizes((full, 100), 20):
            assert 1 <= h <= full - 1
            assert 50 <= w <= 99


@pytest.mark.parametrize("size", [(1, 8), (8, 1), (0, 8)])
def test_too_small(size):
    with pytest.raises(ValueError, match=rf"at least 2 .*got \({size[0]}, {size[1]}\)"):
        level_sizes(size, 4)


@pytest.mark.parametrize(("windows", "n", "c"), [("channel", 3, 5), ("sample", 3, 1), ("batch", 1, 1)])
def test_samples_in_training_follow_the_seed(windows, n, c):
    x = torch.zeros(3, 5, 8, 8, dtype=torch.bfloat16)
    torch.manual_seed(1)
    first, second = draw_samples(x, 4, windows, True), draw_samples(x, 4, windows, True)
    torch.manual_seed(1)
    assert torch.equal(draw_samples(x, 4, windows, True), first)
    assert not torch.equal(first, second)
    assert first.shape == (4, n, c, 2)
    assert first.dtype == torch.float32


def test_samples_in_evaluation_are_fixed_and_draw_nothing():
    state = torch.get_rng_state()
    samples = draw_samples(torch.zeros(3, 5, 8, 8), 4, "channel", False)
    assert torch.equal(samples, torch.full((4, 1, 1, 2), 0.5))
    assert torch.equal(torch.get_rng_state(), state)
