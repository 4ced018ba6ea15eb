"""Files of results, bench/results/<machine>.json: one schema for CPU and GPU.

    machine  processor or GPU, threads, versions
    parts    of each part (operators, model, growth, pipeline): command, commit, date and what else held for it
    rows     one for every form of every case; `MEASURED` says what was measured, all else is the case

Every part replaces its own rows in the file; rows of another machine (other threads, other torch) are dropped.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pyranet_fast.errors import UserError

RESULTS = Path(__file__).parent / "results"
PARTS = ("operators", "model", "growth", "pipeline")
MEASURED = {
    "ms": "median time of a step or call",
    "p25": "lower quartile, ms",
    "p75": "upper quartile, ms",
    "rounds": "rounds that the quartiles are over",
    "first_s": "first call with compilation or folding, seconds",
    "peak_MB": "most memory of a step, weights included (CPU: resident, beyond what the imports took)",
    "difference": "from the plain network in float32, relative",
    "images_per_s": "from the median",
    "people_per_s": "pipeline",
    "data_wait": "share of a training epoch that waits for data",
    "network_share": "share of an evaluation inside the network",
    "times_the_best_plain": "how many times faster than the best plain form, median over rounds",
    "MB": "bytes that an operator must move at least",
    "GB_per_s": "those bytes a second",
    "of_copy": "share of the speed of a copy of as many bytes in the same rounds",
    "GFLOP": "of one forward, convolutions",
    "failed": "why there is no number",
}
# What rows of an earlier form of the schema leave unsaid.
_UNSAID = {"variant": "B*", "features": 256, "depth": 4, "levels": 4, "base_width": 9}


def cpu_name() -> str:
    """Processor and its widest unit, from /proc/cpuinfo."""
    name = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return name
    found = re.search(r"model name\s*:\s*(.+)", text)
    flags = set(text.split())
    unit = next((f for f in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if f in flags), "no avx2")
    return f"{found.group(1) if found else name} ({unit})"


def machine(device: str, threads: int | None = None) -> str:
    """One line: processor or GPU, threads, versions."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}"
    return f"{cpu_name()}, {threads or torch.get_num_threads()} threads, {versions}"


def machine_name(device: str, threads: int | None = None) -> str:
    """The machine as the name of a file."""
    cpu = f"{cpu_name()} {threads or torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else re.sub(r"\((R|TM)\)", "", cpu)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The commit that was measured, with + where files differ from it."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=RESULTS.parent, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return text.strip()


def case(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What identifies a row: all that was not measured, as text."""
    return tuple(sorted((key, json.dumps(value)) for key, value in row.items() if key not in MEASURED))


def without_form(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The same for all forms of a case."""
    return case({key: value for key, value in row.items() if key != "form"})


def path_of(name: str) -> Path:
    """The file of a name, or the name itself where it is a path to a .json."""
    return Path(name) if name.endswith(".json") else RESULTS / f"{name}.json"


def write(
    part: str,
    rows: list[dict[str, Any]],
    device: str,
    *,
    name: str | None = None,
    threads: int | None = None,
    **more: Any,
) -> Path:
    """Put a part's rows into the machine's file, or the file of another name or path; returns its path."""
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; accepted are {', '.join(map(repr, PARTS))}")
    path = path_of(name or machine_name(device, threads))
    content: dict[str, Any] = {"machine": machine(device, threads), "parts": {}, "rows": []}
    if path.exists():
        before = read(path)
        if before["machine"] == content["machine"]:
            content = before
        else:
            print(f"note: {path} was of another machine or other versions, and begins anew", file=sys.stderr)
    content["parts"][part] = {"command": command(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), **more}
    kept = [row for row in content["rows"] if row["part"] != part]
    content["rows"] = kept + [{"part": part, **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def command() -> str:
    """What was typed, without the folders of this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem
    typed = [Path(part).name if part.startswith(("/", "~")) else part for part in sys.argv[1:]]
    return f"python -m {module} {shlex.join(typed)}".strip()


def read(path: Path) -> dict[str, Any]:
    """A file of results, in today's schema.

    Raises:
        UserError: it cannot be read, or is of another kind.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # JSON and Unicode
        raise UserError(f"{path} is no file of results: it is not JSON ({error})") from error
    if not isinstance(content, dict) or not {"machine", "rows"} <= set(content):
        raise UserError(f"{path} is no file of results: machine and rows are not both there")
    rows = content["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is no file of results: rows is not a list of objects")
    if "parts" not in content:
        header = {key: content.pop(key) for key in list(content) if key not in ("machine", "rows")}
        content["parts"] = {"model": header}
    if not isinstance(content["parts"], dict):
        raise UserError(f"{path} is no file of results: parts is not an object")
    for number, row in enumerate(rows):
        row.setdefault("part", "model")
        if row["part"] not in PARTS or not isinstance(row.get("form"), str):
            raise UserError(f"{path}, row {number}: part is {row['part']!r} and form {row.get('form')!r}; "
                            f"a form, and a part of {', '.join(PARTS)} are accepted")  # fmt: skip
        for key in set(row) & set(MEASURED) - {"failed"}:
            if isinstance(row[key], bool) or not isinstance(row[key], int | float) or not row[key] >= 0:
                raise UserError(f"{path}, row {number}: {key} is {row[key]!r}; a number of at least 0 is accepted")
        if row["part"] in ("model", "growth"):
            for key, value in _UNSAID.items():
                row.setdefault(key, value)
    return content
