"""Classifiers by name."""

from __future__ import annotations

import re

from .classifier_base import Classifier
from .resnext import resnext
from .wide_resnet import wide_resnet

_WIDE = re.compile(r"wrn-(\d{1,4})-(\d{1,3})(-pyramid)?")
_RESNEXT = re.compile(r"resnext-(\d{1,4})-(\d{1,3})x(\d{1,4})d(-pyramid)?")


def classifier(name: str, *, classes: int = 10) -> Classifier:
    """The classifier of a name.

    Args:
        name: ``"wrn-DEPTH-WIDTH"`` or ``"resnext-DEPTH-CARDINALITYxWIDTHd"``, each with ``"-pyramid"`` after it
            for a pyramid in every block: ``"wrn-28-10-pyramid"``, ``"wrn-16-2"``, ``"resnext-29-8x64d"``.
        classes: number of outputs.

    Raises:
        ValueError: no such name, or a network that cannot be built.
    """
    if found := _WIDE.fullmatch(str(name)):
        depth, width = int(found[1]), int(found[2])
        return wide_resnet(depth, width, pyramid=found[3] is not None, classes=classes)
    if found := _RESNEXT.fullmatch(str(name)):
        depth, cardinality, width = int(found[1]), int(found[2]), int(found[3])
        return resnext(depth, cardinality, width, pyramid=found[4] is not None, classes=classes)
    raise ValueError(
        f"model is {name!r}; accepted are wrn-DEPTH-WIDTH and resnext-DEPTH-CARDINALITYxWIDTHd, with or without "
        "-pyramid, such as wrn-28-10-pyramid or resnext-29-8x64d"
    )
