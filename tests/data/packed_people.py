"""What tests of packed people share."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

from pyranet_fast.data import PackedSource
from pyranet_fast.data.packed import write_packed


def same_labels(source, packed, index, atol=1e-3):
    there, here = source.person(index), packed.person(index)
    back = packed.to_original(index, here.joints)
    np.testing.assert_allclose(back, there.joints, atol=atol)
    np.testing.assert_allclose(packed.to_original(index, here.center), there.center, atol=atol)
    np.testing.assert_array_equal(here.labeled, there.labeled)
    # Pixels of the published image per pixel of the picture, the same along both axes.
    ratio = np.linalg.norm(np.diff(packed.to_original(index, [[0, 0], [1, 0], [1, 1]]), axis=0), axis=1)
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-12)
    assert here.scale * ratio[0] == pytest.approx(there.scale, rel=1e-9)
    expected = source.reference_length(index)
    assert packed.reference_length(index) * ratio[0] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert packed.image_name(index) == source.image_name(index)
    assert packed.record(index) == source.record(index)
    return ratio[0]


def repacked(source, **options):
    with tempfile.TemporaryDirectory() as folder:
        write_packed(f"{folder}/people.pack", {"train": source}, **options)
        return PackedSource(f"{folder}/people.pack", "train")
