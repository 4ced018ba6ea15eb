"""`python -m pyranet_fast.env`: reports versions, the build, devices and the backend of each operator.

``--check`` compares every kernel with the reference on this machine's device; include its output in bug reports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import pyranet_fast

from . import cli, ops
from .models.precision import fast_precision
from .models.zoo import resolve_device
from .ops import dispatch, parity
from .ops.cpu.policy import cpu_isa, cpu_name

SWITCHES = {
    "PYRANET_FAST_BACKEND": "reference, native or triton for every operator",
    "PYRANET_FAST_CPU_ISA": "baseline, avx2, avx512 or avx512bf16: never above what the CPU has",
    "PYRANET_FAST_PRECISION": "fp32 or bf16: what --precision auto means, instead of measuring",
    "OMP_NUM_THREADS": "threads of torch and of the kernels",
}
# One operator, one module of its name in ops/; the other public names of ops choose and list backends.
OPERATORS = tuple(name for name in ops.__all__ if getattr(ops, name).__module__ == f"pyranet_fast.ops.{name}")

ON_THE_REFERENCE = {
    ("batch_norm_relu", "triton"): "PyTorch's batch norm and a ReLU: Triton has no kernel",
}
"""By operator and backend."""


def versions() -> dict[str, str]:
    """Versions of the package, Python and the libraries under it."""
    found = {
        "pyranet_fast": f"{pyranet_fast.__version__} in {Path(pyranet_fast.__file__).parent}",
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, {_cuda_of_torch()}",
    }
    modules = {"NumPy": "numpy", "OpenCV": "cv2", "SciPy": "scipy", "h5py": "h5py", "Triton": "triton"}
    for name, module in modules.items():
        try:
            found[name] = str(importlib.import_module(module).__version__)
        except ImportError as error:
            found[name] = f"not found ({error})"
    return found


def tools() -> dict[str, str]:
    """The compilers on PATH now; what the installed library was built with is in `native`."""
    compiler = os.environ.get("CXX", "").strip() or next(filter(shutil.which, ("c++", "g++", "clang++")), "")
    return {
        "C++ compiler": _program(compiler.split()[:1], "--version"),
        "nvcc": _program(["nvcc"], "--version", -1),
    }


def native() -> dict[str, str]:
    """The native libraries and Triton: loaded or not, what they were built from, and the record of the last build."""
    found = {"_C": "loaded" if dispatch.native.here else f"not loaded: {dispatch.native.reason}"}
    record = build_record()
    triton = dispatch.triton().reason
    found["_cuda"] = "loaded" if dispatch.native_cuda.here else f"not loaded: {dispatch.native_cuda.reason}"
    found["Triton"] = f"its kernels serve {', '.join(dispatch.triton_devices())}" if triton is None else f"no: {triton}"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        kinds = {"native": dispatch.native_on(index), "Triton": dispatch.triton_on(index)}
        found[f"kernels on cuda:{index}"] = "; ".join(
            f"{kind}: {'they run' if probed.here else probed.reason}" for kind, probed in kinds.items()
        )
    if dispatch.native.here:
        library = sys.modules["pyranet_fast._C"]
        found["_C"] = f"loaded from {library.__file__}"
        found["CPU kernels"] = f"{cpu_isa() or 'unknown'}, as the library that runs them says"
    if record.get("native"):
        found["built"] = "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in record.items() if k != "native")
    elif record:
        found["built"] = f"no: {record['why']}"
    else:
        found["built"] = "no record: neither pip install nor make build has run here"
    return found


def machine() -> dict[str, str]:
    """Processor, threads and GPUs."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    threads, between = torch.get_num_threads(), torch.get_num_interop_threads()
    return {
        "CPU": f"{cpu_name()}, {affinity} of {os.cpu_count()} cores for this process",
        "threads": f"{threads} inside an operator (torch.set_num_threads), {between} between operators",
        "GPU": ", ".join(torch.cuda.get_device_name(i) for i in gpus) or "none that this torch can use",
        "fast precision": "; ".join(
            f"{device}: {fast_precision(device)}" for device in ("cpu", "cuda")[: 2 if gpus else 1]
        ),
    }


def operators(devices: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """For every operator and device type: the backend it would use, and why.

    Args:
        devices: device types; by default ``"cpu"``, and ``"cuda"`` where torch finds a GPU.
    """
    if devices is None:
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return {name: {device: _explained(name, device) for device in devices} for name in OPERATORS}


def report() -> dict[str, dict[str, Any]]:
    """Everything the command prints, by section."""
    return {
        "versions": versions(),
        "tools": tools(),
        "native": native(),
        "machine": machine(),
        "switches": {name: os.environ.get(name, f"not set ({text})") for name, text in SWITCHES.items()},
        "operators": operators(),
    }


def print_check(rows: Iterable[parity.Row], device: torch.device) -> list[parity.Row]:
    """Print the rows as a table while they are found; gives them."""
    print(f"check of every kernel beside the reference, on {device}")
    print(f"  {'operator':<29}{'backend':<9}{'dtype':<10}{'largest error':<15}verdict")
    found = []
    for row in rows:
        error = "-" if row.error is None else f"{row.error:.1e}"
        verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
        print(f"  {row.operator:<29}{row.backend:<9}{row.dtype:<10}{error:<15}{verdict}", flush=True)
        found.append(row)
    return found


def summary(rows: Sequence[parity.Row]) -> str:
    """What a check found, in a sentence."""
    if not rows:
        return "there are no kernels here to check: the reference runs every operator"
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("ok", "wrong", "failed", "left out")}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count or verdict == "ok")


def build_record() -> dict[str, Any]:
    """What setup.py wrote when it built the package; empty where it never ran or the file is damaged."""
    try:
        record = json.loads((Path(__file__).parent / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _explained(operator: str, device: str) -> str:
    backend, why = dispatch.explain(device)
    if (operator, backend) in ON_THE_REFERENCE:
        return f"reference ({ON_THE_REFERENCE[operator, backend]})"
    if backend == "native" and not _registered(operator, device):
        return f"native, but no kernel is registered for it: a call raises ({why})"
    return f"{backend} ({why})"


def _registered(operator: str, device: str) -> bool:
    """Whether torch's dispatcher has our kernel for this operator and device type."""
    return dispatch.has_kernel(f"pyranet_fast::{operator}", {"cpu": "CPU", "cuda": "CUDA"}.get(device, device))


def _cuda_of_torch() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def _program(command: Sequence[str], flag: str, line: int = 0) -> str:
    """Name and version of a program on PATH."""
    path = shutil.which(command[0]) if command else None
    if path is None:
        return f"not found ({command[0]})" if command else "not found"
    try:
        run = subprocess.run([path, flag], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path}, which does not run ({error})"
    lines = run.stdout.strip().splitlines()
    return f"{path}, {lines[line].strip()}" if lines else path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 where a check found a defect."""
    parser = argparse.ArgumentParser(
        prog="python -m pyranet_fast.env",
        description="Show versions, the build, and the backend of each operator with the reason.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="also compare every kernel with the reference on the device, forward and backward, in about twenty "
        "seconds; exit status 1 if one differs. Errors are relative to the largest value",
    )
    parser.add_argument(
        "--device", default="auto", help="device of --check: auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    arguments = cli.parse_arguments(parser, argv)
    device = resolve_device(arguments.device)
    found = report()
    rows: list[parity.Row] = []
    if arguments.json:
        if arguments.check:
            rows = list(parity.run_checks(device))
            found["check"] = {"device": str(device), "rows": [asdict(row) for row in rows]}
        print(json.dumps(found, indent=2))
        return int(any(row.bad for row in rows))
    for section, lines in found.items():
        print(section)
        for name, value in lines.items():
            if isinstance(value, dict):
                value = "; ".join(f"{kind}: {text}" for kind, text in value.items())
            print(f"  {name:<29}{value}")
    if arguments.check:
        rows = print_check(parity.run_checks(device), device)
        print(f"  {summary(rows)}")
    return int(any(row.bad for row in rows))


if __name__ == "__main__":
    sys.exit(cli.run(main))
