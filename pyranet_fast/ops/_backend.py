"""Which implementation runs an operator: the PyTorch reference, the native kernels or Triton.

Native operators live in torch's dispatcher as ``torch.ops.pyranet_fast``, Triton's as ``torch.ops.pyranet_fast_triton``
with the same schemas; what Python adds to an operator (shapes, autograd) is registered for both by one function.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

BACKENDS = ("reference", "native", "triton")
_NAMESPACES = {"native": "pyranet_fast", "triton": "pyranet_fast_triton"}
Registration = Callable[[str, Any], None]


def _load(module: str) -> str | None:
    """Import a part of the package; returns why it could not be, or None."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return None


native_error: str | None = _load("pyranet_fast._C")
"""Why the native library could not be loaded; None when it was."""

cuda_error: str | None = native_error
"""Why the native CUDA kernels could not be loaded; None when they were."""
if native_error is None:
    cuda_error = _load("pyranet_fast._cuda") if torch.version.cuda else "this torch is built without CUDA"

_registrations: list[Registration] = []
_triton: str | None = "not loaded yet"  # why Triton's operators are not there; None when they are


def registers(registration: Registration) -> Registration:
    """Have ``registration(namespace, torch.ops.<namespace>)`` called for every backend that is or gets loaded."""
    _registrations.append(registration)
    for name in [*(["native"] if native_error is None else []), *(["triton"] if _triton is None else [])]:
        registration(_NAMESPACES[name], getattr(torch.ops, _NAMESPACES[name]))
    return registration


def triton_error() -> str | None:
    """Load Triton's operators on the first call; why that did not work, or None."""
    global _triton
    if _triton == "not loaded yet":
        _triton = _load("pyranet_fast.ops.triton")
        if _triton is None:
            for registration in _registrations:
                registration(_NAMESPACES["triton"], torch.ops.pyranet_fast_triton)
    return _triton


def triton_devices() -> list[str]:
    """Device types that Triton's kernels run on: the CPU in Triton's interpreter only, which is for tests."""
    return ["cuda", "cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else ["cuda"]


def _initial_choice() -> str | None:
    name = os.environ.get("PYRANET_FAST_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"PYRANET_FAST_BACKEND is {name!r}; accepted are {', '.join(BACKENDS)}")
    return name


_choice: str | None = _initial_choice()
_warned = False


def available() -> list[str]:
    """The backends that this installation can run on this machine, slowest first."""
    somewhere = torch.cuda.is_available() or "cpu" in triton_devices()
    return [
        "reference",
        *(["triton"] if somewhere and triton_error() is None else []),
        *(["native"] if native_error is None else []),
    ]


def native_devices() -> list[str]:
    """Device types for which native kernels are loaded."""
    return [*(["cpu"] if native_error is None else []), *(["cuda"] if cuda_error is None else [])]


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
    reason = native_error if name == "native" else triton_error() if name == "triton" else None
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is not available here: {reason}")
    before = _choice
    _choice = name
    try:
        yield
    finally:
        _choice = before


def choose(x: torch.Tensor) -> str:
    """The backend that runs for this tensor: the chosen one, else the fastest that serves its device.

    Raises:
        RuntimeError: the chosen backend has no kernels for the tensor's device.
    """
    device = x.device.type
    if _choice is None:
        if device in native_devices() or (device == "meta" and native_error is None):
            return "native"
        if device == "cuda" and _triton is None:
            return "triton"
        if native_error is not None and not torch.compiler.is_compiling():
            _say_once()
        return "reference"
    if _choice == "native" and device not in (*native_devices(), "meta"):
        reason = f" ({cuda_error})" if device == "cuda" else ""
        raise RuntimeError(
            f"backend 'native' has no kernels for device {x.device}{reason}; it serves {native_devices()}"
        )
    if _choice == "triton" and device not in (*triton_devices(), "meta"):
        raise RuntimeError(
            f"backend 'triton' has no kernels for device {x.device}; it serves {triton_devices()} "
            "(the CPU in Triton's interpreter alone: TRITON_INTERPRET=1)"
        )
    return _choice


def operators(x: torch.Tensor) -> Any:
    """``torch.ops.<namespace>`` of the backend that runs for this tensor; None for the reference."""
    chosen = choose(x)
    return None if chosen == "reference" else getattr(torch.ops, _NAMESPACES[chosen])


def explain(device_type: str = "cpu") -> tuple[str, str]:
    """The backend an operator would use for this device type, and the reason, for `pyranet_fast.env`."""
    if _choice is not None:
        return _choice, "chosen by backend() or PYRANET_FAST_BACKEND"
    if device_type in native_devices():
        return "native", "native kernels are loaded: the fastest present"
    if device_type == "cuda" and _triton is None:
        return "triton", f"no native CUDA kernels: {cuda_error}"
    if native_error is not None:
        return "reference", f"native library not loaded: {native_error}"
    if device_type == "cuda":
        return "reference", f"no native CUDA kernels ({cuda_error}), nor Triton's ({_triton})"
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


# A process that will need Triton's operators loads them now: inside a compiled graph it would be too late.
if _choice == "triton" or (cuda_error is not None and torch.version.cuda and torch.cuda.is_available()):
    triton_error()
