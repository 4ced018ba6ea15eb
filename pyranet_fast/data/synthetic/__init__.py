"""Procedurally rendered people: the dataset that needs no download."""

from __future__ import annotations

from .source import SyntheticSource

__all__ = ["SyntheticSource"]
