"""Throughput beside native PyTorch, in the same run: `make bench`."""
