"""Networks and their complexity."""

from __future__ import annotations

from .classifiers import Classifier, ResNeXt, WideResNet, classifier, resnext, wide_resnet
from .complexity import Complexity, complexity
from .exportable import ExportablePyraNet, exportable
from .optimized import InferencePyraNet, optimize_for_inference
from .optimized.graphs import GraphedInference
from .pyranet import VARIANTS, PyraNet
from .zoo import Available, available

__all__ = [
    "VARIANTS",
    "Available",
    "Classifier",
    "Complexity",
    "ExportablePyraNet",
    "GraphedInference",
    "InferencePyraNet",
    "PyraNet",
    "ResNeXt",
    "WideResNet",
    "available",
    "classifier",
    "complexity",
    "exportable",
    "optimize_for_inference",
    "resnext",
    "wide_resnet",
]
