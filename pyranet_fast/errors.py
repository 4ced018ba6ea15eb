"""User errors, warnings about datasets, and deprecated names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


class UserError(ValueError):
    """Invalid input from outside the program: a file, a folder, a flag.

    The message names the argument, what was expected and what was got.
    Commands print it as one line and exit with status 2.
    """


class UnreadableImageError(UserError):
    """The image of a person is missing or unusable.

    Attributes:
        reason: predicate after "whose picture", such as ``"is missing"``, by which people left out are counted.
    """

    def __init__(self, message: str, reason: str = "cannot be read") -> None:
        super().__init__(message)
        self.reason = reason


class DataWarning(UserWarning):
    """Warning about a dataset, such as people left out or estimated values."""


def one_line(text: str) -> str:
    """Return the text without line breaks and repeated spaces."""
    return " ".join(text.split())


FEWER_WORKERS = "use fewer --workers (0 loads without processes)"
NO_SHARED_MEMORY = (
    f"the loader processes found no room for their batches in shared memory (/dev/shm); {FEWER_WORKERS}, or make it "
    "larger, in a container by docker run --shm-size=8g"
)
"""What commands say of loader processes."""

EXTRAS = {
    "cv2": ("OpenCV", "pose"),
    "h5py": ("h5py", "pose"),
    "matplotlib": ("Matplotlib", "pose"),
    "safetensors": ("safetensors", "pose"),
    "scipy": ("SciPy", "pose"),
    "tensorboard": ("TensorBoard", "pose"),
    "tqdm": ("tqdm", "pose"),
    "gradio": ("Gradio", "demo"),
    "onnx": ("ONNX", "export"),
    "onnxruntime": ("ONNX Runtime", "export"),
    "onnxscript": ("ONNX Script", "export"),
    "openvino": ("OpenVINO", "export"),
    "pycocotools": ("pycocotools", "coco"),
}
"""Package and extra that provide a module. torch and NumPy are always installed."""


def missing_package(error: ImportError) -> str | None:
    """Return the message for a missing package of an extra; None for other import errors."""
    module = (error.name or "").split(".")[0]
    if module not in EXTRAS:
        return None
    name, extra = EXTRAS[module]
    return f"{name} is not installed, which is needed here: pip install pyranet-fast[{extra}]"


# Public names that were renamed keep working for one release.


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn the caller's caller that a public name has a new one; a larger ``stacklevel`` blames a frame further up."""
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release", DeprecationWarning, stacklevel + 1
    )


def renamed(**names: str) -> Callable[[T], T]:
    """Decorate a function or class so that the old names of its arguments still work, with a ``DeprecationWarning``.

    On a class the old names read and set the attributes of the new names too.

    Args:
        names: new name by old name.
    """

    def decorate(target: T) -> T:
        if not isinstance(target, type):
            return _with_old_arguments(target, target.__name__, names)
        owner: Any = target
        owner.__init__ = _with_old_arguments(owner.__init__, target.__name__, names)
        for old, new in names.items():
            setattr(owner, old, _old_attribute(target.__name__, old, new))
        return target

    return decorate


def _with_old_arguments(function: T, title: str, names: dict[str, str]) -> T:
    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        for old in names.keys() & keywords.keys():
            new = names[old]
            if new in keywords:
                raise TypeError(f"{title}() got both {new!r} and {old!r}, its old name")
            warn_renamed(f"argument {old!r} of {title}", repr(new))
            keywords[new] = keywords.pop(old)
        return function(*args, **keywords)

    return call  # type: ignore[return-value]


def _old_attribute(title: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        warn_renamed(f"{title}.{old}", f"{title}.{new}")
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        warn_renamed(f"{title}.{old}", f"{title}.{new}")
        setattr(self, new, value)

    return property(read, write)
