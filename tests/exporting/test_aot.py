"""A package compiled by AOTInductor: in Python, and in C++ without Python by loading the operators' library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import pyranet_fast as pf
from pyranet_fast import ops
from pyranet_fast.exporting.writers import describe_export, write_program
from pyranet_fast.inference.exported import ExportedNetwork
from tests.exporting.test_writers import joints_of, tiny

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "pose.cpp"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler (c++, g++ or clang++)"),
    pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    model, checkpoint = tiny()
    path = tmp_path_factory.mktemp("aot") / "model.pt2"
    write_program(path, model, describe_export(checkpoint, 32, decode=True, flip=True), aot=True)
    return path, model, checkpoint


def crop(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_it_runs_in_python_with_its_description(package):
    path, model, checkpoint = package
    network = ExportedNetwork(path)
    assert network.description.mirrored and network.description.skeleton.name == "lsp"
    images = torch.from_numpy(np.stack([crop(i).transpose(2, 0, 1) for i in range(3)]))
    joints, scores = joints_of(model, checkpoint, images)
    made = network.decoded(images)
    np.testing.assert_allclose(made["joints"], joints, atol=0.01)
    np.testing.assert_allclose(made["scores"], scores, atol=1e-5)


def test_the_example_runs_it_without_python(package, tmp_path):
    path, model, checkpoint = package
    if not EXAMPLE.exists():
        pytest.skip("no examples: an installed package")
    folder = Path(torch.__path__[0])
    program, library = tmp_path / "pose", Path(pf.__file__).with_name("_C.abi3.so")
    include = [f"-I{folder / part}" for part in ("include", "include/torch/csrc/api/include")]
    link = [f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    build = [str(COMPILER), "-std=c++20", "-O0", str(EXAMPLE), "-o", str(program), *include, *link]
    subprocess.run(build, check=True, timeout=300)

    pixels = crop(1)
    (tmp_path / "crop.ppm").write_bytes(b"P6\n32 32\n255\n" + pixels.tobytes())
    run = subprocess.run(
        [program, library, path, tmp_path / "crop.ppm"], capture_output=True, text=True, timeout=120, check=True
    )
    found = np.array([[float(v) for v in line.split()] for line in run.stdout.splitlines()])
    joints, scores = joints_of(model, checkpoint, torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    np.testing.assert_allclose(found[:, :2], joints[0], atol=0.01)
    np.testing.assert_allclose(found[:, 2], scores[0], atol=1e-4)
    wrong = subprocess.run([program, tmp_path / "none.so", path, tmp_path / "crop.ppm"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "none.so" in wrong.stderr
