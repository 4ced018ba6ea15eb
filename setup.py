"""Builds the native library. Metadata is in pyproject.toml; this file only decides what to compile, and says so.

Environment: PYRANET_FAST_NATIVE=0 leaves the native library out, 1 insists on it; CXX names the compiler;
MAX_JOBS bounds the parallel compilations; PYRANET_FAST_WERROR=1 turns compiler warnings into errors.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

ROOT = Path(__file__).parent
TORCH_TARGET = "0x020b000000000000"  # LibTorch stable ABI of torch 2.11: one library for 2.11 and everything newer
PYTHON_TARGET = "0x030a0000"  # limited API of Python 3.10
# A CPython without the global lock has no limited API; there the library is built for that one version.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]

# A source distribution needs neither torch nor a compiler. dist_info is no compilation, but it is what pip calls
# before it downloads any dependency: failing there is failing before gigabytes of a torch that is of no use.
COMPILING = not {"bdist_wheel", "editable_wheel", "build", "build_ext", "develop", "install"}.isdisjoint(sys.argv)
NEEDS_TORCH = COMPILING or "dist_info" in sys.argv

NO_TORCH = (
    "pyranet_fast: building needs the torch it will run with, and none was found in this environment.\n"
    'Install it first (pip install "torch>=2.11" "setuptools>=77" ninja), then run: '
    "pip install --no-build-isolation ."
)
FAILED = (
    "pyranet_fast: there is a C++ compiler, but it could not build _C; its message is above.\n"
    "Mend it or choose another (CXX=...), or install without the native library: PYRANET_FAST_NATIVE=0."
)


def find_compiler() -> tuple[str | None, str]:
    """The C++ compiler to call, or None and what was looked for. A CXX in the environment is the only candidate."""
    wanted = os.environ.get("CXX", "").strip()
    for command in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if shutil.which(command.split()[0]):
            return command, ""
    return None, f"CXX={wanted} is not a program" if wanted else "no c++, g++ or clang++ on PATH"


def version_of(compiler: str) -> str:
    """What the compiler says of itself, in one line."""
    try:
        run = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    return next(iter(run.stdout.splitlines()), "of unknown version").strip()


def extension(compiler: str, record: dict[str, Any]) -> tuple[Extension, type]:
    """The native library and the command that builds it; what they are made with is added to the record."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit(NO_TORCH)

    class Build(cpp_extension.BuildExtension):  # type: ignore[misc]
        """Compiles; a compiler that is there and fails is an error, never a silent fallback."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                sys.exit(f"{error}\n{FAILED}")

    os.environ["CXX"] = compiler  # compiling (torch) and linking (setuptools) look in different places otherwise
    sources = ["csrc/schema.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp"))]
    flags = [*FLAGS, *(["-Werror"] if os.environ.get("PYRANET_FAST_WERROR") == "1" else [])]
    record.update(
        native=True,
        files=len(sources),
        machine=platform.machine(),
        compiler=version_of(compiler),
        built_with_torch=str(torch.__version__),
        torch_abi="stable, 2.11 and newer",
        python_abi="abi3, 3.10 and newer" if LIMITED_API else f"{sys.version.split()[0]} without the global lock",
    )
    native = cpp_extension.CppExtension(
        "pyranet_fast._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        py_limited_api=LIMITED_API,
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET)],
        extra_compile_args={"cxx": [*flags, *([f"-DPy_LIMITED_API={PYTHON_TARGET}"] if LIMITED_API else [])]},
        extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],
    )
    return native, Build


def plan(record: dict[str, Any]) -> tuple[list[Extension], dict[str, type]]:
    """What to build on this machine, setuptools' arguments for it; the decision and its reason go into the record."""
    choice = os.environ.get("PYRANET_FAST_NATIVE", "")
    if choice not in ("", "0", "1"):
        sys.exit(f"pyranet_fast: PYRANET_FAST_NATIVE is {choice!r}; accepted are 0, 1 or nothing")
    if choice == "0":
        record.update(native=False, why="PYRANET_FAST_NATIVE=0 at the installation")
        return [], {}
    if not NEEDS_TORCH:
        return [], {}
    compiler, missing = find_compiler()
    if compiler is None and choice == "1":
        sys.exit(f"pyranet_fast: PYRANET_FAST_NATIVE=1 asks for the native library, but there is {missing}")
    if compiler is None:
        record.update(native=False, why=f"no C++ compiler at the installation ({missing})")
        return [], {}
    native, build = extension(compiler, record)
    return [native], {"build_ext": build}


def announce(record: dict[str, Any]) -> None:
    """Print the decision (`pip install -v` shows it) and install it with the package, for pyranet_fast.env."""
    if record["native"]:
        text = (
            f"building _C from {record['files']} C++ files: kernels for the CPU ({record['machine']}), compiler "
            f"{os.environ['CXX']} ({record['compiler']}), torch ABI: {record['torch_abi']}, Python ABI: "
            f"{record['python_abi']}, MAX_JOBS: {os.environ.get('MAX_JOBS', 'not set')}"
        )
    else:
        text = f"no native library: {record['why']}; the operators run on the PyTorch reference, more slowly"
    print(f"pyranet_fast: {text}", file=sys.stderr, flush=True)
    (ROOT / "pyranet_fast" / "_build.json").write_text(json.dumps(record, indent=2) + "\n")


record: dict[str, Any] = {}
ext_modules, cmdclass = plan(record)
if COMPILING:
    announce(record)
setup(
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ext_modules and LIMITED_API else {},
)
