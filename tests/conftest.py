"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's kernels run in its interpreter then, on the CPU; Triton looks when it is imported, so this comes first.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One precision for all tests, so that runs can be compared; what is measured otherwise has tests of its own.
os.environ.setdefault("PYRANET_FAST_PRECISION", "fp32")
# What torch.compile has made for one instruction set is wrong under another that a variable asks for, and its cache
# does not tell them apart.
_ISA = os.environ.get("ATEN_CPU_CAPABILITY", "all")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / f"inductor-{_ISA}"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets, $PYRANET_FAST_DATA or ../shared/data; the test is skipped without it."""
    given = os.environ.get("PYRANET_FAST_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set PYRANET_FAST_DATA")
    return root
