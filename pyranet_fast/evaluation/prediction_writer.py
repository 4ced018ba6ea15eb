"""Prediction files: HDF5, MPII's submission layout, COCO's list of results.

All functions take 0-based pixels, where integers are pixel centers; each file gets the pixel origin its readers expect.
Files are written atomically.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.matlab import load_matlab
from ..errors import UserError
from ..io import atomic_write, reader
from ..keypoints import MPII, Skeleton
from ..metrics import Float64Array


def write_hdf5(
    path: str | Path,
    points: npt.ArrayLike,
    scores: npt.ArrayLike | None = None,
    *,
    skeleton: Skeleton,
    attrs: Mapping[str, str | int | float | Sequence[str]] | None = None,
) -> None:
    """Write ``preds`` (N, K, 3) float32: x and y in 0-based pixels, score; (N, K, 2) without scores.

    The attribute ``pixels`` is "0-based" and ``joints`` the list of joint names; ``read_predictions`` reads it.

    Args:
        path: the file.
        points: (N, K, 2), 0-based pixels of the published images; NaN where there is no prediction.
        scores: (N, K) or None.
        skeleton: names of the K joints.
        attrs: more attributes, such as dataset and checkpoint.

    Raises:
        ValueError: shapes do not match, or an attribute has a reserved name.
        OSError: the file cannot be written.
    """
    import h5py

    places, certainty = _checked(points, scores, len(skeleton))
    own = {"joints": list(skeleton.joints), "pixels": "0-based"}
    taken = sorted(own.keys() & (attrs or {}).keys())
    if taken:
        raise ValueError(f"attrs has {taken[0]!r}, which is written from skeleton and points; give it another name")
    values = places if certainty is None else np.concatenate([places, certainty[..., None]], axis=2)
    memory = io.BytesIO()  # h5py needs to read what it writes, and the file may appear only when it is whole
    with h5py.File(memory, "w") as file:
        file.create_dataset("preds", data=values.astype(np.float32), compression="gzip" if values.size else None)
        file.attrs.update({**own, **(attrs or {})})
    atomic_write(Path(path), lambda file: file.write(memory.getvalue()))


@dataclass
class MpiiPerson:
    """One person of an MPII submission.

    Attributes:
        image: number of the image in MPII's list, from 1.
        person: number of the person in the image's ``annorect``, from 1.
        points: (16, 2) 0-based pixels, NaN where the file has no such joint.
        objpos: (2,) 0-based pixels, or None.
        scale: MPII's scale, or None.
    """

    image: int
    person: int
    points: Float64Array
    objpos: Float64Array | None = None
    scale: float | None = None


def write_mpii_mat(
    path: str | Path,
    points: npt.ArrayLike,
    image_numbers: npt.ArrayLike,
    person_numbers: npt.ArrayLike,
    *,
    objpos: npt.ArrayLike | None = None,
    scale: npt.ArrayLike | None = None,
    images: int | None = None,
) -> None:
    """Write the layout of MPII's evaluation server: ``pred(i).annorect(r).annopoints.point(k)`` with x, y, id.

    ``pred`` is 1 x images and ``pred(i)`` is image i of MPII's list, for any order of the arguments. Images
    without people have an empty ``annorect``; a person left out between others has empty ``annopoints``. ``id`` is
    MPII's joint number from 0, x and y are 1-based pixels as in MPII's annotations. Joints that are not finite
    are left out.

    Args:
        path: the ``.mat`` file, of MATLAB's version 5.
        points: (N, 16, 2), 0-based pixels.
        image_numbers: (N,) integers from 1: index of the image in MPII's list (``annolist``).
        person_numbers: (N,) integers from 1: index of the person in the image's ``annorect``.
        objpos: (N, 2), MPII's rough position in 0-based pixels; NaN if unknown. None omits it.
        scale: (N,), MPII's scale; NaN if unknown. None omits it.
        images: length of ``pred``; None: the highest image number.

    Raises:
        ValueError: shapes do not match, numbers below 1 or above ``images``, or a person given twice.
        OSError: the file cannot be written.
    """
    from scipy.io import savemat

    places, _ = _checked(points, None, len(MPII))
    count = len(places)
    image = _whole("image_numbers", image_numbers, count)
    person = _whole("person_numbers", person_numbers, count)
    positions = _optional("objpos", objpos, (count, 2))
    scales = _optional("scale", scale, (count,))
    total = int(image.max(initial=0)) if images is None else images
    if total < image.max(initial=0):
        raise ValueError(f"images must be at least the largest of image_numbers, {image.max()}, got {images}")
    fields = ["annopoints"]
    fields += [name for name, values in (("objpos", positions), ("scale", scales)) if values is not None]
    empty = np.zeros((0, 0))

    pred = np.zeros((1, total), dtype=[("annorect", object)])
    pred["annorect"].fill(empty)
    for number in np.unique(image):
        members = np.flatnonzero(image == number)
        if len(np.unique(person[members])) != len(members):
            raise ValueError(
                f"image_numbers and person_numbers must name each person once, got a person of image {number} twice"
            )
        rectangles = np.zeros((1, int(person[members].max())), dtype=[(name, object) for name in fields])
        for name in fields:
            rectangles[name].fill(empty)
        for index in members:
            rectangle = rectangles[0, person[index] - 1]
            rectangle["annopoints"] = _annopoints(places[index])
            if positions is not None and np.isfinite(positions[index]).all():
                rectangle["objpos"] = _structure(x=positions[index, 0] + 1, y=positions[index, 1] + 1)
            if scales is not None and np.isfinite(scales[index]):
                rectangle["scale"] = np.array([[scales[index]]])
        pred[0, number - 1]["annorect"] = rectangles
    memory = io.BytesIO()
    savemat(memory, {"pred": pred}, do_compression=True)
    atomic_write(Path(path), lambda file: file.write(memory.getvalue()))


@reader("predictions in MPII's layout of submissions")
def read_mpii_mat(path: str | Path) -> list[MpiiPerson]:
    """Read people in MPII's submission layout, ordered by image and person; empty ``annopoints`` are skipped.

    Raises:
        UserError: no such file, or another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"predictions {path} does not exist")
    content = load_matlab(path, struct_as_record=True)
    pred = content.get("pred")
    if pred is None or pred.dtype.names is None or "annorect" not in pred.dtype.names:
        raise UserError(f"predictions {path} is not in the layout of MPII submissions: it has no pred.annorect")
    people = []
    for image, entry in enumerate(pred.ravel(), 1):
        rectangles = entry["annorect"]
        for person, rectangle in enumerate(rectangles.ravel() if rectangles.dtype.names else (), 1):
            try:
                if rectangle["annopoints"].dtype.names:
                    people.append(_person(image, person, rectangle))
            except (ValueError, IndexError, TypeError, AttributeError) as error:
                raise UserError(
                    f"predictions {path}: pred({image}).annorect({person}) is not in the layout of MPII submissions: "
                    "annopoints.point with x, y and id from 0 to 15"
                ) from error
    return people


def write_coco_json(
    path: str | Path,
    points: npt.ArrayLike,
    scores: npt.ArrayLike | None,
    image_ids: Sequence[int | str],
    *,
    category_id: int | str | Sequence[int | str] = 1,
    annotation_ids: Sequence[int | str | None] | None = None,
) -> int:
    """Write COCO's list of keypoint results: image_id, category_id, keypoints [x, y, v] x K, score.

    Pixels are 0-based. Joints keep the order of the skeleton, which is not COCO's 17. v is 1 where a joint is
    predicted; otherwise x = y = v = 0. The score of a person is the mean over joints, 1 without scores. People without
    any finite joint are not written.

    Args:
        path: the ``.json`` file.
        points: (N, K, 2), 0-based pixels.
        scores: (N, K), or None.
        image_ids: N ids, numbers or names.
        category_id: COCO's category, one for all or N; 1 is "person".
        annotation_ids: N ids of the labels, None if missing; written as annotation_id, which COCO's tools ignore.

    Returns:
        The number of people written.

    Raises:
        ValueError: shapes that do not agree.
        OSError: the file cannot be written.
    """
    places, certainty = _checked(points, scores, None)
    if len(image_ids) != len(places):
        raise ValueError(f"image_ids must have one id per person, got {len(image_ids)} for {len(places)} people")
    categories = [category_id] * len(places) if isinstance(category_id, int | str) else list(category_id)
    labels = [None] * len(places) if annotation_ids is None else list(annotation_ids)
    for name, given in (("category_id", categories), ("annotation_ids", labels)):
        if len(given) != len(places):
            raise ValueError(f"{name} must have one id per person, got {len(given)} for {len(places)} people")
    results = []
    known = np.asarray(np.isfinite(places).all(axis=-1))
    for index in map(int, np.flatnonzero(np.asarray(known).any(axis=1))):
        seen = known[index]
        triples = np.where(seen[:, None], np.column_stack([places[index], seen]), 0.0)
        usable = np.zeros(0) if certainty is None else certainty[index][seen & np.isfinite(certainty[index])]
        result = {
            "image_id": _plain(image_ids[index]),
            "category_id": _plain(categories[index]),
            "keypoints": [int(v) if i % 3 == 2 else round(float(v), 3) for i, v in enumerate(triples.ravel())],
            "score": round(float(usable.mean()), 6) if usable.size else 1.0,
        }
        own = labels[index]
        results.append(result if own is None else {**result, "annotation_id": _plain(own)})
    text = json.dumps(results, allow_nan=False)
    atomic_write(Path(path), lambda file: file.write(text.encode()))
    return len(results)


def _plain(key: Any) -> int | str:
    return key if isinstance(key, str) else int(key)


def _checked(
    points: npt.ArrayLike, scores: npt.ArrayLike | None, joints: int | None
) -> tuple[Float64Array, Float64Array | None]:
    places = np.asarray(points, dtype=np.float64)
    if places.ndim != 3 or places.shape[2] != 2 or joints not in (None, places.shape[1]):
        raise ValueError(f"points must have shape (N, {joints or 'K'}, 2), got {places.shape}")
    if scores is None:
        return places, None
    certainty = np.asarray(scores, dtype=np.float64)
    if certainty.shape != places.shape[:2]:
        raise ValueError(f"scores must have shape {places.shape[:2]} for these points, got {certainty.shape}")
    return places, certainty


def _whole(name: str, given: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    values = np.asarray(given, dtype=np.float64)  # MPII's own lists hold whole numbers as floats
    if values.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one number per person, got {values.shape}")
    wrong = ~((values >= 1) & (values < 2**31) & (values == np.rint(values)))
    if wrong.any():
        raise ValueError(f"{name} must hold whole numbers from 1; it holds {values[wrong][0]:g}")
    return values.astype(np.int64)


def _optional(name: str, given: npt.ArrayLike | None, shape: tuple[int, ...]) -> Float64Array | None:
    if given is None:
        return None
    values = np.asarray(given, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {values.shape}")
    return values


def _structure(**fields: Any) -> npt.NDArray[Any]:
    """A 1 x 1 structure of MATLAB's."""
    structure = np.zeros((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        structure[0, 0][name] = value if isinstance(value, np.ndarray) else np.array([[value]])
    return structure


def _annopoints(points: Float64Array) -> npt.NDArray[Any]:
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not known.size:
        return np.zeros((0, 0))
    point = np.zeros((1, len(known)), dtype=[("x", object), ("y", object), ("id", object)])
    for place, joint in enumerate(known):
        x, y = points[joint] + 1
        point[0, place] = (np.array([[x]]), np.array([[y]]), np.array([[float(joint)]]))
    return _structure(point=point)


def _person(image: int, person: int, rectangle: Any) -> MpiiPerson:
    points = np.full((len(MPII), 2), np.nan)
    for point in rectangle["annopoints"][0, 0]["point"].ravel():
        joint = int(point["id"].item())
        if joint < 0:
            raise IndexError(joint)
        points[joint] = point["x"].item() - 1.0, point["y"].item() - 1.0
    objpos, scale = None, None
    names = rectangle.dtype.names
    if "objpos" in names and rectangle["objpos"].dtype.names:
        place = rectangle["objpos"][0, 0]
        objpos = np.array([place["x"].item() - 1.0, place["y"].item() - 1.0])
    if "scale" in names and rectangle["scale"].size:
        scale = float(rectangle["scale"].item())
    return MpiiPerson(image, person, points, objpos, scale)
