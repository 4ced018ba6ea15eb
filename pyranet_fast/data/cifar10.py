"""CIFAR-10 (Krizhevsky, 2009) in its original pickle layout, read without trusting the pickles."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import UserError
from .labelled import LabelledImages

FOLDER = "cifar-10-batches-py"
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of all 50,000 training images: one constant whichever part is at hand, so that networks can be exchanged.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def load_cifar10(root: str | Path | None, split: str) -> LabelledImages:
    """Read a part of CIFAR-10.

    Args:
        root: the folder that holds ``cifar-10-batches-py/``, or that folder itself.
        split: ``"train"``: all of data_batch_1 to data_batch_5 that are there (the name says how many images);
            ``"test"``: test_batch.

    Raises:
        UserError: no such folder or file, or a file that is cut short, damaged, or no batch of CIFAR-10.
        ValueError: an unknown split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; 'train' and 'test' are accepted")
    folder = find_folder(root)
    if split == "train":
        files = [folder / name for name in TRAINING if (folder / name).is_file()]
        if not files:
            raise UserError(f"{folder} has none of data_batch_1 to data_batch_5, CIFAR-10's training images")
    else:
        files = [folder / "test_batch"]
    classes = read_classes(folder / "batches.meta")
    parts = [read_batch(file, len(classes)) for file in files]
    images = torch.from_numpy(np.concatenate([images for images, _ in parts]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    name = f"CIFAR-10 {split}, {len(images)} images"
    if split == "train" and len(files) < len(TRAINING):
        name += f" ({len(files)} of {len(TRAINING)} files)"
    return LabelledImages(name, images, labels, classes, MEAN, STD)


def find_folder(root: str | Path | None) -> Path:
    """The folder of the batches under (or at) a root."""
    if root is None:
        raise UserError(f"CIFAR-10 needs --root, the folder that holds {FOLDER}/")
    root = Path(root)
    if (root / FOLDER).is_dir():
        return root / FOLDER
    if root.is_dir() and any((root / name).is_file() for name in (*TRAINING, "test_batch")):
        return root
    raise UserError(f"folder {root / FOLDER} does not exist; it comes out of cifar-10-python.tar.gz")


def read_batch(path: Path, classes: int = len(CLASSES)) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (N, 3, 32, 32) RGB and labels (N,) of one file.

    Raises:
        UserError: see `load_cifar10`.
    """
    content = safe_unpickle(path)
    if not isinstance(content, dict) or b"data" not in content or b"labels" not in content:
        raise UserError(f"{path} is no batch of CIFAR-10: it has no data and labels")
    data, labels = content[b"data"], content[b"labels"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserError(f"{path} is no batch of CIFAR-10: data is {found}; uint8 (N, 3072) is expected")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is no batch of CIFAR-10: labels is not a list of whole numbers")
    if len(labels) != len(data) or not labels:
        raise UserError(f"{path} has {len(data)} images and {len(labels)} labels; one label each is expected")
    wrong = next((i for i, label in enumerate(labels) if not 0 <= label < classes), None)
    if wrong is not None:
        raise UserError(f"{path}: label {labels[wrong]} of image {wrong} is outside 0 to {classes - 1}")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32)), np.array(labels, dtype=np.int64)


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of the classes in batches.meta; CIFAR-10's own where there is no such file."""
    if not path.is_file():
        return CLASSES
    content = safe_unpickle(path)
    names = content.get(b"label_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{path} does not hold the names of CIFAR-10's classes: label_names is missing or no list")
    return tuple(name.decode("ascii", "replace") for name in names)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes under protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # it has moved between NumPy's versions
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


class _Refused(Exception):
    """The pickle asks for something that data do not need."""


class _SafeUnpickler(pickle.Unpickler):
    """Builds arrays, numbers, text and containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def safe_unpickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain values; Python 2's strings become bytes.

    Raises:
        UserError: no such file; cut short or damaged; or it names code (which is not run).
    """
    try:
        with path.open("rb") as file:
            return _SafeUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError:
        raise
    except _Refused as error:
        raise UserError(f"{path} asks for {error}, which is not needed to hold images: it was not run") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} cannot be read: it is cut short or damaged") from error
