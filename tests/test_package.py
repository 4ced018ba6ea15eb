"""The package as a whole: its version, its import without the library, and what setup.py decides."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import pyranet_fast as pf
from pyranet_fast.__main__ import COMMANDS
from pyranet_fast.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
source_tree = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no setup.py: an installed package")


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this same package."""
    paths = os.pathsep.join([str(Path(pf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_installed_version_is_the_packages_own() -> None:
    try:
        installed = importlib.metadata.version("pyranet-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is used in place, not installed")
    assert installed == pf.__version__


def test_without_the_library_it_imports_runs_and_says_so_once() -> None:
    run = python(
        "import sys; sys.modules['pyranet_fast._C'] = None\n"
        "import torch, pyranet_fast as pf\n"
        "x = torch.arange(16.0).reshape(1, 1, 4, 4)\n"
        "for _ in range(2): y = pf.ops.upsample_sum([x], (4, 4))\n"
        "assert torch.equal(x, y) and pf.ops.heatmap_argmax(x)[0].tolist() == [[[3.0, 3.0]]]\n"
        "assert 'native' not in pf.ops.available_backends()",
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("runs on its PyTorch reference") == 1, run.stderr


# What a user has who asked for no extra: torch and NumPy.
BARE = (
    "import sys\n"
    "for name in ('cv2', 'scipy', 'h5py', 'matplotlib', 'tensorboard', 'safetensors', 'tqdm'):\n"
    "    sys.modules[name] = None\n"
)


def test_operators_and_modules_need_torch_and_numpy_alone() -> None:
    run = python(
        f"{BARE}import torch, pyranet_fast as pf\n"
        "x = torch.rand(1, 4, 16, 16, requires_grad=True)\n"
        "levels = pf.ops.fractional_max_pool_pyramid(x, [(11, 11), (8, 8)])\n"
        "pf.ops.upsample_sum(levels, (16, 16), base=x).sum().backward()\n"
        "model = pf.models.optimize_for_inference(pf.models.PyraNet(1, 16, features=32).eval())\n"
        "model(torch.rand(1, 3, 64, 64))\n"
        "pf.pose.pck, pf.nn.init.multi_branch_, pf.Pose\n"
        "try: pf.Predictor()\n"
        "except pf.UserError as error: print(error)"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "OpenCV is not installed, which is needed here: pip install pyranet-fast[pose]\n"


@pytest.mark.parametrize("command", ["predict", "train"])
def test_commands_name_the_extra_that_is_missing(command: str) -> None:
    run = python(f"{BARE}from pyranet_fast import __main__\nsys.exit(__main__.main(['{command}', '--help']))")
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert run.stderr == "error: OpenCV is not installed, which is needed here: pip install pyranet-fast[pose]\n"
    alone = python(f"{BARE}import runpy\nrunpy.run_module('pyranet_fast.{command}', run_name='__main__')")
    assert alone.stderr.splitlines()[-1].endswith("needed here: pip install pyranet-fast[pose]")


def test_env_tells_what_is_missing_without_the_extras() -> None:
    run = python(f"{BARE}sys.argv = ['env']\nfrom pyranet_fast import cli, env\nsys.exit(cli.run(env.main))")
    assert run.returncode == 0, run.stderr
    assert "OpenCV                       not found" in run.stdout and "upsample_sum" in run.stdout


@source_tree
def test_every_extra_that_a_sentence_names_is_declared() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = {"cv2": "opencv-python-headless"}
    for module, (_, extra) in EXTRAS.items():
        declared = [re.match(r"[\w-]+", line)[0] for line in extras[extra]]
        assert distributions.get(module, module) in declared, module


def test_an_unknown_backend_in_the_environment_is_one_clear_error() -> None:
    run = python("import pyranet_fast", PYRANET_FAST_BACKEND="fastest")
    assert run.returncode != 0
    assert "PYRANET_FAST_BACKEND must be one of reference, native, triton, got 'fastest'" in run.stderr


def test_what_was_built_names_no_folder_of_the_machine_that_built_it() -> None:
    """Errors name source files, and a wheel takes them to other people."""
    package = Path(pf.__file__).parent
    libraries = [path for kind in ("_C", "_cuda") for path in package.glob(f"{kind}.*so")]
    if not libraries:
        pytest.skip("no native library is built")
    folders = {ROOT, package.parent, Path.home(), Path(torch.__file__).parent} - {Path("/")}
    texts = {library: library.read_bytes() for library in libraries}
    assert all(b"csrc/" in content for content in texts.values())  # the names of sources are there
    texts[package / "_build.json"] = (package / "_build.json").read_bytes()
    for path, content in texts.items():
        assert not [str(folder) for folder in folders if f"{folder}/".encode() in content], path
        sources = re.findall(rb"(?<![\w.+-])/[\w.+-]+/[\w./+-]+\.(?:h|cpp|cuh|cu)\b", content)
        assert sources == [], path


class Setup:
    """setup.py in a copy of the tree, run up to its call of setuptools.setup, whose arguments are kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.arguments: dict[str, Any] = {}
        shutil.copy(ROOT / "setup.py", folder)
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        (folder / "pyranet_fast").mkdir()
        for name in ("CXX", "PYRANET_FAST_NATIVE", "NVCC"):
            # set first, so that what setup.py puts there is taken back after the test
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("PYRANET_FAST_CUDA", "0")
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)

    def __call__(self, command: str, *, torch: bool = True, **environment: str) -> dict[str, Any]:
        """Run a command; returns the record that it leaves for `pyranet_fast.env`."""
        for name, value in environment.items():
            self.monkeypatch.setenv(name, value)
        if not torch:
            self.monkeypatch.setitem(sys.modules, "torch", None)
        self.monkeypatch.setattr(sys, "argv", ["setup.py", command])
        self.monkeypatch.setattr("setuptools.setup", lambda **arguments: self.arguments.update(arguments))
        runpy.run_path(str(self.folder / "setup.py"))
        record = self.folder / "pyranet_fast" / "_build.json"
        return json.loads(record.read_text()) if record.exists() else {}


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(tmp_path, monkeypatch)


@source_tree
def test_the_library_is_built_from_all_sources_for_every_python(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    record = setup("bdist_wheel", CXX=sys.executable)  # any program will do: nothing is compiled here
    (library,) = setup.arguments["ext_modules"]
    sources = [ROOT / "csrc" / name for name in ("schema.cpp", "common/old_glibc.cpp")]
    sources += (ROOT / "csrc" / "cpu").rglob("*.cpp")
    assert set(library.sources) == {str(path.relative_to(ROOT)) for path in sources}
    assert library.py_limited_api
    assert setup.arguments["options"] == {"bdist_wheel": {"py_limited_api": "cp310"}}
    assert record["native"] and record["files"] == len(library.sources)
    assert f"building _C from {len(library.sources)} C++ files" in capsys.readouterr().err


def fake_nvcc(folder: Path, codes: str = "sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120") -> str:
    """A program that answers setup.py's questions as nvcc does."""
    program = folder / "nvcc"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --list-gpu-code ] && echo {codes}\n'
        '[ "$1" = --version ] && echo "nvcc: NVIDIA"; echo "Cuda compilation tools, release 13.0, V13.0.88"\n'
    )
    program.chmod(0o755)
    return str(program)


@source_tree
def test_cuda_kernels_are_built_wherever_nvcc_is(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = setup("bdist_wheel", CXX=sys.executable, NVCC=fake_nvcc(tmp_path), PYRANET_FAST_CUDA="")
    assert [library.name for library in setup.arguments["ext_modules"]] == ["pyranet_fast._C", "pyranet_fast._cuda"]
    assert record["cuda"] == "Cuda compilation tools, release 13.0, V13.0.88"
    assert record["gpu_architectures"] == "sm_75 sm_80 compute_80 sm_86 sm_89 sm_90 sm_100 sm_120 compute_120"
    record = setup("bdist_wheel", TORCH_CUDA_ARCH_LIST="9.0 12.1+PTX")
    assert record["gpu_architectures"] == "sm_90"
    assert "left out, unknown to this nvcc: 12.1+PTX" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"knows none of the architectures 5\.2"):
        setup("bdist_wheel", TORCH_CUDA_ARCH_LIST="5.2")


@source_tree
def test_cuda_kernels_can_be_refused_and_demanded(setup: Setup, tmp_path: Path) -> None:
    record = setup("bdist_wheel", CXX=sys.executable, NVCC=fake_nvcc(tmp_path), PYRANET_FAST_CUDA="0")
    assert record["cuda"] == "no: PYRANET_FAST_CUDA=0" and len(setup.arguments["ext_modules"]) == 1
    with pytest.raises(SystemExit, match="asks for CUDA kernels, but there is no /nowhere/nvcc"):
        setup("bdist_wheel", NVCC="/nowhere/nvcc", PYRANET_FAST_CUDA="1")
    assert setup("bdist_wheel", NVCC="/nowhere/nvcc", PYRANET_FAST_CUDA="")["cuda"] == "no: no /nowhere/nvcc"


@source_tree
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_nvcc_compiles_the_kernels(setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the torch at hand, CUDA or not; for one architecture, which is enough to see errors."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(sys, "argv", ["setup.py", "sdist"])
    monkeypatch.setattr("setuptools.setup", lambda **arguments: None)
    functions = runpy.run_path(str(setup.folder / "setup.py"))
    library = tmp_path / "out" / "_cuda.abi3.so"
    functions["build_cuda"](shutil.which("nvcc"), shutil.which("c++") or "c++", library, tmp_path / "objects")
    contents = library.read_bytes()
    kernels = sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu") if path.stem != "module")
    assert b"PyInit__cuda" in contents and b"libtorch_cuda.so" in contents
    assert len(list((tmp_path / "objects").glob("*.o"))) == len(kernels) + 2
    assert all(kernel.encode() in contents for kernel in kernels)


@source_tree
def test_without_a_compiler_nothing_is_built_and_the_reason_is_kept(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    record = setup("bdist_wheel", CXX="/nowhere/c++")
    why = "no C++ compiler at the installation (CXX=/nowhere/c++ is not a program)"
    assert record == {"native": False, "why": why}
    assert not setup.arguments.get("ext_modules")
    assert capsys.readouterr().err.count("no native library") == 1


@source_tree
def test_an_empty_path_has_no_compiler(setup: Setup, tmp_path: Path) -> None:
    assert setup("bdist_wheel", PATH=str(tmp_path))["why"].endswith("(no c++, g++ or clang++ on PATH)")


@source_tree
def test_native_can_be_refused_demanded_and_misspelt(setup: Setup) -> None:
    assert setup("bdist_wheel", torch=False, PYRANET_FAST_NATIVE="0") == {
        "native": False,
        "why": "PYRANET_FAST_NATIVE=0 at the installation",
    }
    with pytest.raises(SystemExit, match=r"asks for the native library.*CXX=/nowhere is not a program"):
        setup("bdist_wheel", PYRANET_FAST_NATIVE="1", CXX="/nowhere")
    with pytest.raises(SystemExit, match="PYRANET_FAST_NATIVE must be 0, 1 or empty, got 'yes'"):
        setup("bdist_wheel", PYRANET_FAST_NATIVE="yes")


@source_tree
@pytest.mark.parametrize("command", ["dist_info", "bdist_wheel", "editable_wheel"])
def test_without_torch_a_build_says_what_to_do(setup: Setup, command: str) -> None:
    with pytest.raises(SystemExit, match=r"none was found(.|\n)*pip install --no-build-isolation \."):
        setup(command, torch=False, CXX=sys.executable)


@source_tree
def test_an_old_setuptools_is_named(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setuptools.__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"setuptools 77 or newer, and here it is 65\.5\.0"):
        setup("bdist_wheel", CXX=sys.executable)


@source_tree
def test_a_source_distribution_needs_neither_torch_nor_compiler(setup: Setup) -> None:
    assert setup("sdist", torch=False, CXX="/nowhere") == {}


@source_tree
def test_a_compiler_that_fails_is_an_error(setup: Setup) -> None:
    """Silence here would be a slow installation that nobody asked for."""
    failing = shutil.which("false")
    if failing is None:
        pytest.skip("no program `false` on this system")
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=setup.folder,
        env={**os.environ, "CXX": failing, "PYRANET_FAST_NATIVE": "", "MAX_JOBS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    assert "there is a C++ compiler, but it could not build _C" in run.stderr


# Packages that are imported where they are used: they are slow to import, or not everybody has them.
LATE = (
    "av",
    "fsspec",
    "gradio",
    "h5py",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pycocotools",
    "scipy",
)
# Together they cost more than torch: what --help must not load.
HEAVY = (*LATE, "tensorboard", "torch._dynamo", "torch.export", "torch.utils.tensorboard")
STARTS = """
import contextlib, io, json, os, runpy, sys
import torch, cv2
with_torch = set(sys.modules)
from pyranet_fast import __main__, predict

def shown(run):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        run()
    return text.getvalue()

def help_of(name, module):
    sys.argv = [module, "--help"]
    alone = shown(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    return {"alone": alone, "together": shown(lambda: __main__.main([name, "--help"]))}

def prediction(photo, output):
    return {"said": shown(lambda: predict.main([photo, "--output", output]))}

# A child for each, which starts with torch: what one of them loads is not there for the next.
for name, function, *arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        with contextlib.suppress(Exception):
            found = function and globals()[function](*arguments)
            loaded = sorted(set(sys.modules) - with_torch)
            os.write(1, (json.dumps([name, {**(found or {}), "modules": loaded}]) + chr(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a start of each command, with --help, and of a prediction says and loads beside torch and OpenCV."""
    folder = tmp_path_factory.mktemp("starts")
    cv2.imwrite(str(folder / "photo.png"), np.full((64, 48, 3), 90, np.uint8))
    asked = [
        ["import", ""],
        ["prediction", "prediction", str(folder / "photo.png"), str(folder / "out")],
        *([name, "help_of", name, f"pyranet_fast.{module}"] for name, (module, _) in COMMANDS.items()),
    ]
    run = python(STARTS, json.dumps(asked), PYRANET_FAST_PRECISION="")
    found = dict(json.loads(line) for line in run.stdout.splitlines())
    assert found.keys() == {name for name, *_ in asked}, run.stderr
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_same_by_both_names_and_loads_nothing_heavy(name: str, starts: dict[str, dict[str, Any]]) -> None:
    module, found = f"pyranet_fast.{COMMANDS[name][0]}", starts[name]
    assert found["alone"] == found["together"]
    assert found["alone"].startswith(f"usage: python -m {module} ") and "--verbose" in found["alone"]
    assert [module for module in HEAVY if module in found["modules"]] == []


@pytest.mark.parametrize("what", ["import", "prediction"])
def test_a_prediction_loads_nothing_heavy(what: str, starts: dict[str, dict[str, Any]]) -> None:
    assert "pyranet_fast.predict" in starts[what]["modules"]
    assert what == "import" or "photo_pose.png" in starts[what]["said"]
    assert [module for module in (*HEAVY, "triton") if module in starts[what]["modules"]] == []


def test_imports_stand_at_the_top() -> None:
    """But for packages that are slow to import or that not everybody has."""
    folder = Path(pf.__file__).parent
    inside = set()
    for path in sorted(folder.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        inside |= {(path, alias.name) for alias in node.names}
                    elif isinstance(node, ast.ImportFrom):
                        inside.add((path, "." * node.level + (node.module or "")))
    allowed = (
        *LATE,
        *("safetensors", "torch.export", "torch.utils.tensorboard", "triton"),
    )
    wrong = [
        f"{path.relative_to(folder)}: {name}"
        for path, name in sorted(inside)
        if not any(name == package or name.startswith(f"{package}.") for package in allowed)
    ]
    assert wrong == []
