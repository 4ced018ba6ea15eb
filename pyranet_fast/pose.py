"""Public names of skeletons and metrics: ``pf.pose.pck``, ``pf.pose.pckh``, ``pf.pose.Skeleton`` and theirs."""

from .evaluation.curves import Curve, auc, pck_curve
from .keypoints import LSP, MPII, SKELETONS, Skeleton, resolve_skeleton
from .metrics import Score, pck, pckh, relative_errors

__all__ = [
    "LSP",
    "MPII",
    "SKELETONS",
    "Curve",
    "Score",
    "Skeleton",
    "auc",
    "pck",
    "pck_curve",
    "pckh",
    "relative_errors",
    "resolve_skeleton",
]
