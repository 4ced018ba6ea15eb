"""What is flat and what is not; the long runs themselves are `make endurance`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from .samples import Sample, judge, sample, write

RNG = np.random.default_rng(0)


def run(growth: float, files: int = 20, more: int = 0, count: int = 300) -> list[Sample]:
    noise = RNG.normal(0, 3, count)
    return [Sample(t, 500 + growth * t / count + noise[t], files + more * t // count) for t in range(count)]


def test_noise_is_flat_and_growth_is_not() -> None:
    assert judge(run(0)).flat
    assert not judge(run(60)).flat
    assert not judge(run(0, more=10)).flat
    rising = [Sample(t, 500 if t > 100 else 5 * t, 20) for t in range(300)]  # a warm-up
    assert judge(rising).flat
    with pytest.raises(ValueError, match="there are 3 samples; expected at least 12"):
        judge(run(0, count=3))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells of processes in /proc")
def test_open_files_are_seen(tmp_path: Path) -> None:
    before = sample(os.getpid(), 0.0)
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert sample(os.getpid(), 1.0).files == before.files + 2
    assert before.megabytes > 10
    write({"this": run(0)}, tmp_path)
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 301
