"""Predictions and ground truth from HDF5 and MATLAB files of any axis order, and their score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..data.hdf5 import checked, opened
from ..data.matlab import load_matlab
from ..errors import UserError
from ..io import reader
from ..metrics import PCK, PCKH, BoolArray, Float64Array, Metric, Score, torso_length

Array = npt.NDArray[Any]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
# Letters of a layout: N people, K joints, C coordinates (x, y and perhaps a score).
_WORDS = {"NKC": "N x {k} x 2|3", "NCK": "N x 2|3 x {k}", "CKN": "2|3 x {k} x N", "KCN": "{k} x 2|3 x N"}


def read_arrays(path: str | Path, what: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the top-level arrays of a file.

    Args:
        path: ``.h5`` or ``.hdf5``, or ``.mat`` of any version.
        what: kind of file, for messages.

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
        content = load_matlab(path)
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
    with opened(path) as file:
        attrs = {name: _plain(value) for name, value in file.attrs.items()}
        for name, item in file.items():
            if not isinstance(item, h5py.Dataset):
                # A structure of MATLAB's, or a group: named, so that messages can mention it.
                arrays[name] = np.empty(0, dtype=object)
                continue
            value = np.asarray(checked(item, path)[()])
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
    """Transpose an array of joints to people, joints, coordinates.

    Args:
        array: three axes in unknown order.
        name: name in messages.
        joints: possible numbers of joints.
        people: number of people, if known.
        layouts: possible orders: letters N (people), K (joints), C (2 or 3 coordinates).

    Returns:
        (N, K, 2 or 3) float64, and the original layout, such as ``"N x 16 x 3"``.

    Raises:
        UserError: the sizes match none or several of the orders.
    """
    shape = array.shape
    fitting = [layout for layout in layouts if array.ndim == 3 and _fits(layout, shape, joints, people)]
    count = " or ".join(map(str, joints))
    expected = ", ".join(_WORDS[layout].format(k=count) for layout in layouts)
    if people is not None:
        expected += f" with N = {people}"
    if not fitting:
        raise UserError(f"{name} must have shape {expected}, got {shape}")
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


Pixels = Literal["auto", "0-based", "1-based"]

_PREDICTIONS = ("preds", "pred")
_JOINTS = (len(PCKH.skeleton), len(PCK.skeleton))
_MPII_VALIDATION = 2958  # people
_HEAD_SHARE = 0.6  # PCKh's unit in diagonals of the head box


@dataclass
class Predictions:
    """Predicted joints of a file.

    Attributes:
        points: (N, K, 2) x and y, 0-based pixels of the published images; NaN where there is no prediction.
        scores: (N, K), or None where the file has none.
        attrs: the file's attributes and how it was read: ``file``, ``variable``, ``layout``, ``pixels``.
    """

    points: Float64Array
    scores: Float64Array | None = None
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass
class GroundTruth:
    """True joints of a file.

    Attributes:
        metric: PCKh of MPII's people or PCK of LSP's.
        points: (N, K, 2) x and y, 0-based pixels.
        labeled: (N, K), true where a joint is labeled, occluded ones included.
        length: (N,) pixels, each person's unit of length; NaN if unknown.
        first, last: range of people used, 1-based.
        available: people in the file.
        path: the file.
    """

    metric: Metric
    points: Float64Array
    labeled: BoolArray
    length: Float64Array
    first: int
    last: int
    available: int
    path: Path

    def __len__(self) -> int:
        return len(self.points)

    @property
    def name(self) -> str:
        """Name of these people in tables."""
        people = f"{self.first}-{self.last}"
        if self.metric is PCK:
            return f"LSP {people}"
        return "MPII validation" if len(self) == _MPII_VALIDATION else f"{self.path.name} {people}"


@reader("a file of predictions")
def read_predictions(
    path: str | Path, *, joints: int | None = None, people: int | None = None, pixels: Pixels = "auto"
) -> Predictions:
    """Read predicted joints.

    Args:
        path: ``.h5`` or ``.mat`` (of any version) with an array ``preds`` or ``pred`` of x, y and perhaps a score,
            N x K x 2|3, N x 2|3 x K, 2|3 x K x N or K x 2|3 x N; the axes follow from their sizes.
        joints: K if known, else 16 or 14.
        people: N if known. Together with ``joints`` it resolves ambiguous layouts.
        pixels: ``"auto"`` as said at the head of this module, or what the file's pixels are.

    Raises:
        UserError: no such file, not of these formats, no such array, or an ambiguous or unknown layout.
        ValueError: ``pixels`` is none of the three.
    """
    path = Path(path)
    if pixels not in ("auto", "0-based", "1-based"):
        raise ValueError(f"pixels must be 'auto', '0-based' or '1-based', got {pixels!r}")
    arrays, attrs = read_arrays(path, "predictions")
    name = next((n for n in _PREDICTIONS if n in arrays), None)
    if name is None:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"predictions {path} has no array 'preds' or 'pred'; it holds {held}")
    array = _numbers(arrays[name], path, name)
    ours = "joints" in attrs
    values, layout = arrange(
        array,
        f"{path}: {name}",
        joints=_JOINTS if joints is None else (joints,),
        people=people,
        # Files of this package are always laid out so, which settles any sizes.
        layouts=("NKC",) if ours else ("NKC", "NCK", "CKN", "KCN"),
    )
    said = attrs.get("pixels")
    if said is None and "pixels" in arrays:
        said = "".join(np.ravel(arrays["pixels"]).astype(str)).strip()
    if said is not None and said not in ("0-based", "1-based"):
        raise UserError(f"pixels of predictions {path} must be 0-based or 1-based, got {said!r}")
    base = said or ("0-based" if ours else "1-based") if pixels == "auto" else pixels
    points = values[..., :2] - (base == "1-based")
    points[~np.isfinite(points).all(axis=-1)] = np.nan
    scores = values[..., 2].copy() if values.shape[2] == 3 else None
    return Predictions(points, scores, {**attrs, "file": str(path), "variable": name, "layout": layout, "pixels": base})


@reader("a file of true joints")
def read_ground_truth(path: str | Path, people: str | None = None) -> GroundTruth:
    """Read true joints.

    Args:
        path: MPII's ``detections_our_format.mat`` (``pos_gt_src``, ``jnt_missing``, ``headboxes_src``), or the
            ``joints.mat`` of LSP, (3, 14, N) with all joints labeled, or of LSP-extended, (14, 3, N) with a third
            column that is 1 where labeled. Pixels are 1-based in all of them.
        people: a range such as ``"1001-2000"`` or ``"1001-"`` (to the end), 1-based; None: all.

    Raises:
        UserError: no such file, unknown content, sizes that do not match, or people out of range.
    """
    path = Path(path)
    arrays, _ = read_arrays(path, "ground truth")
    if "pos_gt_src" in arrays:
        metric = PCKH
        points, labeled, length = _mpii_truth(arrays, path)
    elif "joints" in arrays:
        metric = PCK
        points, labeled = _lsp_truth(_numbers(arrays["joints"], path, "joints"), path)
        length = torso_length(points, labeled)
    else:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(
            f"ground truth {path} has neither 'pos_gt_src' (MPII) nor 'joints' (LSP); it holds {held}"
        )  # fmt: skip
    first, last = parse_people(people, len(points), path)
    chosen = slice(first - 1, last)
    return GroundTruth(
        metric=metric,
        points=points[chosen] - 1,
        labeled=labeled[chosen],
        length=length[chosen],
        first=first,
        last=last,
        available=len(points),
        path=path,
    )


def parse_people(people: str | None, available: int, path: str | Path) -> tuple[int, int]:
    """Return first and last of a range of people ``"1001-2000"``, ``"1001-"`` or None (all), 1-based.

    Raises:
        UserError: not a range, or not within ``available`` people.
    """
    if people is None:
        return 1, available
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", str(people), re.ASCII)
    if match is None:
        raise UserError(f"people must be a range such as '1001-2000' or '1001-' (to the end), got {people!r}")
    first, last = int(match[1]), int(match[2]) if match[2] else available
    if not 1 <= first <= last <= available:
        raise UserError(f"people {people!r} is not within {path}, which holds people 1 to {available}")
    return first, last


def read_pair(
    predictions: str | Path, ground_truth: str | Path, people: str | None = None, *, pixels: Pixels = "auto"
) -> tuple[Predictions, GroundTruth]:
    """Read predictions and ground truth of the same people.

    Args:
        predictions: as ``read_predictions``; of the selected people, or of all people of the ground truth.
        ground_truth: as ``read_ground_truth``.
        people: a range of the ground truth; None: all.
        pixels: of the predictions, as ``read_predictions``.

    Raises:
        UserError: as the two readers, or different numbers of people or joints.
    """
    truth = read_ground_truth(ground_truth, people)
    joints = truth.points.shape[1]
    try:
        predicted = read_predictions(predictions, joints=joints, pixels=pixels)
    except UserError:
        # More than one layout fits, or none: knowing how many people there must be may settle it.
        for count in (len(truth), truth.available):
            try:
                predicted = read_predictions(predictions, joints=joints, people=count, pixels=pixels)
                break
            except UserError:
                continue
        else:
            raise
    if len(predicted.points) == truth.available:
        chosen = slice(truth.first - 1, truth.last)
        predicted.points = predicted.points[chosen]
        predicted.scores = None if predicted.scores is None else predicted.scores[chosen]
    if len(predicted.points) != len(truth):
        asked = "all of them" if people is None else f"of which {truth.first}-{truth.last} are asked for"
        raise UserError(
            f"predictions {predictions} has {len(predicted.points)} people; {truth.path} has {truth.available}, "
            f"{asked}: the numbers must agree"
        )
    return predicted, truth


def score_files(
    predictions: str | Path, ground_truth: str | Path, people: str | None = None, *, pixels: Pixels = "auto"
) -> Score:
    """Score the predictions of one file against the truth of another: PCKh@0.5 for MPII, PCK@0.2 for LSP.

    Arguments and errors are those of ``read_pair``. The score's settings name both files, the people, and how the
    predictions were read.
    """
    return score_pair(*read_pair(predictions, ground_truth, people, pixels=pixels))


def score_pair(predicted: Predictions, truth: GroundTruth) -> Score:
    """Score the result of ``read_pair``."""
    score = truth.metric.score(predicted.points, truth.points, truth.labeled, truth.length)
    score.settings.update(
        predictions=predicted.attrs["file"],
        ground_truth=str(truth.path),
        people=f"{truth.first}-{truth.last} of {truth.available}",
        layout=predicted.attrs["layout"],
        pixels=predicted.attrs["pixels"],
    )
    return score


def _mpii_truth(arrays: dict[str, Array], path: Path) -> tuple[Float64Array, BoolArray, Float64Array]:
    missing = [name for name in ("jnt_missing", "headboxes_src") if name not in arrays]
    if missing:
        raise UserError(f"ground truth {path} has 'pos_gt_src' but no '{missing[0]}'; PCKh needs it")
    points = _numbers(arrays["pos_gt_src"], path, "pos_gt_src")
    count = points.shape[-1] if points.ndim == 3 else 0
    absent = _numbers(arrays["jnt_missing"], path, "jnt_missing")
    boxes = _numbers(arrays["headboxes_src"], path, "headboxes_src")
    joints = len(PCKH.skeleton)
    for name, array, wanted in (
        ("pos_gt_src", points, (joints, 2, count)),
        ("jnt_missing", absent, (joints, count)),
        ("headboxes_src", boxes, (2, 2, count)),
    ):
        if array.shape != wanted or count == 0:
            expected = ", ".join(map(str, wanted[:-1]))
            raise UserError(f"{path}: {name} must have shape ({expected}, N) with one N for all, got {array.shape}")
    points = points.transpose(2, 0, 1)
    corners = boxes.transpose(2, 0, 1)
    # A NaN joint cannot be scored, regardless of its flag.
    labeled = np.asarray((absent.T == 0) & np.isfinite(points).all(axis=-1))
    return points, labeled, _HEAD_SHARE * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)


def _lsp_truth(joints: Float64Array, path: Path) -> tuple[Float64Array, BoolArray]:
    sizes = joints.shape
    if joints.ndim != 3 or sizes[:2] not in ((3, 14), (14, 3)) or sizes[2] == 0:
        raise UserError(f"{path}: joints must have shape (3, 14, N) as LSP or (14, 3, N) as LSP-extended, got {sizes}")
    people = joints.transpose(2, 1, 0) if sizes[0] == 3 else joints.transpose(2, 0, 1)
    finite = np.isfinite(people[..., :2]).all(axis=-1)
    # LSP's third row says occluded, and occluded joints count; LSP-extended's third column says labeled.
    labeled = finite if sizes[0] == 3 else finite & (people[..., 2] > 0.5)
    return people[..., :2], np.asarray(labeled)


def _numbers(array: Array, path: Path, name: str) -> Float64Array:
    if array.dtype.names is not None or array.dtype.kind == "O":
        raise UserError(
            f"{path}: {name} is a structure, not an array of numbers"
            + ("; read_mpii_mat reads the layout of MPII submissions" if name == "pred" else "")
        )
    if array.dtype.kind not in "iufb":
        raise UserError(f"{path}: {name} must be an array of numbers, got type {array.dtype}")
    return array.astype(np.float64)
