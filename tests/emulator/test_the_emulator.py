"""The emulator itself: right kernels run, and each kind of mistake it claims to find is found."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

N = 64
VALUES = np.arange(1, N + 1, dtype=np.float32)


def run(emulator: ModuleType, name: str, blocks: int = 1, **how: Any) -> np.ndarray:
    return emulator.run_check(name, VALUES, blocks, how)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_barriers_shuffles_and_votes(emulator: ModuleType, order: str) -> None:
    assert (run(emulator, "turn_around", order=order) == VALUES[::-1]).all()
    assert (run(emulator, "sum_of_block", order=order) == VALUES.sum()).all()
    following = np.where(np.arange(N) % 32 == 31, VALUES, np.roll(VALUES, -1))
    assert (run(emulator, "vote", order=order) == 1000 + following).all()


def test_a_missing_barrier_gives_wrong_values(emulator: ModuleType) -> None:
    wrong = [not (run(emulator, "missing_barrier", order=o) == VALUES[::-1]).all() for o in ("forward", "shuffled")]
    assert all(wrong)


def test_blocks_that_write_the_same_place_differ_by_order(emulator: ModuleType) -> None:
    results = {run(emulator, "last_block_wins", 8, order="shuffled", seed=s)[0] for s in range(8)}
    results |= {run(emulator, "last_block_wins", 8, order=o)[0] for o in ("forward", "backward")}
    assert {0.0, 7.0} < results


@pytest.mark.parametrize(
    "name, how, message",
    [
        ("barrier_for_some", {}, "have ended and 16 wait at the barrier"),
        ("two_barriers", {}, "different barriers"),
        ("shuffle_for_some", {}, "waits for a lane of its mask that has ended"),
        ("shuffle_and_barrier", {}, "does not come to"),
        ("read_after", {"side": "end"}, "access outside in of 256 bytes, at byte 256"),
        ("read_before", {"side": "start"}, "access outside in of 256 bytes, at byte -4"),
        ("write_after", {"side": "end"}, "access outside out of 256 bytes, at byte 256"),
        ("write_after", {"side": "start"}, "buffer out of 256 bytes was written to 0 bytes from its end"),
        ("write_before", {"side": "start"}, "access outside out of 256 bytes, at byte -4"),
        ("write_before", {"side": "end"}, "buffer out of 256 bytes was written to -4 bytes from its start"),
        ("write_to_input", {}, "write to the input in"),
        ("misaligned", {"side": "start"}, "access of 16 bytes at an address that is no multiple"),
        ("shared_beyond", {}, "shared memory is written to past its end"),
    ],
)
def test_mistakes_are_errors(emulator: ModuleType, name: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(emulator.EmulatorError, match=message) as caught:
        run(emulator, name, **how)
    assert name in str(caught.value) or "buffer" in str(caught.value)
    assert (run(emulator, "turn_around") == VALUES[::-1]).all(), "the next launch is not disturbed"


def test_what_nobody_wrote_is_nan(emulator: ModuleType) -> None:
    assert np.isnan(run(emulator, "shared_unwritten")).all()
    read = run(emulator, "read_after", side="start")  # inside the page, past the array
    assert np.isnan(read[-1]) and (read[:-1] == VALUES[1:]).all()


@pytest.mark.parametrize("dtype, name", [(torch.float16, "half"), (torch.bfloat16, "bfloat16")])
def test_narrow_types_round_as_torch_does(emulator: ModuleType, dtype: torch.dtype, name: str) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    to_value, to_bits = getattr(emulator, f"{name}_value"), getattr(emulator, f"{name}_bits")
    wide = torch.tensor([to_value(b) for b in range(65536)])
    torch.testing.assert_close(wide, every.float(), rtol=0, atol=0, equal_nan=True)
    finite = every.float()[every.isfinite()].sort().values.unique()
    between = (finite[:-1].double() + finite[1:].double()) / 2  # ties
    samples = torch.cat([between, between * (1 + 1e-7), between * (1 - 1e-7), torch.tensor([7e4, 1e30, -1e30, 1e-30])])
    for value in samples[:: 97 if len(samples) > 5000 else 1].float():
        expected = int(value.to(dtype).view(torch.uint16))
        assert to_bits(float(value)) == expected, float(value)
