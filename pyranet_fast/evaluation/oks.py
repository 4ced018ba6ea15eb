"""COCO's average precision by object keypoint similarity, computed by COCO's own tool, pycocotools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.dataset import PeopleSource
from ..errors import UserError

KEYS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The figures in COCO's order: precision and recall over thresholds 0.5 to 0.95, at two of them, by size."""


def oks_unavailable(people: PeopleSource) -> str | None:
    """Return why COCO's average precision is not available for these people, or None."""
    if people.record(0).box is None:
        return "these people are not from a COCO file"
    if people.metric.oks_sigmas is None:
        return "the constants of its similarity are not known for these joints: give the category a field sigmas"
    if importlib.util.find_spec("pycocotools") is None:
        return "it needs pycocotools: pip install pyranet-fast[coco]"
    return None


def oks_precision(people: PeopleSource, points: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, float]:
    """Score predictions as COCO does.

    People are predicted in their labeled boxes, so results compare with those published "with ground-truth boxes". The
    score of a person is the mean over joints. People left out of the dataset are ignored.

    Args:
        people: from a COCO file, or packed from one.
        points: (N, K, 2), 0-based pixels of the published images; a person with only NaN has no prediction.
        scores: (N, K).

    Returns:
        Values, 0 to 1, by the names of ``KEYS``; NaN without people of that size.

    Raises:
        UserError: not available for these people, see ``oks_unavailable``.
    """
    why = oks_unavailable(people)
    if why is not None:
        raise UserError(f"{people.name}: no average precision: {why}")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = _truth(people)
    results = _results(people, np.asarray(points, dtype=np.float64), np.asarray(scores, dtype=np.float64))
    if not results:
        return dict.fromkeys(KEYS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(people.metric.oks_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # COCO says -1 where there is nothing to count.
    return {
        key: float(value) if value >= 0 else float("nan") for key, value in zip(KEYS, evaluation.stats, strict=True)
    }


def _numbered(people: PeopleSource) -> tuple[dict[Any, int], dict[Any, int]]:
    """Numbers from 1 for the ids of images and of categories, which COCO's tool wants to be numbers."""
    records = [people.record(index) for index in range(len(people))]
    images = dict.fromkeys(record.image_id for record in records)
    categories = dict.fromkeys(record.category_id for record in records)
    return {key: n for n, key in enumerate(images, 1)}, {key: n for n, key in enumerate(categories, 1)}


def _truth(people: PeopleSource) -> dict[str, Any]:
    images, categories = _numbered(people)
    annotations = []
    for index in range(len(people)):
        record, person = people.record(index), people.person(index)
        assert record.box is not None
        joints = people.to_original(index, person.joints)
        keypoints = np.where(person.labeled[:, None], np.column_stack([joints, 2 * person.labeled]), 0.0)
        annotations.append(
            {
                "id": index + 1,
                "image_id": images[record.image_id],
                "category_id": categories[record.category_id],
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int(person.labeled.sum()),
                "bbox": list(record.box),
                "area": record.box[2] * record.box[3] if record.area is None else record.area,
                "iscrowd": 0,
            }
        )
    return {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number, "name": str(key)} for key, number in categories.items()],
        "annotations": annotations,
    }


def _results(
    people: PeopleSource, points: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> list[dict[str, Any]]:
    images, categories = _numbered(people)
    results = []
    for index in range(len(people)):
        known = np.isfinite(points[index]).all(axis=1)
        if known.any():
            record = people.record(index)
            keypoints = np.where(known[:, None], np.column_stack([points[index], known]), 0.0)
            usable = scores[index][known & np.isfinite(scores[index])]
            results.append(
                {
                    "image_id": images[record.image_id],
                    "category_id": categories[record.category_id],
                    "keypoints": keypoints.ravel().tolist(),
                    "score": float(usable.mean()) if usable.size else 1.0,
                }
            )
    return results
