"""Networks, and what they cost."""

from .classifier_base import Classifier
from .classifiers import classifier
from .complexity import Complexity, complexity
from .graphs import GraphedInference
from .inference import InferencePyraNet, optimize_for_inference
from .pyranet import PyraNet
from .resnext import ResNeXt, resnext
from .shipped import Available, available
from .units import VARIANTS
from .wide_resnet import WideResNet, wide_resnet

__all__ = [
    "VARIANTS",
    "Available",
    "Classifier",
    "Complexity",
    "GraphedInference",
    "InferencePyraNet",
    "PyraNet",
    "ResNeXt",
    "WideResNet",
    "available",
    "classifier",
    "complexity",
    "optimize_for_inference",
    "resnext",
    "wide_resnet",
]
