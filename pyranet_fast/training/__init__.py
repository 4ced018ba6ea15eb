"""Training: one loop, atomic checkpoints, logs and plots."""

from __future__ import annotations
