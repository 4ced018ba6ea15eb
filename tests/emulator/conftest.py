"""The emulator's modules: CUDA kernels, and the operators with their host functions, compiled for the CPU by
`make emulator` (which `make test` calls)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pyranet_fast.ops import dispatch

LIBRARIES = Path(__file__).parents[2] / "build" / "emulator"
EMULATED = "pyranet_fast_emulated"
"""The namespace of the emulated operators in ``torch.ops``."""


def load(name: str) -> ModuleType:
    """A module of the emulator; the test is skipped without it."""
    library = LIBRARIES / f"{name}.so"
    if not library.exists():
        pytest.skip(f"{library} is not there; make emulator builds it")
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulator() -> ModuleType:
    return load("_emulator")


@pytest.fixture(scope="session")
def emulated_library() -> Iterator[ModuleType]:
    """``torch.ops.pyranet_fast_emulated``: the operators that csrc/cuda/*.cu register, with the native schemas."""
    if not dispatch.native.here:
        pytest.skip("the native library, which has the operators' schemas, is not built")
    module = load("_operators")
    library = torch.library.Library(EMULATED, "DEF")
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, rest = str(schema).partition("::")
        if namespace == "pyranet_fast":
            library.define(rest)
    for registration in dispatch._registrations:  # shapes and gradients
        registration(EMULATED, getattr(torch.ops, EMULATED))
    yield module


@pytest.fixture
def operators(emulated_library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The same, in place of the native operators of the public functions; new tensors are full of NaN."""
    monkeypatch.setitem(dispatch.NAMESPACES, "native", EMULATED)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # which fills them
    emulated_library.configure({})
    emulated_library.launches()
    yield emulated_library
    torch.use_deterministic_algorithms(deterministic)
