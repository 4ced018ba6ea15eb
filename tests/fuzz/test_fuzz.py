"""Some changed files of each format: each is read, or refused in a sentence that names it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from scipy.io import savemat

from pyranet_fast.data.matlab import load_matlab
from pyranet_fast.errors import UserError
from pyranet_fast.evaluate import main as evaluate
from tests.data.people import lsp_joints, write_release

from .formats import FORMATS
from .harness import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")

FILES = 200
FIRST = 0


@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_get_a_sentence(name: str, tmp_path: Path) -> None:
    outcome = run(name, range(FIRST, FIRST + FILES), tmp_path)
    assert not outcome.failures, "\n".join(f"seed {seed}: {what}" for seed, what in outcome.failures)
    assert outcome.refused > FILES // 10 and outcome.read + outcome.refused == FILES


REGRESSIONS = Path(__file__).parent / "regressions"


@pytest.mark.parametrize("folder", sorted(path.name for path in REGRESSIONS.iterdir()))
def test_files_that_failed_once_get_a_sentence(folder: str, tmp_path: Path) -> None:
    """Files that `python -m tests.fuzz --keep` has found, by format."""
    files = [gzip.decompress(path.read_bytes()) for path in sorted((REGRESSIONS / folder).iterdir())]
    outcome = run(folder.replace("_", " "), range(len(files)), tmp_path, files)
    assert not outcome.failures, outcome.failures


def test_a_tag_of_no_type_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SciPy's reader ended the process: byte 193 is a type's number, which it looks up without asking."""
    path = write_release(tmp_path, "lsp_dataset", lsp_joints(3), 3, 4) / "joints.mat"
    data = bytearray(path.read_bytes())
    assert data[192] == 9 and data[193] == 0  # float64
    data[193] = 250
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"joints\.mat cannot be read; it is truncated, damaged, .*numbers has type 64009"
    ):
        load_matlab(path)
    with pytest.raises(UserError, match=r"joints\.mat cannot be read"):
        evaluate(["--dataset", "lsp", "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--device", "cpu"])


def test_what_is_left_out_of_matlab_files_does_not_matter(tmp_path: Path) -> None:
    """Sparse arrays are not read; numbers, texts, cells and structures come as SciPy reads them."""
    import numpy as np
    from scipy.io import loadmat
    from scipy.sparse import csc_array

    cell = np.empty((1, 2), dtype=object)
    cell[0, 0], cell[0, 1] = np.arange(3.0), "text"
    content = {
        "x": np.arange(6.0).reshape(2, 3), "z": np.array([[1 + 2j]]), "i": np.array([[3]], np.int16), "t": "Zürich",
        "c": cell, "s": {"a": np.eye(2), "b": {"c": "d"}}, "e": np.empty((0, 0)),
    }  # fmt: skip
    for packed in (False, True):
        savemat(tmp_path / "a.mat", {**content, "sparse": csc_array(np.eye(3))}, do_compression=packed)
        ours, theirs = load_matlab(tmp_path / "a.mat"), loadmat(tmp_path / "a.mat")
        assert set(theirs) - set(ours) == {"sparse"}
        for name in content:
            assert repr(ours[name]) == repr(theirs[name])
