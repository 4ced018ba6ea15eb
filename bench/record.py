"""What every file of results says about itself."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine(device: str) -> str:
    """One line: processor or GPU, threads, versions."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        flags = cpuinfo.read_text()
        units = [f for f in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if f" {f} " in flags]
        name = f"{found.group(1) if found else name} ({units[0] if units else 'no avx2'})"
    return f"{name}, {torch.get_num_threads()} threads, {versions}"


def commit() -> str:
    """The commit that was measured, with + where files differ from it."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=RESULTS.parent, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return text.strip()


def write(name: str, device: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write bench/results/NAME.json."""
    content = {
        "machine": machine(device),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m {_module()} {shlex.join(sys.argv[1:])}".strip(),
        **more,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem
