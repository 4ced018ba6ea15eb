"""What a run has left in its folder, beside what an undisturbed one leaves: the same bits, but for measured times."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

# What is measured while a command runs, and is another each time.
MEASURED = {
    "people_per_second", "network_share", "images_per_second", "data_wait", "seconds", "waited", "peak_megabytes",
}  # fmt: skip


def differences(found: Path, expected: Path) -> list[str]:
    """The files of two folders that are not the same, with what is another; files that one of them lacks.

    Events of TensorBoard are left out: a run that was killed adds a file to them.
    """
    names = sorted(_files(found) | _files(expected))
    return [text for name in names if (text := _difference(found / name, expected / name, name))]


def _files(folder: Path) -> set[str]:
    every = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in every if path.parts[0] != "tensorboard"}


def _difference(found: Path, expected: Path, name: str) -> str:
    if not expected.is_file():
        return f"{name} is left over"
    if not found.is_file():
        return f"{name} is missing"
    if found.read_bytes() == expected.read_bytes():
        return ""
    readers = {".pt": _checkpoint, ".json": _json, ".csv": _table, ".h5": _arrays, ".html": _report}
    read = readers.get(expected.suffix)
    if read is None:
        return f"{name} has other bytes"
    one, other = dict(_leaves(read(found))), dict(_leaves(read(expected)))
    where = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return f"{name} has another {', '.join(where[:3])}" if where else ""


def _checkpoint(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _table(path: Path) -> Any:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _arrays(path: Path) -> Any:
    with h5py.File(path) as file:
        return {**{name: np.asarray(file[name]) for name in file}, "attributes": dict(file.attrs)}


def _report(path: Path) -> Any:
    """Curves, results and images of a training's report, and its status; the rest is times and memory."""
    text = path.read_text()
    (data,) = re.findall(r"<script[^>]*application/json[^>]*>(.*?)</script>", text, re.DOTALL)
    curves = {chart["title"]: chart for chart in json.loads(data)["charts"]}
    del curves["Throughput"], curves["Time spent waiting for data"]
    pictures = re.findall(r"<img [^>]*>", text)
    assert len(curves) >= 3 and pictures
    tables = re.findall(r"<!-- results -->.*?<!-- end of results -->", text, re.DOTALL)
    assert len(tables) == 1
    return {"curves": curves, "table": tables, "pictures": pictures, "finished": "Finished:" in text}


def _leaves(value: Any, place: str = "") -> list[tuple[str, Any]]:
    """Each number, text and tensor of a nested value with its place; of arrays dtype, shape and bytes."""
    if isinstance(value, dict):
        return [leaf for key, of in value.items() if key not in MEASURED for leaf in _leaves(of, f"{place}/{key}")] or [
            (place, "{}")
        ]
    if isinstance(value, list | tuple):
        return [leaf for at, of in enumerate(value) for leaf in _leaves(of, f"{place}/{at}")] or [(place, "[]")]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return [(place, (str(value.dtype), value.shape, value.tobytes()))]
    return [(place, (type(value).__name__, repr(value)))]
