"""Triton's kernels at the network's shapes: they compile, do not spill and leave room for 16 warps."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.testing import triton_marks

pytestmark = triton_marks
VERSION = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "0.0"
MOST = [] if tuple(map(int, VERSION.split(".")[:2])) >= (3, 9) else ["--most-registers", "255"]
"""Triton 3.6 needs up to 235 registers where 3.9 needs 128; it must not spill either."""
HEAVY = "pool backward, own windows$|mirrored"
"""The launches that need most registers."""


def compiled(cache: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of the command."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    del environment["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.ops.triton_resources", *arguments, "--dtypes", "bfloat16"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert not run.stderr, run.stderr
    return run.returncode, run.stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "kernels"), [(["90"], 21), (["80", "100", "120", "--only", HEAVY], 6)], ids=("all", "the heaviest")
)
def test_no_kernel_spills_or_needs_too_many_registers(tmp_path: Path, arguments: list[str], kernels: int) -> None:
    status, lines = compiled(tmp_path, *arguments, *MOST)
    assert status == 0, "\n".join(lines)
    assert len(lines) == kernels and all(line.endswith("  ok") for line in lines)


def test_a_kernel_that_needs_too_many_fails(tmp_path: Path) -> None:
    status, lines = compiled(tmp_path, "90", "--only", "targets", "--most-registers", "20")
    assert status == 1 and len(lines) == 1 and lines[0].endswith("TOO MUCH")
