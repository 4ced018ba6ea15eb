"""Benchmarks against native PyTorch in the same run: `make bench`."""
