"""Which implementation runs an operator: the PyTorch reference, the native kernels or Triton."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BACKENDS = ("reference", "native", "triton")

native_error: str | None = None
"""Why the native library could not be loaded; None when it was."""

try:
    importlib.import_module("pyranet_fast._C")
except ImportError as error:
    native_error = str(error)


def _initial_choice() -> str | None:
    name = os.environ.get("PYRANET_FAST_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"PYRANET_FAST_BACKEND is {name!r}; accepted are {', '.join(BACKENDS)}")
    return name


_choice: str | None = _initial_choice()
_warned = False


def available() -> list[str]:
    """The backends that this installation can run, slowest first."""
    return ["reference"] + ([] if native_error else ["native"])


def native_devices() -> list[str]:
    """Device types for which native kernels are loaded."""
    return [] if native_error else ["cpu"]


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators inside the ``with`` block on one backend, process-wide.

    Args:
        name: ``"reference"`` (plain PyTorch), ``"native"`` (compiled kernels) or ``"triton"``.

    Raises:
        ValueError: unknown name.
        RuntimeError: this installation does not have that backend.
    """
    global _choice
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; accepted are {', '.join(BACKENDS)}")
    if name not in available():
        reason = native_error if name == "native" else "this version has no Triton kernels"
        raise RuntimeError(f"backend {name!r} is not available here: {reason}")
    before = _choice
    _choice = name
    try:
        yield
    finally:
        _choice = before


def use_native(x: torch.Tensor) -> bool:
    """Whether the native kernels run for this tensor: they are loaded, wanted, and serve its device."""
    if _choice is None:
        if native_error is None:
            return x.device.type == "cpu" or x.device.type == "meta"
        if not torch.compiler.is_compiling():
            _say_once()
        return False
    if _choice == "native":
        if x.device.type not in ("cpu", "meta"):
            raise RuntimeError(f"backend 'native' has no kernels for device {x.device}; it serves {native_devices()}")
        return True
    return False


def explain(device_type: str = "cpu") -> tuple[str, str]:
    """The backend an operator would use for this device type, and the reason, for `pyranet_fast.env`."""
    if _choice is not None:
        return _choice, "chosen by backend() or PYRANET_FAST_BACKEND"
    if native_error is not None:
        return "reference", f"native library not loaded: {native_error}"
    if device_type in native_devices():
        return "native", "native kernels are loaded: the fastest present"
    return "reference", f"no native kernels for device type {device_type!r} in this build"


def _say_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"pyranet_fast runs on its PyTorch reference: the native library is not loaded ({native_error}). "
            "Everything works, more slowly; `python -m pyranet_fast.env` tells more.",
            stacklevel=3,
        )
