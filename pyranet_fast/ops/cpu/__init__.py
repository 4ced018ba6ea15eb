"""Fusions for the CPU that the network's modules use where `policy` says so; no part of the public interface."""
