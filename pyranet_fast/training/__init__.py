"""Training: one loop, atomic checkpoints, logs and pictures."""
