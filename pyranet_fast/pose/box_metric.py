"""PCK in units of the person's box, for skeletons of which no other length is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyranet_fast.pose.conventions import Convention
from pyranet_fast.pose.metrics import Score, checked, score_errors
from pyranet_fast.pose.sides import split_side
from pyranet_fast.pose.skeleton import Skeleton


def pck_box(
    predictions: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    box_size: npt.ArrayLike,
    visible: npt.ArrayLike | None,
    skeleton: Skeleton,
    threshold: float = 0.05,
    *,
    image_size: npt.ArrayLike | None = None,
) -> Score:
    """PCK of any skeleton: a joint is right where error / box_size <= ``threshold``.

    Args:
        predictions: (N, K, 2), x and y in image pixels. A NaN is a wrong answer.
        ground_truth: (N, K, 2), in the same pixels.
        box_size: (N,), the longer side of each person's box, in the same pixels. People whose box has no size are
            left out, counted in ``settings["left_out"]``.
        visible: (N, K), true where labelled; None means everywhere.
        skeleton: meaning of the K joints. A flip pair is one column, called by the joints' name without the side,
            the mean of the two; any other joint is a column of its own.
        threshold: fraction of ``box_size``.
        image_size: as for ``pckh``.

    Returns:
        A Score in percent; its mean is over all K joints, each weighing the same however often it is labelled.

    Raises:
        ValueError: wrong shapes, N = 0, or a threshold that is not positive.
    """
    convention = box_convention(skeleton)
    predicted, truth, seen = checked(predictions, ground_truth, visible, threshold, convention)
    size = np.asarray(box_size, dtype=np.float64)
    if size.shape != (len(truth),):
        raise ValueError(f"box_size has shape {size.shape}; it must be ({len(truth)},), one length per person")
    length = np.where(np.isfinite(size) & (size > 0), size, np.nan)
    settings = {
        "threshold": threshold,
        "comparison": "error <= threshold * box_size",
        "box_size": "longer side of the person's box",
        "mean": convention.mean,
    }
    return score_errors(predicted, truth, seen, length, "no box", threshold, convention, settings, image_size)


def box_convention(skeleton: Skeleton) -> Convention:
    """How PCK in units of the box is read for a skeleton."""
    return Convention(
        metric="PCK-box",
        skeleton=skeleton,
        unit="longer sides of the box",
        columns=columns_of(skeleton),
        in_mean=tuple(range(len(skeleton))),
        mean=f"unweighted over {len(skeleton)} joints",
        strict=False,
        usual=0.05,
        fine=0.02,
    )


def columns_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Columns of a table, in the joints' order: name and the joints that are averaged."""
    partner = {index: pair for pair in skeleton.flip_pairs for index in pair}
    columns: dict[str, tuple[int, ...]] = {}
    for index, joint in enumerate(skeleton.joints):
        pair = partner.get(index, (index,))
        if index != min(pair):
            continue
        bare = split_side(joint)[1] if len(pair) == 2 else joint
        bare = bare or joint
        name = bare if bare not in columns else joint  # an unpaired "ear" beside "left ear" and "right ear"
        columns[name] = tuple(sorted(pair))
    return columns
