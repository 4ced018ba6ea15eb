"""Builds the native libraries. Metadata is in pyproject.toml; this file decides what to compile, and says so.

_C holds the operators and their CPU kernels, _cuda the CUDA kernels: it is built wherever nvcc is found, also with a
torch without CUDA and on a machine without a GPU.

Environment: PYRANET_FAST_NATIVE=0 leaves both out, 1 insists on _C; PYRANET_FAST_CUDA=0 leaves _cuda out, 1 insists on
it; CXX and NVCC name the compilers; TORCH_CUDA_ARCH_LIST chooses the GPU architectures; MAX_JOBS bounds the parallel
compilations; PYRANET_FAST_WERROR=1 turns compiler warnings into errors; PYRANET_FAST_SANITIZE=address,undefined builds
_C for `make sanitize`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import setuptools

ROOT = Path(__file__).parent
TORCH_TARGET = "0x020b000000000000"  # LibTorch stable ABI of torch 2.11: one library for 2.11 and newer
CUDA_MODULE = "pyranet_fast._cuda"
# A CPython without the global lock has no limited API; there the library is built for that one version.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")
# Drivers make code out of the PTX for the architectures between and beyond.
ARCHITECTURES = "7.5;8.0+PTX;8.6;8.9;9.0;10.0;12.0+PTX"
# -O3 is for kernels alone (cpu/multiversion.h): host code takes half the compiling time with it and gains nothing.
FLAGS = "-O2 -g0 -fno-math-errno -fno-trapping-math -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas".split()
# Nobody has run the library on macOS. Symbols of Python and torch are found when it is loaded; no header of OpenMP is
# needed, since threads come from torch.
LINK_FLAGS = {"linux": ["-Wl,-s"], "darwin": ["-undefined", "dynamic_lookup"]}

# A source distribution needs neither torch nor a compiler. dist_info is no compilation, but it is what pip
# calls before it downloads any dependency: failing there is failing before gigabytes of a useless torch.
BUILD_COMMANDS = {"bdist_wheel", "editable_wheel", "build", "build_ext", "develop", "install"}
COMPILING = not BUILD_COMMANDS.isdisjoint(sys.argv)
NEEDS_TORCH = COMPILING or "dist_info" in sys.argv

TOO_OLD = (
    f"pyranet_fast: building needs setuptools 77 or newer, and here it is {setuptools.__version__}.\n"
    'Run: pip install --upgrade "setuptools>=77", then: pip install --no-build-isolation .'
)
NO_TORCH = (
    "pyranet_fast: building needs the torch it will run with, and none was found in this environment.\n"
    'Install it first (pip install "torch>=2.11" "setuptools>=77" ninja), then run: '
    "pip install --no-build-isolation ."
)
FAILED = (
    "pyranet_fast: there is a C++ compiler, but it could not build _C; its message is above.\n"
    "Mend it or choose another (CXX=...), or install without the native library: PYRANET_FAST_NATIVE=0."
)
CUDA_FAILED = (
    "pyranet_fast: there is nvcc, but it could not build _cuda; its message is above.\n"
    "Mend it or choose another (NVCC=...), or install without CUDA kernels: PYRANET_FAST_CUDA=0."
)


def without_folders(includes: list[str]) -> list[str]:
    """Compiler flags by which the library names source files in errors, but none of this machine's folders."""
    roots = dict.fromkeys([str(ROOT.absolute()), str(ROOT.resolve())], "pyranet_fast")
    places = {**roots, **dict.fromkeys(includes, "include")}
    # Of several that fit the last is used; torch may lie inside the source tree.
    return [f"-ffile-prefix-map={place}={name}" for place, name in places.items()]


def find_compiler() -> tuple[str | None, str]:
    """The C++ compiler to call, or None and what was looked for. A CXX that is set is the only candidate."""
    wanted = os.environ.get("CXX", "").strip()
    for command in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if shutil.which(command.split()[0]):
            return command, ""
    return None, f"CXX={wanted} is not a program" if wanted else "no c++, g++ or clang++ on PATH"


def version_of(compiler: str) -> str:
    """What the compiler says of itself, in one line."""
    try:
        command = [*compiler.split(), "--version"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    return next(iter(run.stdout.splitlines()), "of unknown version").strip()


def find_nvcc() -> tuple[str | None, str]:
    """nvcc, or None and why there will be no CUDA kernels."""
    choice = switch("PYRANET_FAST_CUDA")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    wanted = os.environ.get("NVCC", "").strip()
    candidates = [wanted] if wanted else ["nvcc", f"{home}/bin/nvcc"]
    found = None if choice == "0" else next(filter(None, map(shutil.which, candidates)), None)
    if found is None and choice == "1":
        sys.exit(f"pyranet_fast: PYRANET_FAST_CUDA=1 asks for CUDA kernels, but there is no {' or '.join(candidates)}")
    return found, "PYRANET_FAST_CUDA=0" if choice == "0" else f"no {' or '.join(candidates)}"


def gpu_code(nvcc: str) -> list[str]:
    """nvcc's flags for the architectures of TORCH_CUDA_ARCH_LIST that this nvcc knows."""
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout.split()
    flags, left_out = [], []
    for entry in os.environ.get("TORCH_CUDA_ARCH_LIST", ARCHITECTURES).replace(" ", ";").split(";"):
        number = entry.removesuffix("+PTX").replace(".", "")
        if f"sm_{number}" not in known:
            left_out.append(entry)
            continue
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if entry.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not flags:
        sys.exit(f"pyranet_fast: this nvcc knows none of the architectures {', '.join(left_out)} ({', '.join(known)})")
    if left_out:
        print(f"pyranet_fast: left out, unknown to this nvcc: {', '.join(left_out)}", file=sys.stderr, flush=True)
    return flags


def build_cuda(nvcc: str, compiler: str, output: Path, temporary: Path) -> None:
    """Compile csrc/cuda and link _cuda, by hand: torch's own build of .cu files insists on a CUDA torch."""
    import torch
    from torch.utils import cpp_extension

    temporary.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    includes = [str(ROOT / "csrc"), *cpp_extension.include_paths(), sysconfig.get_path("include")]
    defines = [f"TORCH_TARGET_VERSION={TORCH_TARGET}", "USE_CUDA"]
    defines += [f"Py_LIMITED_API={cpp_extension.min_supported_cpython}"] if LIMITED_API else []
    host = ",".join(["-fPIC", "-fvisibility=hidden", *without_folders(cpp_extension.include_paths())])
    common = [
        "-O3",
        "-std=c++20",
        "--expt-relaxed-constexpr",
        f"-Xcompiler={host}",
        "-ccbin",
        compiler,
    ]
    common += [*gpu_code(nvcc), *(f"-I{path}" for path in includes), *(f"-D{define}" for define in defines)]
    sources = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), ROOT / "csrc" / "common" / "old_glibc.cpp"]
    objects = [temporary / f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, target: Path) -> None:
        command = [nvcc, *common, "-c", str(source), "-o", str(target)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{run.stdout}{run.stderr}")

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        list(pool.map(compile_one, sources, objects))
    libraries = [str(Path(torch.__file__).parent / "lib")]
    if not (Path(libraries[0]) / "libtorch_cuda.so").exists():  # a torch without CUDA: only its name is needed to link
        libraries.append(str(temporary))
        empty = [*compiler.split(), "-shared", "-x", "c++", "/dev/null", "-Wl,-soname,libtorch_cuda.so"]
        subprocess.run([*empty, "-o", str(temporary / "libtorch_cuda.so")], check=True)
    link = [nvcc, "-shared", "-cudart", "static", "-ccbin", compiler, *map(str, objects), "-o", str(output)]
    link += [*(f"-L{path}" for path in libraries), "-Xlinker", "--no-as-needed,-s,--allow-shlib-undefined"]
    subprocess.run([*link, "-ltorch_cuda", "-ltorch_cpu", "-lc10"], check=True)


def switch(name: str) -> str:
    """An environment variable that is 0, 1 or nothing."""
    choice = os.environ.get(name, "")
    if choice not in ("", "0", "1"):
        sys.exit(f"pyranet_fast: {name} must be 0, 1 or empty, got {choice!r}")
    return choice


def native_setup(compiler: str, record: dict[str, Any]) -> dict[str, Any]:
    """setup()'s arguments for the native libraries; what they are made with goes into the record."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit(NO_TORCH)

    class Build(cpp_extension.BuildExtension):
        """Compiles; a compiler that is there and fails is an error, never a silent fallback."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                sys.exit(f"{error}\n{FAILED}")

        def build_extension(self, ext: setuptools.Extension) -> None:
            if nvcc is None or ext.name != CUDA_MODULE:
                super().build_extension(ext)
                return
            try:
                output = Path(self.get_ext_fullpath(ext.name))
                build_cuda(nvcc, compiler, output, Path(self.build_temp) / "cuda")
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                sys.exit(f"{error}\n{CUDA_FAILED}")

    nvcc, no_nvcc = find_nvcc()
    os.environ["CXX"] = compiler  # else compiling (torch) and linking (setuptools) look in different places
    kernels = sorted((ROOT / "csrc" / "cpu").rglob("*.cpp"))
    sources = ["csrc/schema.cpp", "csrc/common/old_glibc.cpp", *(path.relative_to(ROOT).as_posix() for path in kernels)]
    includes = cpp_extension.include_paths()
    # As system headers torch's draw no warnings.
    flags = [*FLAGS, *without_folders(includes), *(flag for path in includes for flag in ("-isystem", path))]
    flags += ["-Werror"] if os.environ.get("PYRANET_FAST_WERROR") == "1" else []
    sanitizers = os.environ.get("PYRANET_FAST_SANITIZE", "").strip()
    if sanitizers:  # with lines for its reports, and stopping at the first
        flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]
    oldest = int(cpp_extension.min_supported_cpython, 16)  # torch compiles with Py_LIMITED_API set to this
    python = (oldest >> 24, oldest >> 16 & 0xFF)
    record.update(
        native=True,
        files=len(sources),
        machine=platform.machine(),
        compiler=version_of(compiler),
        built_with_torch=str(torch.__version__),
        torch_abi="stable, 2.11 and newer",
        python_abi="abi3, {}.{} and newer".format(*python)
        if LIMITED_API
        else f"{platform.python_version()} without the global lock",
    )
    if nvcc is None:
        record.update(cuda=f"no: {no_nvcc}")
    else:
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
        record.update(
            cuda=next((line.strip() for line in version.splitlines() if "release" in line), "nvcc of unknown version"),
            gpu_architectures=" ".join(flag.rpartition("code=")[2] for flag in gpu_code(nvcc)),
        )
    native = cpp_extension.CppExtension(
        "pyranet_fast._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        py_limited_api=LIMITED_API,
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET)],
        extra_compile_args={"cxx": flags},
        extra_link_args=[f"-fsanitize={sanitizers}"] if sanitizers else LINK_FLAGS.get(sys.platform, []),
    )
    return {
        "ext_modules": [native, *([setuptools.Extension(CUDA_MODULE, [], py_limited_api=LIMITED_API)] if nvcc else [])],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp{}{}".format(*python)}} if LIMITED_API else {},
    }


def plan(record: dict[str, Any]) -> dict[str, Any]:
    """setup()'s arguments for what can be built here; the decision and its reason go into the record."""
    if int(setuptools.__version__.split(".")[0]) < 77:  # it would refuse pyproject.toml, less clearly
        sys.exit(TOO_OLD)
    choice = switch("PYRANET_FAST_NATIVE")
    if choice == "0":
        record.update(native=False, why="PYRANET_FAST_NATIVE=0 at the installation")
        return {}
    if not NEEDS_TORCH:
        return {}
    compiler, missing = find_compiler()
    if compiler is None and choice == "1":
        sys.exit(f"pyranet_fast: PYRANET_FAST_NATIVE=1 asks for the native library, but: {missing}")
    if compiler is None:
        record.update(native=False, why=f"no C++ compiler at the installation ({missing})")
        return {}
    return native_setup(compiler, record)


def announce(record: dict[str, Any]) -> None:
    """Print the decision (`pip install -v` shows it) and install it with the package for pyranet_fast.env."""
    if record["native"]:
        text = (
            f"building _C from {record['files']} C++ files: CPU kernels for {record['machine']}; compiler "
            f"{record['compiler']}; torch ABI {record['torch_abi']}; Python ABI {record['python_abi']}; "
            f"_cuda {record['cuda']} {record.get('gpu_architectures', '')}; "
            f"MAX_JOBS {os.environ.get('MAX_JOBS', 'not set')}"
        )
    else:
        text = f"no native library: {record['why']}; the operators run on the PyTorch reference, more slowly"
    print(f"pyranet_fast: {text}", file=sys.stderr, flush=True)
    (ROOT / "pyranet_fast" / "_build.json").write_text(json.dumps(record, indent=2) + "\n")


record: dict[str, Any] = {}
arguments = plan(record)
if COMPILING:
    announce(record)
setuptools.setup(**arguments)
