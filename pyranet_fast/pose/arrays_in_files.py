"""Named arrays from HDF5 and MATLAB files, and the order of an array's axes from their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

Array = npt.NDArray[Any]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
# Letters of a layout: N people, K joints, C coordinates (x, y and perhaps a score).
_WORDS = {"NKC": "N x {k} x 2|3", "NCK": "N x 2|3 x {k}", "CKN": "2|3 x {k} x N", "KCN": "{k} x 2|3 x N"}


def read_arrays(path: str | Path, what: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the arrays of a file that stand at its top.

    Args:
        path: ``.h5`` or ``.hdf5``, or ``.mat`` of any version.
        what: what the file is, for messages.

    Returns:
        Arrays by name, axes in the order in which the writing program shows them, and the file's attributes.

    Raises:
        UserError: no such file, another suffix, or contents that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} is no file" if path.exists() else f"{what} {path} does not exist")
    suffix = path.suffix.lower()
    if suffix not in (*_HDF5_SUFFIXES, ".mat"):
        raise UserError(f"{what} {path} must be a .h5 or .mat file, by its name")
    try:
        if suffix != ".mat":
            return _hdf5(path, matlab=False)
        with path.open("rb") as file:
            head = file.read(520)
        # MATLAB's version 7.3 is HDF5 behind 512 bytes of MATLAB's own.
        if head[512:] == _HDF5 or head[:8] == _HDF5:
            return _hdf5(path, matlab=True)
        from scipy.io import loadmat

        content = loadmat(path)
    except UserError:
        raise
    except Exception as error:  # both libraries raise many kinds on a damaged file
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{what} {path} cannot be read; it is damaged or not of its suffix's format ({reason})"
        ) from error
    return {name: np.asarray(value) for name, value in content.items() if not name.startswith("__")}, {}


def _hdf5(path: Path, matlab: bool) -> tuple[dict[str, Array], dict[str, Any]]:
    import h5py

    arrays: dict[str, Array] = {}
    with h5py.File(path, "r") as file:
        attrs = {name: _plain(value) for name, value in file.attrs.items()}
        for name, item in file.items():
            if not isinstance(item, h5py.Dataset):
                # A structure of MATLAB's, or a group: named, so that messages can tell that it is there.
                arrays[name] = np.empty(0, dtype=object)
                continue
            value = np.asarray(item[()])
            if matlab and item.attrs.get("MATLAB_class") in (b"char", "char"):
                value = np.array("".join(map(chr, value.ravel())))
            # MATLAB stores the first axis fastest, HDF5 the last: it writes its axes in reverse.
            arrays[name] = value.T if matlab else value
    return arrays, attrs


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


def arrange(
    array: Array,
    name: str,
    *,
    joints: Sequence[int],
    people: int | None = None,
    layouts: Sequence[str] = ("NKC", "NCK", "CKN", "KCN"),
) -> tuple[npt.NDArray[np.float64], str]:
    """Put an array of joints into the order people, joints, coordinates.

    Args:
        array: three axes, in an order that is not known.
        name: what messages call it.
        joints: the numbers of joints that are possible.
        people: the number of people where it is known.
        layouts: the orders that are possible: letters N (people), K (joints), C (2 or 3 coordinates).

    Returns:
        (N, K, 2 or 3) float64, and the layout it had, such as ``"N x 16 x 3"``.

    Raises:
        UserError: the sizes fit none or more than one of the orders.
    """
    shape = array.shape
    fitting = [layout for layout in layouts if array.ndim == 3 and _fits(layout, shape, joints, people)]
    count = " or ".join(map(str, joints))
    accepted = ", ".join(_WORDS[layout].format(k=count) for layout in layouts)
    if people is not None:
        accepted += f" with N = {people}"
    if not fitting:
        raise UserError(f"{name} has shape {shape}; accepted are {accepted}")
    if len(fitting) > 1:
        both = " and as ".join(_WORDS[layout].format(k=count) for layout in fitting)
        raise UserError(f"{name} has shape {shape}, which can be read as {both}; write it as N x K x 3 to an .h5 file "
                        "with the attribute 'joints', the list of joint names")  # fmt: skip
    (layout,) = fitting
    values = array.transpose([layout.index(axis) for axis in "NKC"]).astype(np.float64)
    return values, " x ".join("N" if axis == "N" else str(size) for axis, size in zip(layout, shape, strict=True))


def _fits(layout: str, shape: tuple[int, ...], joints: Sequence[int], people: int | None) -> bool:
    size = dict(zip(layout, shape, strict=True))
    return size["K"] in joints and size["C"] in (2, 3) and size["N"] > 0 and people in (None, size["N"])
