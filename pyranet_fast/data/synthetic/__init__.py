"""Procedurally rendered people, a dataset without a download."""

from __future__ import annotations

from .source import SyntheticSource

__all__ = ["SyntheticSource"]
