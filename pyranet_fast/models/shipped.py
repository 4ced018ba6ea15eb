"""The trained networks that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..weights_file import SUFFIX, describe

FOLDER = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Available:
    """A trained network: what `available` lists.

    Attributes:
        name: what `Predictor`, ``--checkpoint`` and ``--weights`` take it by.
        path: its file.
        description: where the weights come from.
        kind: ``"pose"`` or ``"classification"``.
        model: arguments of the network.
        input_size: side of the square network input, pixels.
        metrics: results as they were when it was written.
        parameters: their number.
        megabytes: of the file, 10^6 bytes.
    """

    name: str
    path: Path
    description: str
    kind: str
    model: dict[str, Any]
    input_size: int
    metrics: dict[str, Any]
    parameters: int
    megabytes: float


def available(folder: str | Path | None = None) -> list[Available]:
    """The networks that are shipped, or those in a folder of your own, the default one first.

    Any checkpoint drops in: ``python -m pyranet_fast.export_weights last.pt FOLDER/NAME.safetensors``. The default is
    the one of the most parameters; names decide among equals.

    Args:
        folder: None is the package's own.

    Raises:
        UserError: a file in it is damaged.
    """
    found = []
    for path in sorted(Path(folder or FOLDER).glob(f"*{SUFFIX}")):
        about = describe(path)
        fields = {name: about[name] for name in ("kind", "model", "input_size", "metrics", "parameters")}
        description = str(about.get("description", ""))
        found.append(Available(path.stem, path, description, megabytes=path.stat().st_size / 1e6, **fields))
    return sorted(found, key=lambda one: -one.parameters)
