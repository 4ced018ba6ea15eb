"""Networks as ONNX, OpenVINO IR, torch.export and AOTInductor files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import CALIBRATION, Checkpoint
from ..data.transforms import MAP_STRIDE, MEAN
from ..errors import UserError
from ..inference.calibration import Calibration
from ..inference.exported import EXTRA, EXTRA_FILE, MARK, Description, output_names
from ..io import atomic_write
from ..keypoints import resolve_skeleton
from ..models.exportable import ExportablePyraNet, exportable, onnx_model, quiet
from ..models.pyranet import PyraNet
from ..ops import heatmap_argmax


class Decoder(nn.Module):
    """A network with pre- and postprocessing: from raw crops to joints.

    Args:
        network: predicts score maps.
        swap: joint order after mirroring (``Skeleton.flip_permutation``), for the mean with the mirrored crop; None
            omits it.
    """

    mean: Tensor
    swap: Tensor

    def __init__(self, network: ExportablePyraNet, swap: list[int] | None) -> None:
        super().__init__()
        self.network, self.mirrored = network, swap is not None
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("swap", torch.tensor(swap or [], dtype=torch.int64))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, S, S, 3) uint8 RGB to joints (N, K, 2), x and y in crop pixels, scores (N, K) and score maps."""
        x = image.permute(0, 3, 1, 2).float() * (1 / 255) - self.mean
        if self.mirrored:
            both = self.network(torch.stack([x, x.flip(3)], 1).flatten(0, 1)).unflatten(0, (-1, 2))
            maps = (both[:, 0] + both[:, 1].flip(3).index_select(1, self.swap)) / 2
        else:
            maps = self.network(x)
        places, scores = heatmap_argmax(maps, refine="quarter") if self.network.custom else _argmax(maps)
        return (places + 0.5) * MAP_STRIDE - 0.5, scores, maps


def _argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.heatmap_argmax` with refinement, of maps without NaN, in operations that every runtime has.

    ONNX's ArgMax promises the first of equal maxima.
    """
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    index = flat.argmax(2, keepdim=True)
    y, x = index // width, index % width

    def at(place: Tensor) -> Tensor:
        return flat.gather(2, place)

    def step(position: Tensor, last: int, stride: int) -> Tensor:
        # On the border the maximum is compared with itself: no step.
        inside = ((position > 0) & (position < last)).long() * stride
        ahead, behind = at(index + inside), at(index - inside)
        return 0.25 * ((ahead > behind).float() - (ahead < behind).float())

    places = torch.cat([x.float() + step(x, width - 1, 1), y.float() + step(y, height - 1, width)], 2)
    return places, at(index).squeeze(2)


def describe_export(checkpoint: Checkpoint, input_size: int, *, decode: bool, flip: bool) -> Description:
    """Return the metadata of an exported file."""
    known = checkpoint.metrics.get(CALIBRATION)
    return Description(
        resolve_skeleton(checkpoint.skeleton),
        input_size,
        None if known is None else Calibration.from_dict(known),
        decoded=decode,
        mirrored=decode and flip,
    )


def traceable(model: PyraNet, description: Description, *, custom: bool) -> tuple[nn.Module, Tensor]:
    """Return the module to export and an input to trace it."""
    size = description.input_size
    network = exportable(model, size, custom=custom)
    if not description.decoded:
        return network.eval(), torch.zeros(2, 3, size, size)
    swap = description.skeleton.flip_permutation if description.mirrored else None
    return Decoder(network, swap).eval(), torch.zeros(2, size, size, 3, dtype=torch.uint8)


def onnx_bytes(model: PyraNet, description: Description) -> bytes:
    """Return the content of an ONNX file."""
    module, example = traceable(model, description, custom=False)
    proto = onnx_model(module, example, outputs=output_names(description.decoded), metadata=description.as_metadata())
    data: bytes = proto.SerializeToString()
    return data


def write_openvino(path: Path, onnx: bytes, description: Description) -> None:
    """Write FILE.xml and FILE.bin from an ONNX file's contents.

    Raises:
        UserError: openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"writing {path} needs the package openvino ({error}): {EXTRA}") from error
    with tempfile.TemporaryDirectory(prefix="pyranet_fast-") as folder:
        source, made = Path(folder) / "network.onnx", Path(folder) / path.name
        source.write_bytes(onnx)
        model = openvino.Core().read_model(source)
        for key, value in description.as_metadata().items():
            model.set_rt_info(value, [MARK, key])
        openvino.save_model(model, made, compress_to_fp16=False)
        # The one that is opened comes last: where it is new, both are.
        for name in (made.with_suffix(".bin"), made):
            _move(name, path.with_suffix(name.suffix))


def write_program(path: Path, model: PyraNet, description: Description, *, aot: bool = False) -> None:
    """Write FILE.pt2: a program of torch.export, or with ``aot`` a package compiled by AOTInductor.

    Both use this package's operators for pyramids: load ``_C`` before running them, in Python by importing
    ``pyranet_fast``.

    Raises:
        UserError: AOTInductor finds no compiler, or fails.
    """
    from torch.export import Dim, export, save

    module, example = traceable(model, description, custom=True)
    with torch.no_grad(), quiet():
        program = export(module, (example,), dynamic_shapes=({0: Dim("batch")},))
    for node in program.graph.nodes:  # where in our source it comes from: a place on this machine
        node.meta.pop("stack_trace", None)
    metadata = description.as_metadata()
    if not aot:
        atomic_write(path, lambda file: save(program, file, extra_files={EXTRA_FILE: json.dumps(metadata)}))
        return
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        raise UserError("--aot compiles the network, and there is no C++ compiler (c++, g++ or clang++) on PATH")
    with tempfile.TemporaryDirectory(prefix="pyranet_fast-") as folder, torch.no_grad(), quiet():
        made = Path(folder) / path.name
        settings = {"aot_inductor.metadata": metadata}
        torch._inductor.aoti_compile_and_package(program, package_path=str(made), inductor_configs=settings)
        _move(made, path)


def _move(source: Path, path: Path) -> None:
    with source.open("rb") as contents:
        copy: Callable[[Any], None] = lambda file: shutil.copyfileobj(contents, file)  # noqa: E731
        atomic_write(path, copy)
