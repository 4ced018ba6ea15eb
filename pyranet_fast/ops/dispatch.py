"""Which implementation runs an operator: the PyTorch reference, the native kernels or Triton's.

Native operators live in torch's dispatcher as ``torch.ops.pyranet_fast``, Triton's as ``torch.ops.pyranet_fast_triton``
with the same schemas; what Python adds to an operator (shapes, gradients) is registered for both, see `registration`.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

BACKENDS = ("reference", "native", "triton")
_NAMESPACES = {"native": "pyranet_fast", "triton": "pyranet_fast_triton"}
Registration = Callable[[str, Any], None]


@dataclass(frozen=True)
class Availability:
    """Whether a part of the package can be used here.

    Attributes:
        reason: why not; None where it can.
    """

    reason: str | None = None

    @property
    def here(self) -> bool:
        """Whether there is no reason against it."""
        return self.reason is None


def _load(module: str) -> Availability:
    """Import a part of the package."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Availability(str(error))
    return Availability()


native = _load("pyranet_fast._C")
"""The native library: operators and CPU kernels."""

native_cuda = native
"""The native CUDA kernels."""
if native.here:
    native_cuda = (
        _load("pyranet_fast._cuda") if torch.version.cuda else Availability("this torch is built without CUDA")
    )

_triton: Availability | None = None  # None until somebody asks: loading takes a second
_registrations: list[Registration] = []
_fastest = {"cpu": "native", "meta": "native"} if native.here else {}
"""By device type the fastest backend that is loaded; the reference runs where there is none."""
if native_cuda.here:
    _fastest["cuda"] = "native"


def on_load(registration: Registration) -> Registration:
    """Have ``registration(namespace, torch.ops.<namespace>)`` called for every backend that is or gets loaded."""
    _registrations.append(registration)
    for name, loaded in (("native", native), ("triton", _triton)):
        if loaded is not None and loaded.here:
            registration(_NAMESPACES[name], getattr(torch.ops, _NAMESPACES[name]))
    return registration


def triton() -> Availability:
    """Triton's operators, which the first call loads."""
    global _triton
    if _triton is None:
        _triton = _load("pyranet_fast.ops.triton")
        if _triton.here:
            _fastest.setdefault("cuda", "triton")
            for registration in _registrations:
                registration(_NAMESPACES["triton"], torch.ops.pyranet_fast_triton)
    return _triton


def triton_devices() -> list[str]:
    """Device types that Triton's kernels run on: the CPU in Triton's interpreter only, which is for tests."""
    return ["cuda", "cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else ["cuda"]


def native_devices() -> list[str]:
    """Device types for which native kernels are loaded."""
    return [*(["cpu"] if native.here else []), *(["cuda"] if native_cuda.here else [])]


def available() -> list[str]:
    """The backends that this installation can run on this machine, slowest first."""
    somewhere = torch.cuda.is_available() or "cpu" in triton_devices()
    return [
        "reference",
        *(["triton"] if somewhere and triton().here else []),
        *(["native"] if native.here else []),
    ]


def _named_by_environment() -> str | None:
    name = os.environ.get("PYRANET_FAST_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"PYRANET_FAST_BACKEND is {name!r}; accepted are {', '.join(BACKENDS)}")
    return name


_default = _named_by_environment()


class _Choice(threading.local):
    """The backend that a thread has chosen; None: the fastest. A new thread starts with the environment's.

    Not a ``ContextVar``: `torch.compile` cannot trace its ``get()`` (torch 2.13), but guards the attributes that
    ``__init__`` gives to a ``threading.local``, so that a compiled function follows `backend` too.
    """

    def __init__(self) -> None:
        self.name = _default


_choice = _Choice()


def chosen() -> str | None:
    """The backend that this thread has chosen with `backend` or PYRANET_FAST_BACKEND; None: a device's fastest."""
    return _choice.name


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Run the operators inside the ``with`` block on one backend, in this thread.

    Other threads keep their own choice, and a new one starts with PYRANET_FAST_BACKEND or, where that is not set, the
    fastest backend available for a tensor's device: loader workers, executors, and the threads in which autograd runs
    the backward of a GPU. The backward of an operator runs on the backend of its forward, whatever the thread.

    Args:
        name: ``"reference"`` (plain PyTorch), ``"native"`` (compiled kernels) or ``"triton"``; None for the fastest.

    Raises:
        ValueError: unknown name.
        RuntimeError: this installation does not have that backend.
    """
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(f"backend is {name!r}; accepted are {', '.join(BACKENDS)}")
        found = availability(name)
        if not found.here:
            raise RuntimeError(f"backend {name!r} is not available here: {found.reason}")
    before = _choice.name
    _choice.name = name
    try:
        yield
    finally:
        _choice.name = before


def availability(name: str) -> Availability:
    """Whether this installation has a backend, on any device."""
    return native if name == "native" else triton() if name == "triton" else Availability()


def choose(x: torch.Tensor) -> str:
    """The backend that runs for this tensor: the chosen one, else the fastest available for its device.

    Raises:
        RuntimeError: the chosen backend has no kernels for the tensor's device.
    """
    name, device = _choice.name, x.device.type
    if name is None:
        fastest = _fastest.get(device)
        if fastest is not None:
            return fastest
        if not native.here and not torch.compiler.is_compiling():
            _warn_of_the_reference()
        return "reference"
    if name == "native" and device not in (*native_devices(), "meta"):
        reason = f" ({native_cuda.reason})" if device == "cuda" else ""
        raise RuntimeError(
            f"backend 'native' has no kernels for device {x.device}{reason}; it serves {native_devices()}"
        )
    if name == "triton" and device not in (*triton_devices(), "meta"):
        raise RuntimeError(
            f"backend 'triton' has no kernels for device {x.device}; it serves {triton_devices()} "
            "(the CPU in Triton's interpreter alone: TRITON_INTERPRET=1)"
        )
    return name


def operators(x: torch.Tensor) -> Any:
    """``torch.ops.<namespace>`` of the backend that runs for this tensor; None for the reference."""
    name = choose(x)
    return None if name == "reference" else getattr(torch.ops, _NAMESPACES[name])


def explain(device_type: str = "cpu") -> tuple[str, str]:
    """The backend an operator would use for this device type, and the reason, for `pyranet_fast.env`."""
    if _choice.name is not None:
        return _choice.name, "chosen by backend() or PYRANET_FAST_BACKEND"
    if device_type in native_devices():
        return "native", "native kernels are loaded: the fastest present"
    if device_type == "cuda" and _triton is not None and _triton.here:
        return "triton", f"no native CUDA kernels: {native_cuda.reason}"
    if not native.here:
        return "reference", f"native library not loaded: {native.reason}"
    if device_type == "cuda":
        why = "not loaded: torch finds no GPU" if _triton is None else _triton.reason
        return "reference", f"no native CUDA kernels ({native_cuda.reason}), nor Triton's ({why})"
    return "reference", f"no native kernels for device type {device_type!r} in this build"


@functools.cache  # once a process
def _warn_of_the_reference() -> None:
    warnings.warn(
        f"pyranet_fast runs on its PyTorch reference: the native library is not loaded ({native.reason}). "
        "Everything works, more slowly; `python -m pyranet_fast.env` tells more.",
        stacklevel=3,
    )


# A process that will need Triton's operators loads them now: inside a compiled graph it would be too late.
if _default == "triton" or (not native_cuda.here and torch.version.cuda and torch.cuda.is_available()):
    triton()
