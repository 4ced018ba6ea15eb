"""Training: one loop, atomic checkpoints, logs and pictures."""

from __future__ import annotations
