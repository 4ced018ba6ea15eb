"""Exported networks: what a file says of itself, and running it through the runtime that it is for."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data.transforms import MEAN
from ..errors import UserError
from ..io import reading
from ..keypoints import Skeleton
from .calibration import Calibration

ONNX, OPENVINO, TORCH = ".onnx", ".xml", ".pt2"
SUFFIXES = (ONNX, TORCH, OPENVINO)
EXTRA = "pip install pyranet-fast[export]"
MARK, VERSION = "pyranet_fast", 1
"""Key of a file's metadata that holds the version of their format."""
EXTRA_FILE = "pyranet_fast.json"
"""Metadata in a file of torch.export."""

Array = npt.NDArray[Any]
Run = Callable[[Array], dict[str, Array]]


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself, for anybody who reads its metadata: texts, most of them JSON.

    Attributes:
        skeleton: joint names, flip pairs and bones.
        input_size: side of the square crops that it takes.
        calibration: see `Calibration`.
        decoded: it takes uint8 pictures (N, S, S, 3) and gives ``joints``, ``scores`` and ``heatmaps``; else it takes
            normalized ones (N, 3, S, S) and gives ``heatmaps``.
        mirrored: decoded, and the mean with the mirrored picture.
        precision: of its convolutions, ``"float32"`` or ``"int8"``.
    """

    skeleton: Skeleton
    input_size: int
    calibration: Calibration | None = None
    decoded: bool = False
    mirrored: bool = False
    precision: str = "float32"

    def as_metadata(self) -> dict[str, str]:
        """By key, such as ``joints``; ``from_metadata`` leads back."""
        values = {
            MARK: VERSION,
            "skeleton": self.skeleton.name,
            "joints": self.skeleton.joints,
            "flip_pairs": self.skeleton.flip_pairs,
            "bones": self.skeleton.bones,
            "input_size": self.input_size,
            "mean": MEAN,
            "decoded": self.decoded,
            "mirrored": self.mirrored,
            "precision": self.precision,
        }
        if self.calibration is not None:
            values["calibration"] = self.calibration.as_dict()
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: str | Path) -> Description:
        """What `as_metadata` wrote.

        Raises:
            UserError: something else.
        """
        if MARK not in metadata:
            raise UserError(f"{path} was not written by pyranet_fast.export: its description is missing")
        try:
            values = {key: _value(text) for key, text in metadata.items()}
            if values[MARK] > VERSION:
                raise UserError(
                    f"{path} has format version {values[MARK]}; this version of pyranet_fast reads up to {VERSION}: "
                    "please upgrade it"
                )
            skeleton = {
                "name": metadata["skeleton"],
                **{key: values[key] for key in ("joints", "flip_pairs", "bones")},
            }
            known, size = values.get("calibration"), values["input_size"]
            if type(size) is not int or not 4 <= size <= 1 << 14:
                raise TypeError(f"input_size is {size!r}")
            return cls(
                Skeleton.from_dict(skeleton),
                size,
                None if known is None else Calibration.from_dict(known),
                bool(values["decoded"]),
                bool(values["mirrored"]),
                metadata["precision"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} has a description that cannot be read: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class ExportedNetwork(nn.Module):
    """A file of ``python -m pyranet_fast.export`` on the CPU, called as a network of this package is.

    Args:
        path: FILE.onnx through onnxruntime, FILE.xml through openvino, FILE.pt2 through torch.
        runtime: ``"openvino"`` runs FILE.onnx there.

    Attributes:
        description: what it says of itself.

    Raises:
        UserError: no such file, a damaged one, or a runtime that is not installed.
    """

    multiple = 4

    def __init__(self, path: str | Path, runtime: str | None = None) -> None:
        super().__init__()
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} must end in {', '.join(SUFFIXES)}, got {path.suffix!r}")
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        with reading(path, "a file of pyranet_fast.export"):
            if path.suffix == OPENVINO or runtime == "openvino":
                metadata, self.run = _open_openvino(path)
            else:
                metadata, self.run = (_open_onnx if path.suffix == ONNX else _open_torch)(path)
            self.description = Description.from_metadata(metadata, path)

    def forward(self, image: Tensor) -> list[Tensor]:
        """As `PyraNet.forward`; of a decoded file the maps of pictures uint8 (N, 3, S, S)."""
        if not self.description.decoded:
            return [torch.from_numpy(self.run(image.contiguous().numpy())["heatmaps"])]
        return [torch.from_numpy(self.decoded(image)["heatmaps"])]

    def decoded(self, images: Tensor) -> dict[str, Array]:
        """``joints`` (N, K, 2) in pixels of the crop, ``scores`` (N, K) and ``heatmaps`` of a decoded file.

        Args:
            images: (N, 3, S, S) uint8 RGB.
        """
        return self.run(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()))


def _missing(package: str, path: Path, error: ImportError) -> UserError:
    return UserError(f"{path} needs the package {package} ({error}): {EXTRA}")


def _open_onnx(path: Path) -> tuple[Mapping[str, str], Run]:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", path, error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Idle threads that spin would take the cores from what runs between two calls: crops, other networks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds derive from Exception alone
        raise UserError(f"{path} cannot be read; it is corrupt, cut short, or no ONNX at all") from error
    (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]

    def run(images: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, {given.name: images}), strict=True))

    return session.get_modelmeta().custom_metadata_map, run


def _open_openvino(path: Path) -> tuple[Mapping[str, str], Run]:
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino", path, error) from error
    # In float32 as the file says: by itself it computes in bfloat16 where the processor can.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        model = openvino.Core().read_model(path)
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be read; it is corrupt, cut short, or its .bin file is not beside it"
        ) from error
    if path.suffix == OPENVINO:
        found = model.get_rt_info(MARK).value if model.has_rt_info(MARK) else {}
        metadata: Mapping[str, str] = {key: v if isinstance(v, str) else v.astype(str) for key, v in found.items()}
    else:
        metadata = _open_onnx(path)[0]
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: Array) -> dict[str, Array]:
        made = compiled(images)
        return {name: made[i].copy() for i, name in enumerate(names)}

    return metadata, run


def _open_torch(path: Path) -> tuple[Mapping[str, str], Run]:
    import torch.export

    try:
        with zipfile.ZipFile(path) as archive:
            compiled = any("/aotinductor/" in name for name in archive.namelist())
        if compiled:
            package: Any = torch._inductor.aoti_load_package(str(path))
            metadata: Mapping[str, str] = package.loader.get_metadata()
        else:
            extra = {EXTRA_FILE: ""}
            package = torch.export.load(path, extra_files=extra).module()
            metadata = json.loads(extra[EXTRA_FILE] or "{}")
    except (zipfile.BadZipFile, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read; it is corrupt, cut short, or not of this processor") from error
    names = output_names(_value(metadata.get("decoded", "false")))

    def run(images: Array) -> dict[str, Array]:
        with torch.no_grad():
            made = package(torch.from_numpy(images))
        made = [made] if isinstance(made, Tensor) else made
        return {name: tensor.numpy() for name, tensor in zip(names, made, strict=True)}

    return metadata, run


def output_names(decoded: bool) -> tuple[str, ...]:
    """Outputs of a file, in their order."""
    return ("joints", "scores", "heatmaps") if decoded else ("heatmaps",)
