"""Static quantization of ONNX files with onnxruntime's tools."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.transforms import normalize
from ..errors import UserError
from ..inference.exported import EXTRA, Array, Description


def quantize(onnx_file: bytes, description: Description, crops: Tensor) -> tuple[bytes, Description]:
    """Quantize the convolutions of an ONNX file to int8; return file and description.

    Weights are int8 per output channel, maps uint8 with one calibrated range each (QDQ). The first and the last
    convolution stay float32.

    Args:
        onnx_file: contents of a file in float32.
        description: of that file.
        crops: (N, 3, S, S) uint8 RGB, typical crops for calibration.

    Raises:
        UserError: onnx or onnxruntime are not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(f"--int8 needs the packages onnx and onnxruntime ({error}): {EXTRA}") from error

    class Crops(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(range(len(crops)))

        def get_next(self) -> dict[str, Array] | None:
            index = next(self.left, None)
            return None if index is None else {"image": _input(crops[index : index + 1], description)}

    with tempfile.TemporaryDirectory(prefix="pyranet_fast-") as folder, _quiet():
        source, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(onnx_file)
        convolutions = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
        quantization.quantize_static(
            source,
            made,
            Crops(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
        )
        model = onnx.load(made)
    about = replace(description, precision="int8")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, about.as_metadata())
    data: bytes = model.SerializeToString()
    return data, about


def _input(images: Tensor, description: Description) -> Array:
    if description.decoded:
        made: Any = images.permute(0, 2, 3, 1).contiguous().numpy()
    else:
        made = normalize(images).numpy()
    return np.asarray(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to preprocess the graph: its norms are folded, its shapes known."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
