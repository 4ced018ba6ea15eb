"""The studies behind `python -m pyranet_fast.ablate`."""

from __future__ import annotations
