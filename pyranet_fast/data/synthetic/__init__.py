"""Procedurally rendered people: the data set that needs no download."""

from pyranet_fast.data.synthetic.source import SyntheticSource

__all__ = ["SyntheticSource"]
