"""The scripts of examples/, as a reader runs them; the one in C++ is in tests/exporting/test_aot.py."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyranet_fast as pf
from pyranet_fast.data import open_dataset
from pyranet_fast.data.image_io import read_image, write_image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples: an installed package")


def run(folder: Path, script: str, *arguments: str) -> str:
    """What an example prints; it runs in ``folder``."""
    paths = os.pathsep.join([str(Path(pf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    people = open_dataset("demo", None, "test", count=2)
    for index in range(2):
        write_image(tmp_path / "photos" / f"{index}.png", people.image(index))
    return tmp_path / "photos"


def test_a_photo(photos: Path, tmp_path: Path) -> None:
    said = run(tmp_path, "photo.py", str(photos / "0.png"))
    pose = pf.Predictor()(photos / "0.png")
    assert [float(line.split()[-3]) for line in said.splitlines()[:-1]] == pytest.approx(pose.joints[:, 0], abs=0.11)
    assert f"about {pose.chances.mean():.0%} of the joints" in said
    assert read_image(tmp_path / "pose.png").std() > 5


def test_a_folder_to_csv(photos: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "folder_to_csv.py", str(photos), "joints.csv") == "2 images in joints.csv\n"
    rows = list(csv.DictReader((tmp_path / "joints.csv").open()))
    assert [row["image"] for row in rows] == ["0.png", "1.png"]
    predictor = pf.Predictor(search=False)
    for row, path in zip(rows, sorted(photos.iterdir()), strict=True):
        pose = predictor(path)
        found = [[float(row[f"{name} {axis}"]) for axis in "xy"] for name in predictor.skeleton.joints]
        np.testing.assert_allclose(found, pose.joints, atol=0.1)


def test_joints_of_ones_own(tmp_path: Path) -> None:
    said = run(tmp_path, "own_joints.py", str(tmp_path / "pens"), "--max-steps", "8", "--precision", "fp32")
    assert re.search(r"\{'tip': \[.*\], 'middle': \[.*\], 'end': \[.*\]\}", said)
    assert (tmp_path / "pens" / "output" / "report.html").exists()


def test_a_unet(tmp_path: Path) -> None:
    losses = [float(line.split()[-1]) for line in run(tmp_path, "unet.py", "25").splitlines()[:-1]]
    assert losses[-1] < 0.5 * losses[0]


def test_torch_compile(tmp_path: Path) -> None:
    said = run(tmp_path, "compile.py", "aot_eager")
    assert said.count("gradient of norm") == 2
    assert float(said.split()[-1]) < 1e-4


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    tested = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"({path.name})" in listed and f'"{path.name}"' in tested, path.name
