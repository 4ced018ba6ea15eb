"""The CPU kernels beside naive loops, without torch: the program that `make parity` builds, per instruction set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "native" / "parity"


def run(instruction_set: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM], env={**os.environ, "PYRANET_FAST_CPU_ISA": instruction_set}, capture_output=True, text=True
    )


@pytest.mark.skipif(not PROGRAM.exists(), reason="run make parity first")
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512", "avx512bf16"])
def test_kernels_agree_with_naive_loops(instruction_set: str) -> None:
    result = run(instruction_set)
    assert result.returncode == 0, result.stdout + result.stderr
    closing = result.stdout.splitlines()[-1]
    if not closing.startswith(f"{instruction_set}: "):
        pytest.skip(f"this machine has no {instruction_set}")
    assert closing.endswith(" comparisons, 0 failed")
