"""Networks, and what they cost."""

from .complexity import Complexity, complexity
from .pyranet import PyraNet
from .units import VARIANTS

__all__ = ["VARIANTS", "Complexity", "PyraNet", "complexity"]
