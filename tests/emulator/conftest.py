"""The emulator's module: CUDA kernels compiled for the CPU by `make emulator` (which `make test` calls)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

LIBRARY = Path(__file__).parents[2] / "build" / "emulator" / "_emulator.so"


@pytest.fixture(scope="session")
def emulator() -> ModuleType:
    if not LIBRARY.exists():
        pytest.skip(f"{LIBRARY} is not there; make emulator builds it")
    spec = importlib.util.spec_from_file_location("_emulator", LIBRARY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
