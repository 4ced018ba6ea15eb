"""Choice of the implementation of an operator: PyTorch reference, native kernels or Triton.

Native operators live in torch's dispatcher as ``torch.ops.pyranet_fast``, Triton's as ``torch.ops.pyranet_fast_triton``
with the same schemas; what Python adds to an operator (shapes, gradients) is registered for both, see `registration`.

A library that loads may still not run: it may lack code for the GPU's architecture, or the driver may be too old. So
the first tensor on a GPU triggers a probe, one tiny launch; if native kernels fail it, Triton's are used, then the
reference. `native_on` and `triton_on` keep the reasons.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

BACKENDS = ("reference", "native", "triton")
NAMESPACES = {"native": "pyranet_fast", "triton": "pyranet_fast_triton"}
Registration = Callable[[str, Any], None]
Answer = TypeVar("Answer", bound=Callable[..., Any])


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

_triton: Availability | None = None  # None until first used: loading takes a second
_registrations: list[Registration] = []
_fastest = {"cpu": "native", "meta": "native"} if native.here else {}
"""By device type other than CUDA the fastest backend that is loaded; the reference runs where there is none."""
_probed: dict[tuple[str, int], Availability] = {}
"""By backend and index of a GPU what its probe found."""


def on_load(registration: Registration) -> Registration:
    """Have ``registration(namespace, torch.ops.<namespace>)`` called for every backend that is or gets loaded."""
    _registrations.append(registration)
    for name, loaded in (("native", native), ("triton", _triton)):
        if loaded is not None and loaded.here:
            registration(NAMESPACES[name], getattr(torch.ops, NAMESPACES[name]))
    return registration


def triton() -> Availability:
    """Triton's operators, which the first call loads."""
    global _triton
    if _triton is None:
        _triton = _load("pyranet_fast.ops.triton")
        if _triton.here:
            for registration in _registrations:
                registration(NAMESPACES["triton"], torch.ops.pyranet_fast_triton)
    return _triton


def triton_devices() -> list[str]:
    """Device types that Triton's kernels run on: the CPU in Triton's interpreter only, which is for tests."""
    return ["cuda", "cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else ["cuda"]


def native_devices() -> list[str]:
    """Device types for which native kernels are loaded."""
    return [*(["cpu"] if native.here else []), *(["cuda"] if native_cuda.here else [])]


def native_on(index: int | None = None) -> Availability:
    """Whether the native CUDA kernels run on a GPU (None: the current one), found out by one tiny launch there."""
    return _probe("native", native_cuda, _launch_native, index)


def triton_on(index: int | None = None) -> Availability:
    """Whether Triton's kernels run on a GPU (None: the current one), found out as `native_on` does."""
    return _probe("triton", triton(), _launch_triton, index)


def _probe(backend: str, loaded: Availability, launch: Callable[[int], str | None], index: int | None) -> Availability:
    if index is not None and (known := _probed.get((backend, index))) is not None:  # at every call of an operator
        return known
    if not loaded.here or not torch.cuda.is_available():  # without a GPU a tensor "on CUDA" has shapes alone
        return loaded
    index = torch.cuda.current_device() if index is None else index
    if index >= torch.cuda.device_count():
        return loaded
    if (backend, index) not in _probed:
        if backend == "triton" and torch.cuda.is_current_stream_capturing():
            return loaded  # nothing can be read while a graph records: found out at the next call
        reason = launch(index)
        if reason is not None:
            major, minor = torch.cuda.get_device_capability(index)
            name = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
            reason = f"{reason}; cuda:{index} is {name}"
        _probed[backend, index] = Availability(reason)
    return _probed[backend, index]


def _launch_native(index: int) -> str | None:
    """What keeps the native kernels from running on a GPU; csrc/cuda/probe.cu."""
    try:
        probe = ctypes.CDLL(sys.modules["pyranet_fast._cuda"].__file__).pyranet_fast_cuda_probe
    except (OSError, AttributeError):
        return "_cuda is of another version of the package: build it again"
    reason = ctypes.create_string_buffer(512)
    with torch.cuda.device(index):
        probe(reason, ctypes.c_size_t(len(reason)))
    return reason.value.decode() or None


def _launch_triton(index: int) -> str | None:
    """What keeps Triton's kernels from running on a GPU: its compiler, a driver, an architecture it does not know."""
    return _tiny_triton_launch(torch.device("cuda", index))


def _tiny_triton_launch(device: torch.device) -> str | None:
    try:
        with _disable_current_modes(), torch._C._DisableFuncTorch(), torch.no_grad():  # values, in any mode
            joint, weight = torch.zeros(1, 1, 2, device=device), torch.ones(1, 1, device=device)
            peak = float(torch.ops.pyranet_fast_triton.gaussian_heatmaps(joint, weight, 1, 1, 1.0))
    except Exception as error:  # of Triton, of its compiler, of a C compiler that it calls, of the driver
        lines = str(error).strip().splitlines() or [""]
        return f"Triton: {type(error).__name__}: {lines[0][:200]}"
    return None if peak == 1 else f"Triton: a kernel ran and gave {peak} in place of 1"


def _constant(function: Answer) -> Answer:
    """Have compilers take an answer as a constant: they cannot trace a probe.

    It is ``torch.compiler.assume_constant_result`` without the compiler, whose import takes a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _fastest_on_gpu(index: int | None) -> str | None:
    """The fastest backend that runs on a GPU; None: the reference."""
    if native_on(index).here:
        return "native"
    fallback = "triton" if triton_on(index).here else None
    if native_cuda.here:
        _warn_of_a_gpu(index, fallback)
    return fallback


@_constant
def _against_native_on(index: int | None) -> str | None:
    return native_on(index).reason


def available() -> list[str]:
    """List the backends available on this machine, slowest first."""
    somewhere = torch.cuda.is_available() or "cpu" in triton_devices()
    return [
        "reference",
        *(["triton"] if somewhere and triton().here else []),
        *(["native"] if native.here else []),
    ]


def _named_by_environment() -> str | None:
    name = os.environ.get("PYRANET_FAST_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"PYRANET_FAST_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
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

    Other threads are not affected; a new thread (loader worker, executor, autograd thread) starts with
    PYRANET_FAST_BACKEND or, if unset, the fastest backend available for the tensor's device. The backward pass of an
    operator uses the backend of its forward pass in any thread.

    Args:
        name: ``"reference"`` (plain PyTorch), ``"native"`` (compiled kernels) or ``"triton"``; None for the fastest.

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend is not available.
    """
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
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
        fastest = _fastest_on_gpu(x.device.index) if device == "cuda" else _fastest.get(device)
        if fastest is not None:
            return fastest
        if not native.here and not torch.compiler.is_compiling():
            _warn_of_the_reference()
        return "reference"
    if name == "native" and device == "cuda" and native_cuda.here:
        reason = _against_native_on(x.device.index)
        if reason is not None:
            raise RuntimeError(f"backend 'native' does not run on device {x.device}: {reason}")
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


def has_kernel(operator: str, key: str) -> bool:
    """Whether torch's dispatcher has a kernel of ours for an operator ("namespace::name") and a key ("CPU", "CUDA")."""
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key))
    except RuntimeError:  # no such operator: the library that defines it is not loaded
        return False


def operators(x: torch.Tensor) -> Any:
    """``torch.ops.<namespace>`` of the backend that runs for this tensor; None for the reference."""
    name = choose(x)
    return None if name == "reference" else getattr(torch.ops, NAMESPACES[name])


def explain(device_type: str = "cpu") -> tuple[str, str]:
    """The backend an operator would use for this device type, and the reason, for `pyranet_fast.env`."""
    if _choice.name is not None:
        return _choice.name, "chosen by backend() or PYRANET_FAST_BACKEND"
    here = native_on() if device_type == "cuda" else native
    if device_type in native_devices() and here.here:
        return "native", "native kernels are loaded: the fastest present"
    if device_type == "cuda" and (_triton is not None or torch.cuda.is_available()) and triton_on().here:
        return "triton", f"no native CUDA kernels: {here.reason}"
    if not native.here:
        return "reference", f"native library not loaded: {native.reason}"
    if device_type == "cuda":
        why = "not loaded: torch finds no GPU" if _triton is None else triton_on().reason
        return "reference", f"no native CUDA kernels ({here.reason}), nor Triton's ({why})"
    return "reference", f"no native kernels for device type {device_type!r} in this build"


@functools.cache  # once a process
def _warn_of_the_reference() -> None:
    warnings.warn(
        f"pyranet_fast runs on its PyTorch reference: the native library is not loaded ({native.reason}). "
        "Everything works, more slowly; `python -m pyranet_fast.env` shows details.",
        stacklevel=3,
    )


@functools.cache  # once a device
def _warn_of_a_gpu(index: int | None, fallback: str | None) -> None:
    other = "Triton's run instead" if fallback else f"nor do Triton's ({triton_on(index).reason}): the reference runs"
    warnings.warn(
        f"pyranet_fast's CUDA kernels do not run here ({native_on(index).reason}); {other}. "
        "Everything works, more slowly; `python -m pyranet_fast.env` shows details.",
        stacklevel=3,
    )


# A process that will need Triton's operators loads them now: inside a compiled graph it would be too late.
if _default == "triton" or (not native_cuda.here and torch.version.cuda and torch.cuda.is_available()):
    triton()
