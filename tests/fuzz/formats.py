"""What is read: for each format a small file, how it is changed, and the reader that a command goes through."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from scipy.io import savemat

from pyranet_fast.checkpoint import Checkpoint, save_checkpoint, save_weights
from pyranet_fast.data.classification import load_cifar10
from pyranet_fast.data.coco import COCOSource
from pyranet_fast.data.image_io import _png_chunks, image_size, read_image
from pyranet_fast.data.lsp import LSPExtendedSource, LSPSource
from pyranet_fast.data.mpii_annotations import read_hdf5, read_head_boxes, read_json_list, read_matlab
from pyranet_fast.data.packed import PackedSource, write_packed
from pyranet_fast.errors import UserError
from pyranet_fast.evaluation.evaluator import EvaluationState
from pyranet_fast.evaluation.prediction_reader import read_ground_truth, read_predictions
from pyranet_fast.evaluation.prediction_writer import read_mpii_mat, write_mpii_mat
from pyranet_fast.export_weights import _calibration
from pyranet_fast.inference.boxes import read_boxes
from pyranet_fast.inference.calibration import Calibration
from pyranet_fast.inference.exported import Description
from pyranet_fast.inference.predictor import Predictor
from pyranet_fast.inference.sources import pictures
from pyranet_fast.io import reader, reading
from pyranet_fast.keypoints import MPII
from pyranet_fast.models import PyraNet
from tests.data.coco_people import dogs
from tests.data.coco_people import write as write_coco
from tests.data.mpii_people import raw_people, write_detections, write_hdf5, write_images, write_json, write_matlab
from tests.data.people import MemorySource, lsp_joints, lspet_joints, person, smooth_image, write_release

from .mutations import change_bytes, change_json

Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        write: makes a valid file in a folder, and what must lie beside it; returns the file.
        read: reads the file as commands do, to the last value.
        change: bytes of a valid file to those of another.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    change: Change = change_bytes


def _json(data: bytes, random: random.Random) -> bytes:
    if random.random() < 0.3:
        return change_bytes(data, random)
    try:
        return _dumped(change_json(json.loads(data), random))
    except RecursionError:  # a second change of what is nested already
        return b"[" * 100_000


def _dumped(content: Any) -> bytes:
    try:
        return json.dumps(content).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 100_000


def _gzipped(data: bytes, random: random.Random) -> bytes:
    return change_bytes(data, random) if random.random() < 0.5 else gzip.compress(_json(gzip.decompress(data), random))


# --- people ----------------------------------------------------------------------------------------------------------


def _coco(folder: Path) -> Path:
    return write_coco(folder, dogs(4)) / "dogs.json"


def _coco_gz(folder: Path) -> Path:
    path = _coco(folder)
    path.with_suffix(".json.gz").write_bytes(gzip.compress(path.read_bytes()))
    return path.with_suffix(".json.gz")


def _look(people: Any) -> None:
    for index in range(len(people)):
        people.person(index), people.reference_length(index), people.record(index), people.image_name(index)
    people.image(0)


def _mpii(write: Callable[..., object], name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        people = raw_people()
        root = write_images(folder, people)
        if write is write_hdf5:
            write_hdf5(root, people, "val")
        else:
            write(root, people)
        return root / name

    return make


def _read_heads(path: Path) -> None:
    json_path = path.with_name("people.json")
    if not json_path.exists():
        write_json(path.parent, raw_people(), json_path.name)
    people, held_out = read_json_list(json_path)
    read_head_boxes(path, people.select(held_out))


def _lsp(folder: Path) -> Path:
    return write_release(folder, "lsp_dataset", lsp_joints(3), 3, 4) / "joints.mat"


def _lspet(folder: Path) -> Path:
    return write_release(folder, "lspet_dataset", lspet_joints(3), 3, 5) / "joints.mat"


def _packed(folder: Path) -> Path:
    source = MemorySource([smooth_image(40, 50, i) for i in range(3)], [person(seed=i, scale=0.2) for i in range(3)])
    write_packed(folder / "people.pack", {"train": source, "val": source}, input_size=32)
    return folder / "people.pack"


def _packed_change(data: bytes, random: random.Random) -> bytes:
    """Half of the time behind the checksums."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    prefix = struct.Struct("<8sIIIxxxxQ")
    magic, version, length, _, _ = prefix.unpack_from(data)
    header, rest = json.loads(data[prefix.size : prefix.size + length]), data[prefix.size + length :]
    rest = rest[-(prefix.size + length) % 64 :]
    if random.random() < 0.4:
        places = header["pictures_at"]
        arrays = change_bytes(rest[:places], random)
        rest = arrays[:places].ljust(places, b"\0") + rest[places:]
        header["arrays_crc32"] = zlib.crc32(rest[:places])
    else:
        header = change_json(header, random)
    text = _dumped(header)
    padding = bytes(-(prefix.size + len(text)) % 64)
    size = prefix.size + len(text) + len(padding) + len(rest)
    return prefix.pack(magic, version, len(text), zlib.crc32(text), size) + text + padding + rest


def _read_packed(path: Path) -> None:
    for split in ("train", "val"):
        _look(PackedSource(path, split))


# --- networks --------------------------------------------------------------------------------------------------------


def _network() -> Checkpoint:
    torch.manual_seed(0)
    model = PyraNet(stacks=1, joints=14, features=8, depth=1, variant="plain")
    calibration = {"scores": [0.1, 0.5], "right": [0.2, 0.9], "count": [10, 10], "ranking": 0.9}
    return Checkpoint(model.config, model.state_dict(), "lsp", 32, metrics={"calibration": calibration})


def _checkpoint(folder: Path) -> Path:
    save_checkpoint(folder / "last.pt", _network())
    return folder / "last.pt"


def _checkpoint_change(data: bytes, random: random.Random) -> bytes:
    """A field or a tensor changed, half of the time; bytes are guarded by the archive's sums."""
    import io

    if random.random() < 0.5:
        return change_bytes(data, random)
    content = torch.load(io.BytesIO(data), weights_only=True)
    weights = content.pop("weights")
    content = change_json(content, random)
    if isinstance(content, dict):
        name = random.choice(sorted(weights))
        if random.random() < 0.5:
            weights[name] = random.choice(
                (None, 3, weights[name].to(torch.complex64), weights[name].flatten()[:0], weights[name].to_sparse(),
                 weights[name].double() * float("inf"), [1.0], weights[name].bool())
            )  # fmt: skip
        content["weights"] = weights if random.random() < 0.9 else list(weights)
    file = io.BytesIO()
    try:
        torch.save(content, file)
    except Exception:  # what cannot be written cannot be read either
        return change_bytes(data, random)
    return file.getvalue()


def _weights(folder: Path) -> Path:
    save_weights(folder / "net.safetensors", _network())
    return folder / "net.safetensors"


def _weights_change(data: bytes, random: random.Random) -> bytes:
    if random.random() < 0.4:
        return change_bytes(data, random)
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if random.random() < 0.6:
        about = change_json(json.loads(header["__metadata__"]["pyranet_fast"]), random)
        header["__metadata__"]["pyranet_fast"] = _dumped(about).decode("utf-8", "replace")
    else:
        header = change_json(header, random)
    text = _dumped(header)
    return len(text).to_bytes(8, "little") + text + rest


def _read_network(path: Path) -> None:
    Predictor(path, "cpu", search=False)


# --- predictions, states, pictures -----------------------------------------------------------------------------------


def _predictions_mat(folder: Path) -> Path:
    values = np.random.default_rng(0).uniform(1, 90, (5, 16, 3))
    savemat(folder / "p.mat", {"preds": values, "names": np.array(["a", "b"], dtype=object)})
    return folder / "p.mat"


def _predictions_packed_mat(folder: Path) -> Path:
    savemat(folder / "p.mat", {"preds": np.random.default_rng(0).uniform(1, 90, (5, 16, 3))}, do_compression=True)
    return folder / "p.mat"


def _predictions_h5(folder: Path) -> Path:
    with h5py.File(folder / "p.h5", "w") as file:
        file.create_dataset("preds", data=np.random.default_rng(0).uniform(1, 90, (5, 16, 3)), compression="gzip")
        file.attrs["joints"] = ["a"] * 16
    return folder / "p.h5"


def _submission(folder: Path) -> Path:
    points = np.random.default_rng(0).uniform(1, 90, (3, 16, 2))
    write_mpii_mat(folder / "pred.mat", points, [1, 1, 2], [1, 2, 1])
    return folder / "pred.mat"


def _truth(folder: Path) -> Path:
    path = _mpii(write_detections, "detections_our_format.mat")(folder)
    from scipy.io import loadmat

    content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {**content, "jnt_missing": np.zeros((16, content["pos_gt_src"].shape[2]))})
    return path


def _calibration_file(folder: Path) -> Path:
    content = {"scores": [0.1, 0.5], "right": [0.2, 0.9], "count": [10, 10], "ranking": 0.9}
    (folder / "calibration.json").write_text(json.dumps(content))
    return folder / "calibration.json"


def _state(folder: Path) -> Path:
    state = EvaluationState(4, 14, folder / "state.npz", identity={"x": 1})
    state.add(np.arange(2), np.zeros((2, 14, 3), np.float32), np.array([True, False]), np.zeros((2, 4)), ["", "why"])
    state.save()
    return folder / "state.npz"


def _picture(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        assert cv2.imwrite(str(folder / f"x{suffix}"), smooth_image(30, 40))
        return folder / f"x{suffix}"

    return make


def _read_picture(path: Path) -> None:
    image_size(path)
    read_image(path)


def _png_change(data: bytes, random: random.Random) -> bytes:
    """Most of the time behind the checksums, so that the decoder sees it: header, palette, pixels, their order."""
    if random.random() < 0.2:
        return change_bytes(data, random)
    chunks = [[kind, body] for kind, _, body in _png_chunks(data)]
    for _ in range(random.choice((1, 1, 2))):
        chunk = random.choice(chunks)
        what = random.randrange(5)
        if what == 0 and chunk[0] == b"IDAT":
            with contextlib.suppress(zlib.error):  # changed before
                chunk[1] = zlib.compress(change_bytes(zlib.decompress(chunk[1]), random))
        elif what == 1:
            kind = random.choice((b"PLTE", b"tRNS", b"eXIf", b"acTL", b"IDAT", b"IHDR"))
            chunks.insert(random.randrange(len(chunks) + 1), [kind, random.randbytes(random.choice((0, 1, 2, 6, 40)))])
        elif what == 2 and chunk[0] == b"IHDR":
            kinds = bytes(
                (random.choice((1, 2, 4, 8, 16, 3)), random.choice((0, 2, 3, 4, 6, 1)), 0, 0, random.randrange(2))
            )
            chunk[1] = chunk[1][:8] + kinds
        elif what == 3:
            chunks.remove(chunk) if len(chunks) > 1 else None
        else:
            chunk[1] = change_bytes(chunk[1], random)
            chunk[1] = chunk[1] if chunk[0] != b"IHDR" or len(chunk[1]) < 8 else _small(chunk[1])
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    ]
    return data[:8] + b"".join(parts)


def _small(header: bytes) -> bytes:
    """A PNG header with sides below 4096, so that most of them are decoded."""
    return (
        b"".join((int.from_bytes(header[at : at + 4], "big") % 4096).to_bytes(4, "big") for at in (0, 4)) + header[8:]
    )


def _description(folder: Path) -> Path:
    calibration = Calibration.from_dict(_network().metrics["calibration"])
    about = Description(MPII, 256, calibration, decoded=True)
    (folder / "net.json").write_text(json.dumps(about.as_metadata()))
    return folder / "net.json"


def _description_change(data: bytes, random: random.Random) -> bytes:
    """The values stand in texts of JSON, which are changed themselves half of the time."""
    content = json.loads(data)
    if random.random() < 0.5:
        return _json(data, random)
    key = random.choice(sorted(content))
    try:
        content[key] = _dumped(change_json(json.loads(content[key]), random)).decode("utf-8", "replace")
    except ValueError:  # a plain text
        content[key] = _dumped(change_json(content[key], random)).decode("utf-8", "replace")
    return _dumped(content)


@reader("the description of an exported file")
def _read_description(path: Path) -> None:
    """As it is read out of an archive of torch.export."""
    Description.from_metadata(json.loads(path.read_text("utf-8")), path)


def _cifar(folder: Path) -> Path:
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    for name in ("data_batch_1", "test_batch"):
        (root / name).write_bytes(pickle.dumps({b"data": data, b"labels": [0, 1, 2, 3]}, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in names]}, protocol=2))
    return root / "data_batch_1"


# --- sources of predictions -------------------------------------------------------------------------------------------


def _boxes_json(folder: Path) -> Path:
    content = [
        {"image_id": 17, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 2, "bbox": [0, 0, 1, 1]},
    ]
    (path := folder / "boxes.json").write_text(json.dumps(content))
    return path


def _boxes_csv(folder: Path) -> Path:
    (path := folder / "boxes.csv").write_text("file,x,y,w,h,score\na.jpg,1,2,3,4,0.5\nb.jpg,1.5,2,3,4,0.9\n")
    return path


def _tar(folder: Path) -> Path:
    with tarfile.open(path := folder / "shard.tar", "w") as shard:
        for number in range(2):
            shard.add(_picture(".png")(folder), f"{number}.png")
    return path


def _path_list(folder: Path) -> Path:
    picture = _picture(".png")(folder)
    (path := folder / "list.txt").write_text(f"# pictures\n{picture.name}\n{picture.name}\n")
    return path


def _video(folder: Path) -> Path:
    path = folder / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 32))
    for number in range(3):
        writer.write(np.full((32, 32, 3), 60 * number, np.uint8))
    writer.release()
    return path


def _read_all(path: Path) -> None:
    """Every picture; the first that cannot be read raises, as its line of a run says."""
    faults = []
    for picture in pictures(path):
        try:
            picture.read()
        except UserError as error:
            faults.append(error)
    with reading(path, "pictures"):  # a fault may name a picture of the list alone
        if faults:
            raise faults[0]


FORMATS: dict[str, Format] = {
    "coco": Format(_coco, lambda p: _look(COCOSource(p.name, p.parent)), _json),
    "coco gz": Format(_coco_gz, lambda p: _look(COCOSource(p.name, p.parent)), _gzipped),
    "mpii json": Format(_mpii(write_json, "mpii_annotations.json"), read_json_list, _json),
    "mpii hdf5": Format(_mpii(write_hdf5, "valid.h5"), read_hdf5),
    "mpii matlab": Format(_mpii(write_matlab, "mpii_human_pose_v1_u12_1.mat"), read_matlab),
    "mpii heads": Format(_mpii(write_detections, "detections_our_format.mat"), _read_heads),
    "lsp": Format(_lsp, lambda p: _look(LSPSource(p.parents[1], "1-"))),
    "lspet": Format(_lspet, lambda p: _look(LSPExtendedSource(p.parents[1]))),
    "packed": Format(_packed, _read_packed, _packed_change),
    "checkpoint": Format(_checkpoint, _read_network, _checkpoint_change),
    "weights": Format(_weights, _read_network, _weights_change),
    "predictions mat": Format(_predictions_mat, read_predictions),
    "predictions packed mat": Format(_predictions_packed_mat, read_predictions),
    "predictions h5": Format(_predictions_h5, read_predictions),
    "submission": Format(_submission, read_mpii_mat),
    "truth": Format(_truth, read_ground_truth),
    "calibration": Format(_calibration_file, lambda p: _calibration(str(p)), _json),
    "evaluation state": Format(_state, lambda p: EvaluationState(4, 14, p, identity={"x": 1}, resume=True)),
    "jpeg": Format(_picture(".jpg"), _read_picture),
    "description": Format(_description, _read_description, _description_change),
    "png": Format(_picture(".png"), _read_picture, _png_change),
    "tiff": Format(_picture(".tiff"), _read_picture),
    "webp": Format(_picture(".webp"), _read_picture),
    "bmp": Format(_picture(".bmp"), _read_picture),
    "boxes json": Format(_boxes_json, lambda p: read_boxes(str(p))("17.jpg", np.zeros((8, 8, 3), np.uint8)), _json),
    "boxes csv": Format(_boxes_csv, lambda p: read_boxes(str(p))("a.jpg", np.zeros((8, 8, 3), np.uint8))),
    "tar": Format(_tar, _read_all),
    "list": Format(_path_list, _read_all),
    "video": Format(_video, _read_all),
    "cifar": Format(_cifar, lambda p: load_cifar10(p.parents[1], "train")),
}
