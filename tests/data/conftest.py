"""Fixtures for the tests of packed files."""

from __future__ import annotations

import pytest

from pyranet_fast.data import SyntheticSource
from pyranet_fast.data.packed import write_packed


@pytest.fixture(scope="module")
def demo():
    return SyntheticSource(6, seed=3), SyntheticSource(4, seed=3, split="val")


@pytest.fixture(scope="module")
def file(demo, tmp_path_factory):
    """Demo people, packed for an input of 64 px: all training people are averaged down."""
    path = tmp_path_factory.mktemp("packed") / "demo.pack"
    write_packed(path, {"train": demo[0], "val": demo[1]}, input_size=64)
    return path
