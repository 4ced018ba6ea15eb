"""Skeletons and metrics of human pose estimation."""

from pyranet_fast.pose.conventions import relative_errors
from pyranet_fast.pose.curves import Curve, auc, pck_curve
from pyranet_fast.pose.metrics import Score, pck, pckh
from pyranet_fast.pose.skeleton import LSP, MPII, SKELETONS, Skeleton, resolve_skeleton

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
