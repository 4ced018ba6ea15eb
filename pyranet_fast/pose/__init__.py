"""Skeletons and metrics of human pose estimation."""

from pyranet_fast.pose.metrics import Score, pck, pckh
from pyranet_fast.pose.skeleton import LSP, MPII, SKELETONS, Skeleton, resolve_skeleton

__all__ = ["LSP", "MPII", "SKELETONS", "Score", "Skeleton", "pck", "pckh", "resolve_skeleton"]
